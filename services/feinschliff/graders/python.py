"""A function of the user's grades, run where it can harm nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from feinschliff.graders.grade import Fault, Grade, Item, Sample, ungraded
from feinschliff.graders.outside import Outside
from feinschliff.graders.spec import PASS_THRESHOLD_DEFAULT, Spec, SpecReader, refused
from feinschliff.sandbox.call import (
    SOURCE_BYTES_MAX,
    TIMEOUT_SECONDS_DEFAULT,
    TIMEOUT_SECONDS_MAX,
    Call,
    Outcome,
)
from feinschliff.sandbox.call import Fault as SandboxFault

_IMAGE_CHARACTERS_MAX = 100
_TINY = 1e-3


@dataclass(frozen=True)
class Python:
    """Grades by what `grade(sample, item)` returns, clipped to 0 to 1."""

    type: ClassVar[str] = "python"
    is_binary: ClassVar[bool] = False

    name: str
    source: str
    image_tag: str
    pass_threshold: float
    timeout_seconds: float

    @classmethod
    def from_spec(cls, reader: SpecReader) -> Self:
        reader.only("name", "source", "image_tag", "pass_threshold", "timeout_seconds")
        return cls(
            name=reader.name(),
            source=_source(reader),
            image_tag=reader.text("image_tag", "", characters_max=_IMAGE_CHARACTERS_MAX),
            pass_threshold=reader.fraction("pass_threshold", PASS_THRESHOLD_DEFAULT),
            timeout_seconds=reader.number("timeout_seconds", TIMEOUT_SECONDS_DEFAULT, _TINY, TIMEOUT_SECONDS_MAX),
        )

    def spec(self) -> Spec:
        return {
            "type": self.type,
            "name": self.name,
            "source": self.source,
            **({"image_tag": self.image_tag} if self.image_tag else {}),
            "pass_threshold": self.pass_threshold,
            "timeout_seconds": self.timeout_seconds,
        }

    async def ask(self, item: Item, sample: Sample, outside: Outside) -> Grade:
        call = Call(self.source, sample.values, item, self.image_tag, self.timeout_seconds)
        return self._graded(await outside.run(call))

    def _graded(self, outcome: Outcome) -> Grade:
        if outcome.value is None:
            fault = Fault.SANDBOX if outcome.fault is SandboxFault.SANDBOX else Fault.PYTHON
            return ungraded(fault, outcome.reason())
        value = min(max(outcome.value, 0.0), 1.0)
        why = f"{outcome.reason()}; passes from {self.pass_threshold:g}"
        return Grade(value, why, raw=None if value == outcome.value else outcome.value)


def _source(reader: SpecReader) -> str:
    source = reader.text("source", characters_max=SOURCE_BYTES_MAX)
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > SOURCE_BYTES_MAX:
        message = f"'source' has {size} bytes; at most {SOURCE_BYTES_MAX} are run."
        raise refused("GRADER_FIELD_TOO_LONG", reader.field("source"), message, name="source", bytes=size)
    if not source.strip():
        message = "'source' must define grade(sample, item); it is empty."
        raise refused("GRADER_FIELD_MISSING", reader.field("source"), message, name="source")
    return source
