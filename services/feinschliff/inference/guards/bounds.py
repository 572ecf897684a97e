"""What guards may ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from feinschliff.detectors import injection, personal, secrets, words
from feinschliff.detectors.rule import PatternError
from feinschliff.inference.guards.guard import (
    Action,
    Guard,
    Injection,
    Model,
    Patterns,
    PersonalData,
    Secrets,
    Size,
    Stage,
    Topic,
    Topics,
    Words,
)
from feinschliff.inference.guards.rules import pattern_rule, words_rule
from feinschliff.kit.errors import FieldViolation

GUARDS_MAX = 16
NAME_CHARACTERS_MAX = 64
PATTERNS_MAX, PATTERN_CHARACTERS_MAX = 1000, 1024
WORDS_MAX, WORD_CHARACTERS_MAX = 1000, 64
TOPICS_MAX = 64
LABELS_MAX = 64
SIZE_CHARACTERS_MAX = 10_000_000
_TOPIC_NAME = re.compile(r"[a-z0-9_]{1,64}")

Require = Callable[[bool, str, str], bool]
"""Whether it is fine, field, what it must be -> whether it is fine; what is not is noted."""


def guard_violations(guards: Sequence[Guard], path: str, project: str = "") -> list[FieldViolation]:
    """Every field of guards that is never valid, with its path.

    Args:
        project: whose models they may ask; empty where that is not known.
    """
    wrong: list[FieldViolation] = []
    if len(guards) > GUARDS_MAX:
        wrong.append(_out_of_range(path, f"There may be at most {GUARDS_MAX} guards, not {len(guards)}."))
    names = [guard.name for guard in guards]
    for place, guard in enumerate(guards[:GUARDS_MAX]):
        here = f"{path}[{place}]"
        if not 1 <= len(guard.name) <= NAME_CHARACTERS_MAX or names.index(guard.name) != place:
            rule = f"A guard's name must have 1 to {NAME_CHARACTERS_MAX} characters, and be the only one of its list."
            wrong.append(_out_of_range(f"{here}.name", rule))
        wrong += _of_kind(guard, f"{here}.{guard.of.kind}", project)
    return wrong


def _of_kind(guard: Guard, path: str, project: str) -> list[FieldViolation]:
    wrong: list[FieldViolation] = []

    def require(fine: bool, field: str, rule: str) -> bool:
        if not fine:
            wrong.append(_out_of_range(f"{path}.{field}", f"{field} must be {rule}."))
        return fine

    match guard.of:
        case Patterns() as of:
            require(1 <= len(of.patterns) <= PATTERNS_MAX, "patterns", f"1 to {PATTERNS_MAX}, not {len(of.patterns)}")
            for place, pattern in enumerate(of.patterns[:PATTERNS_MAX]):
                wrong += _pattern(pattern, f"{path}.patterns[{place}]")
        case PersonalData() as of:
            _known(of.kinds, personal.KINDS, "kinds", require)
            require(bool(of.kinds), "kinds", "at least one")
        case Secrets() as of:
            _known(of.kinds, secrets.KINDS, "kinds", require)
        case Injection() as of:
            _known(of.sets, injection.NAMES, "sets", require)
        case Words() as of:
            require(bool(of.words or of.lists), "words", "given where no list is")
            _words(of.words, "words", require)
            _known(of.lists, words.NAMES, "lists", require)
        case Topics() as of:
            _topics(guard, of, require)
        case Size() as of:
            fits = 1 <= of.characters_max <= SIZE_CHARACTERS_MAX
            require(fits, "characters_max", f"1 to {SIZE_CHARACTERS_MAX}, not {of.characters_max}")
        case Model() as of:
            _model(of, project, require)
    return wrong


def _pattern(pattern: str, path: str) -> list[FieldViolation]:
    if not 1 <= len(pattern) <= PATTERN_CHARACTERS_MAX:
        return [
            _out_of_range(path, f"A pattern must have 1 to {PATTERN_CHARACTERS_MAX} characters, not {len(pattern)}.")
        ]
    try:
        pattern_rule(pattern)
    except PatternError as error:
        return [FieldViolation(path, f"The pattern cannot be used: {error}.", "PATTERN_INVALID")]
    return []


def _known(given: Sequence[str], known: Collection[str], field: str, require: Require) -> None:
    for place, name in enumerate(given):
        require(name in known, f"{field}[{place}]", f"one of {', '.join(known)}, not {name[:40]!r}")


def _words(given: Sequence[str], field: str, require: Require) -> None:
    fits = require(len(given) <= WORDS_MAX, field, f"at most {WORDS_MAX} words, not {len(given)}")
    for place, word in enumerate(given[:WORDS_MAX]):
        stem = word.strip().removesuffix("*").strip()
        is_word = len(word) <= WORD_CHARACTERS_MAX and any(map(str.isalnum, stem))
        rule = f"1 to {WORD_CHARACTERS_MAX} characters with a letter or a digit among them"
        fits &= require(is_word, f"{field}[{place}]", rule)
    if given and fits:
        try:
            words_rule(tuple(given))
        except PatternError as error:
            require(False, field, f"fewer or shorter: {error}")


def _topics(guard: Guard, of: Topics, require: Require) -> None:
    require(bool(of.deny or of.allow), "deny", "given where `allow` is not")
    for field, topics in (("deny", of.deny), ("allow", of.allow)):
        require(len(topics) <= TOPICS_MAX, field, f"at most {TOPICS_MAX} topics, not {len(topics)}")
        for place, topic in enumerate(topics[:TOPICS_MAX]):
            _topic(topic, f"{field}[{place}]", require)
    if of.allow:
        require(guard.stages == {Stage.INPUT}, "allow", "left out, unless `stage` is STAGE_INPUT")
        require(guard.action is not Action.MASK, "allow", "left out where `action` is ACTION_MASK: nothing is replaced")


def _topic(topic: Topic, path: str, require: Require) -> None:
    require(_TOPIC_NAME.fullmatch(topic.name) is not None, f"{path}.name", "1 to 64 of a-z, 0-9 and _")
    require(bool(topic.words), f"{path}.words", "at least one")
    _words(topic.words, f"{path}.words", require)


def _model(of: Model, project: str, require: Require) -> None:
    require(bool(of.model), "model", "what a call may name as its model")
    is_ours = not of.model.startswith("projects/") or not project or of.model.split("/")[1] == project
    require(is_ours, "model", f"one of project {project}")
    require(1 <= len(of.labels) <= LABELS_MAX, "labels", f"1 to {LABELS_MAX}, not {len(of.labels)}")
    for place, label in enumerate(of.labels[:LABELS_MAX]):
        require(bool(label.strip()), f"labels[{place}]", "a class or a word")
    require(0 <= of.threshold <= 1, "threshold", f"0 to 1, not {of.threshold:g}")


def _out_of_range(field: str, text: str) -> FieldViolation:
    return FieldViolation(field, text, "OUT_OF_RANGE")
