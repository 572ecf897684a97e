"""Which option did the answer choose: read in its text, or by how likely a model finds each?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

from feinschliff.graders.grade import Fault, Grade, Item, Sample, quoted, ungraded
from feinschliff.graders.outside import CannotAsk, Likelihood, Outside
from feinschliff.graders.spec import ANSWER, Spec, SpecReader, refused
from feinschliff.graders.template import Template, Unresolved, parse, unresolved

OPTIONS_MAX = 1000
LIKELIHOOD_OPTIONS_MAX = 100
MODEL_CHARACTERS_MAX = 500
NORMALIZATIONS = ("none", "tokens", "bytes")
_AROUND = " \t\r\n.,:;!?*_`'\"()[]{}<>$"
_SAID = r"(?:answer|antwort|choice|option)(?:\s+(?:is|ist|would\s+be|should\s+be|lautet))?\s*[:=]?"
_OPEN, _CLOSE = r"[\s*_`'\"(\[]{0,6}", r"(?![\w])"


class Reading(NamedTuple):
    """The option that a text chose, or None, and how one knows."""

    option: str | None
    why: str


def read_choice(text: str, options: Sequence[str]) -> Reading:
    """The option that a text chooses.

    In this order: the text is an option; it says "answer: X", "answer is X" or \\boxed{X}, the last time counts; it
    begins with "X)", "X." or "(X)" of an option of one letter; exactly one option stands in it as words of its own.
    Case does not count, but an option of one letter standing in a sentence must be written as it is.
    """
    whole = next((one for one in options if _bare(text) == _bare(one)), None)
    if whole is not None:
        return Reading(whole, "the answer is an option")
    patterns = _patterns(tuple(options))
    said = list(patterns.said.finditer(text))
    if said:
        return Reading(_named(said[-1], options), "the answer says which")
    first = patterns.first.match(text)
    if first:
        return Reading(_named(first, options), "the answer begins with it")
    return _only_one(text, options, patterns.anywhere)


def _only_one(text: str, options: Sequence[str], anywhere: re.Pattern[str]) -> Reading:
    named = {option for match in anywhere.finditer(text) if (option := _standing(match[1], options)) is not None}
    if len(named) == 1:
        return Reading(named.pop(), "it is the only option in the answer")
    return Reading(None, "several options are in the answer" if named else "no option is in the answer")


class _Patterns(NamedTuple):
    said: re.Pattern[str]
    first: re.Pattern[str]
    anywhere: re.Pattern[str]


@lru_cache(maxsize=256)
def _patterns(options: tuple[str, ...]) -> _Patterns:
    longest_first = sorted((one.strip() for one in options), key=len, reverse=True)
    any_option = "|".join(map(re.escape, longest_first))
    letters = "|".join(re.escape(one) for one in longest_first if len(one) == 1) or r"(?!)"
    said = rf"(?:\b{_SAID}|\\boxed\{{){_OPEN}({any_option}){_CLOSE}"
    first = rf"\s*(?:[(\[]({letters})[)\]]|({letters})[.):])(?:\s|$)"
    anywhere = rf"(?<!\w)({any_option}){_CLOSE}"
    return _Patterns(re.compile(said, re.I), re.compile(first, re.I), re.compile(anywhere, re.I))


def _named(match: re.Match[str], options: Sequence[str]) -> str:
    written = next(group for group in match.groups() if group is not None)
    exact = next((one for one in options if one.strip() == written), None)
    return exact or next(one for one in options if one.strip().casefold() == written.casefold())


def _standing(written: str, options: Sequence[str]) -> str | None:
    """The option of words found in a sentence; "a" there is no option A."""
    is_letter = len(written) == 1
    exact = next((one for one in options if one.strip() == written), None)
    if exact is not None or is_letter:
        return exact
    return next((one for one in options if one.strip().casefold() == written.casefold()), None)


def _bare(text: str) -> str:
    return text.strip(_AROUND).casefold()


def right_option(reference: str, options: Sequence[str]) -> str | None:
    """The option that a reference names, blanks and case apart."""
    exact = next((one for one in options if one.strip() == reference.strip()), None)
    return exact or next((one for one in options if one.strip().casefold() == reference.strip().casefold()), None)


def likeliest(options: Sequence[str], found: Sequence[Likelihood], normalization: str) -> int:
    """The place of the option with the largest log-probability, divided as `normalization` says; ties: the first."""
    divisors: Mapping[str, Sequence[int]] = {
        "none": [1] * len(options),
        "tokens": [max(one.tokens, 1) for one in found],
        "bytes": [max(len(option.encode()), 1) for option in options],
    }
    scores = [one.logprob / by for one, by in zip(found, divisors[normalization], strict=True)]
    return max(range(len(scores)), key=scores.__getitem__)


@dataclass(frozen=True)
class Choice:
    """Grades 1.0 or 0.0 by the text; passed at 1.0."""

    type: ClassVar[str] = "choice"
    is_binary: ClassVar[bool] = True
    pass_threshold: ClassVar[float] = 1.0

    name: str
    input: Template
    reference: Template
    options: tuple[str, ...]

    def spec(self) -> Spec:
        return {
            "type": self.type,
            "name": self.name,
            "input": self.input.source,
            "reference": self.reference.source,
            "options": list(self.options),
        }

    def grade(self, item: Item, sample: Sample) -> Grade:
        try:
            answer, reference = self.input.render(item, sample), self.reference.render(item, sample)
        except Unresolved as error:
            return unresolved(error)
        right = right_option(reference, self.options)
        if right is None:
            return _no_option(reference)
        option, why = read_choice(answer, self.options)
        if option is None:
            return Grade(None, f"{why}: {quoted(answer)}", Fault.SAMPLE, expected_label=right)
        return _chosen(option, right, why)


@dataclass(frozen=True)
class LikelyChoice:
    """Grades 1.0 or 0.0 by what a model finds likeliest; passed at 1.0."""

    type: ClassVar[str] = "choice"
    is_binary: ClassVar[bool] = True
    pass_threshold: ClassVar[float] = 1.0

    name: str
    input: Template
    reference: Template
    options: tuple[str, ...]
    model: str
    prompt: Template
    normalization: str

    def spec(self) -> Spec:
        likelihood = {"model": self.model, "prompt": self.prompt.source, "normalization": self.normalization}
        return {
            "type": self.type,
            "name": self.name,
            "input": self.input.source,
            "reference": self.reference.source,
            "options": list(self.options),
            "likelihood": likelihood,
        }

    async def ask(self, item: Item, sample: Sample, outside: Outside) -> Grade:
        try:
            prompt, reference = self.prompt.render(item, sample), self.reference.render(item, sample)
        except Unresolved as error:
            return unresolved(error)
        right = right_option(reference, self.options)
        if right is None:
            return _no_option(reference)
        try:
            found = await outside.likelihoods(self.model, prompt, self.options)
        except CannotAsk as error:
            return ungraded(error.fault, str(error))
        best = likeliest(self.options, found, self.normalization)
        return _chosen(self.options[best], right, f"log-probability {found[best].logprob:.3f}")


def from_spec(reader: SpecReader) -> Choice | LikelyChoice:
    reader.only("name", "input", "reference", "options", "likelihood")
    name, answer, reference = reader.name(), reader.template("input", ANSWER), reader.template("reference")
    options = reader.texts("options", 2, OPTIONS_MAX)
    if not reader.has("likelihood"):
        return Choice(name, answer, reference, options)
    if len(options) > LIKELIHOOD_OPTIONS_MAX:
        message = f"By likelihood at most {LIKELIHOOD_OPTIONS_MAX} options are scored; these are {len(options)}."
        raise refused("GRADER_FIELD_RANGE", reader.field("options"), message, name="options", value=len(options))
    inner = SpecReader({"type": reader.type, **reader.mapping("likelihood")}, reader.field("likelihood"))
    inner.only("model", "prompt", "normalization")
    return LikelyChoice(
        name,
        answer,
        reference,
        options,
        model=inner.text("model", "", characters_max=MODEL_CHARACTERS_MAX),
        prompt=parse(inner.text("prompt"), field=inner.field("prompt")),
        normalization=inner.choice("normalization", NORMALIZATIONS, default="none"),
    )


def _chosen(option: str, right: str, why: str) -> Grade:
    told = f"chose {quoted(option)}, {quoted(right)} is right; {why}"
    return Grade(float(option == right), told, label=option, expected_label=right)


def _no_option(reference: str) -> Grade:
    return ungraded(Fault.REFERENCE, f"the reference {quoted(reference)} is none of the options")
