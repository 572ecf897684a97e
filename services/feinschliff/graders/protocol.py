"""What every grader has, those that decide by themselves and those that ask."""

from __future__ import annotations

from typing import Protocol, TypeGuard, runtime_checkable

from feinschliff.graders.grade import Grade, Item, Sample
from feinschliff.graders.outside import Outside
from feinschliff.graders.spec import Spec


@runtime_checkable
class Grader(Protocol):
    """Grades an answer; see `Pure` and `Asking` for how.

    A grade passes where its value is at least `pass_threshold`. `is_binary` says that values are 0 or 1 only, which
    decides the statistics: exact ones for proportions, resampling for means.
    """

    @property
    def type(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def is_binary(self) -> bool: ...

    @property
    def pass_threshold(self) -> float: ...

    def spec(self) -> Spec:
        """The whole definition with defaults filled in; `parse` of it gives an equal grader."""
        ...


@runtime_checkable
class Pure(Grader, Protocol):
    """The same item and sample give the same grade, and nothing is called out to."""

    def grade(self, item: Item, sample: Sample) -> Grade: ...


@runtime_checkable
class Asking(Grader, Protocol):
    """Asks a model or a server before it grades."""

    async def ask(self, item: Item, sample: Sample, outside: Outside) -> Grade: ...


def is_pure(grader: Grader) -> TypeGuard[Pure]:
    return hasattr(grader, "grade")


def is_asking(grader: Grader) -> TypeGuard[Asking]:
    """By its one method: checking a whole protocol costs as much as a grade."""
    return hasattr(grader, "ask")


async def put(grader: Grader, item: Item, sample: Sample, outside: Outside) -> Grade:
    """The grade of any grader."""
    if is_pure(grader):
        return grader.grade(item, sample)
    assert is_asking(grader)
    return await grader.ask(item, sample, outside)
