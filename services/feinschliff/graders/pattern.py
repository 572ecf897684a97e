"""Does a pattern match the text, and capture what it should?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

from feinschliff.detectors.rule import PatternError, compiled
from feinschliff.graders.grade import Grade, Item, Sample, quoted
from feinschliff.graders.spec import ANSWER, TEXT_CHARACTERS_MAX, Spec, SpecReader, refused
from feinschliff.graders.template import Template, Unresolved, unresolved


@dataclass(frozen=True)
class Regex:
    """Grades 1.0 or 0.0; passed at 1.0. Patterns are RE2's: time grows with the text and never explodes."""

    type: ClassVar[str] = "regex"
    is_binary: ClassVar[bool] = True
    pass_threshold: ClassVar[float] = 1.0

    name: str
    input: Template
    pattern: str
    reference: Template | None
    full_match: bool
    ignore_case: bool

    @classmethod
    def from_spec(cls, reader: SpecReader) -> Self:
        reader.only("name", "input", "pattern", "reference", "full_match", "ignore_case")
        made = cls(
            name=reader.name(),
            input=reader.template("input", ANSWER),
            pattern=reader.text("pattern", characters_max=TEXT_CHARACTERS_MAX),
            reference=reader.template("reference") if reader.has("reference") else None,
            full_match=reader.flag("full_match"),
            ignore_case=reader.flag("ignore_case"),
        )
        try:
            made._compile()
        except PatternError as error:
            message = f"RE2 does not take the pattern: {error}."
            raise refused(
                "GRADER_PATTERN_INVALID", reader.field("pattern"), message, pattern=made.pattern[:200]
            ) from None
        return made

    @cached_property
    def _automaton(self) -> Any:
        return self._compile()

    def _compile(self) -> Any:
        return compiled(f"(?i){self.pattern}" if self.ignore_case else self.pattern)

    def spec(self) -> Spec:
        return {
            "type": self.type,
            "name": self.name,
            "input": self.input.source,
            "pattern": self.pattern,
            **({"reference": self.reference.source} if self.reference else {}),
            "full_match": self.full_match,
            "ignore_case": self.ignore_case,
        }

    def grade(self, item: Item, sample: Sample) -> Grade:
        try:
            text = self.input.render(item, sample)
            reference = None if self.reference is None else self.reference.render(item, sample)
        except Unresolved as error:
            return unresolved(error)
        match = self._last(text)
        if match is None:
            return Grade(0.0, f"{quoted(self.pattern)} does not match {quoted(text)}")
        found = (match.group(1) if match.re.groups else match.group(0)) or ""
        if reference is None:
            return Grade(1.0, f"matches {quoted(match.group(0))}")
        return Grade(float(found == reference), f"{quoted(found)} is matched, {quoted(reference)} is right")

    def _last(self, text: str) -> Any:
        if self.full_match:
            return self._automaton.fullmatch(text)
        last = None
        for match in self._automaton.finditer(text):
            last = match
        return last
