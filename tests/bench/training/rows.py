"""Rows to measure with: GSM8K and BANKING77 where they lie beside the repository, else made up in their lengths."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from feinschliff.formats.records import Message, Record

WORDS = (
    "order invoice parcel refund account password please since yesterday cannot find the number which I was promised "
    "and my delivery came late so could you tell me how to change address or payment method thank you very much again"
)
LABELS = (
    "card arrival",
    "card not working",
    "cash withdrawal charge",
    "exchange rate",
    "lost or stolen card",
    "top up",
)
# Words of question and answer, least and most.
LENGTHS = {"gsm8k": ((20, 70), (30, 130)), "banking77": ((5, 20), (2, 5))}


def chat_rows(workload: str, folder: Path, count: int) -> Iterator[Record]:
    """The first `count` conversations of a workload, always the same ones in the same order."""
    for line, (question, answer) in enumerate(islice(_pairs(workload, folder), count), start=1):
        messages = [Message(role="user", content=question), Message(role="assistant", content=answer)]
        yield Record(messages=messages, line=line)


def is_made_up(workload: str, folder: Path) -> bool:
    return not _file(workload, folder).is_file()


def _pairs(workload: str, folder: Path) -> Iterator[tuple[str, str]]:
    if is_made_up(workload, folder):
        yield from _made_up(workload)
    elif workload == "gsm8k":
        for line in _file(workload, folder).read_text("utf-8").splitlines():
            row = json.loads(line)
            yield row["question"], row["answer"]
    else:
        with _file(workload, folder).open(encoding="utf-8", newline="") as file:
            rows = [(row["text"], row["label"].replace("_", " ")) for row in csv.DictReader(file)]
        # The file is sorted by class; a batch is to hold several.
        yield from random.Random(0).sample(rows, len(rows))


def _file(workload: str, folder: Path) -> Path:
    return folder / {"gsm8k": "gsm8k_train.jsonl", "banking77": "banking77_train.csv"}[workload]


def _made_up(workload: str) -> Iterator[tuple[str, str]]:
    dice = random.Random(0)
    words = WORDS.split()
    asked, answered = LENGTHS[workload]
    while True:
        question = " ".join(dice.choices(words, k=dice.randint(*asked)))
        label = dice.choice(LABELS)
        yield question, label if workload == "banking77" else " ".join(dice.choices(words, k=dice.randint(*answered)))
