"""What a head over the last token tells: written beside its weights, so that whoever serves it knows what it says."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from feinschliff.formats.base import Stored

HEAD_NAME = "head.safetensors"
HEAD_SETTINGS_NAME = "head.json"


class HeadFacts(Stored):
    """One head: its classes, or the unit of its number, and how a text is brought before it."""

    kind: Literal["classify", "regress"]
    classes: list[str] = Field(default_factory=list, description="In the head's order; empty for a number.")
    multi_label: bool = Field(False, description="Any number of classes is right at once.")
    rows: int = Field(0, ge=0, description="Training rows.")
    rows_by_class: list[int] = Field(default_factory=list, description="Training rows of each class.")
    mean: float = Field(0.0, description="Number = mean + deviation x what the head gives.")
    deviation: float = Field(1.0, gt=0)
    as_chat: bool = Field(False, description="A text is rendered as a user's turn; else its tokens are taken plainly.")
    system: str = Field("", description="The system turn before it, where all training rows had the same.")

    @property
    def outputs(self) -> int:
        return len(self.classes) or 1
