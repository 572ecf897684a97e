"""The row formats that are understood, one reader each, listed by hand."""

from __future__ import annotations

from collections.abc import Mapping

from feinschliff.ingestion.readers.chat import ChatReader
from feinschliff.ingestion.readers.human_assistant import HumanAssistantReader
from feinschliff.ingestion.readers.instruction import InstructionReader
from feinschliff.ingestion.readers.reader import Reader
from feinschliff.ingestion.readers.texts import ClassificationReader, RegressionReader, TextReader

READERS: Mapping[str, type[Reader]] = {
    ChatReader.name: ChatReader,
    InstructionReader.name: InstructionReader,
    HumanAssistantReader.name: HumanAssistantReader,
    ClassificationReader.name: ClassificationReader,
    RegressionReader.name: RegressionReader,
    TextReader.name: TextReader,
}
