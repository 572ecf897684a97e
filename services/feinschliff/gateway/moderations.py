"""Moderation as OpenAI tells it, by lists of words: which categories those can judge, and which stay open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import JsonValue

from feinschliff.gateway.bodies import Body
from feinschliff.gateway.errors import invalid, unsupported
from feinschliff.v1 import inference_pb2 as pb

MODEL = "feinschliff-words"
ASKED_FOR = (MODEL, "omni-moderation-latest", "omni-moderation-2024-09-26", "text-moderation-latest")
TEXTS_MAX = 2048
LISTS: Mapping[str, str | None] = {
    "harassment": "harassment",
    "harassment/threatening": "threat",
    "hate": "hate",
    "hate/threatening": None,
    "illicit": None,
    "illicit/violent": None,
    "self-harm": "self_harm",
    "self-harm/intent": None,
    "self-harm/instructions": None,
    "sexual": "sexual",
    "sexual/minors": None,
    "violence": "violence",
    "violence/graphic": None,
}
"""OpenAI's categories, and the list of words that judges each; None where no list could, and then nothing is said."""


class TextPart(Body):
    type: Literal["text"]
    text: str


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: dict[str, str]


class ModerationBody(Body):
    """`POST /v1/moderations`."""

    input: str | list[str] | list[TextPart | ImagePart]
    model: str = ASKED_FOR[1]

    def texts(self) -> list[str]:
        """What is to be judged, each alone.

        Raises:
            ApiError: 400 for an image, for a model that is none of moderation, and for too many texts.
        """
        if self.model not in ASKED_FOR:
            raise invalid("model", f"Moderation is answered by lists of words: name `{MODEL}`, or leave it out.")
        parts = [self.input] if isinstance(self.input, str) else self.input
        if any(isinstance(part, ImagePart) for part in parts):
            raise unsupported("input", "Images are not judged here: lists of words read texts.")
        if not 1 <= len(parts) <= TEXTS_MAX:
            raise invalid("input", f"1 to {TEXTS_MAX} texts are taken, found {len(parts)}.")
        return [part if isinstance(part, str) else part.text for part in parts if not isinstance(part, ImagePart)]


def to_request(texts: Sequence[str]) -> pb.CheckTextRequest:
    guards = [
        pb.Guard(name=name, words=pb.WordsGuard(lists=[name]), action=pb.Guard.ACTION_BLOCK)
        for name in LISTS.values()
        if name is not None
    ]
    return pb.CheckTextRequest(texts=texts, guards=guards)


def to_result(checked: pb.CheckedText) -> dict[str, JsonValue]:
    """One text's verdict; a category that nothing here can judge is null, not false."""
    found = {one.guard: one.triggered for one in checked.guards}
    judged = {category: None if name is None else found[name] for category, name in LISTS.items()}
    return {
        "flagged": checked.flagged,
        "categories": dict(judged),
        "category_scores": {name: None if verdict is None else float(verdict) for name, verdict in judged.items()},
        "category_applied_input_types": {name: [] if verdict is None else ["text"] for name, verdict in judged.items()},
    }
