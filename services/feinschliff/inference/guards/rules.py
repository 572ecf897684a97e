"""What a guard looks for, as rules that read a text; made once for each guard and kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from feinschliff.detectors import injection, personal, secrets, words
from feinschliff.detectors.rule import Rule, rule_of
from feinschliff.detectors.size import SizeRule
from feinschliff.inference.guards.guard import (
    Injection,
    Kind,
    Model,
    Patterns,
    PersonalData,
    Secrets,
    Size,
    Topics,
    Words,
)

GUARDS_KEPT = 1024
PATTERNS_KEPT = 4096


@lru_cache(maxsize=GUARDS_KEPT)
def rules_of(kind: Kind) -> Sequence[Rule]:
    """The rules of a guard that reads a text alone; none of one that asks a model.

    Raises:
        PatternError: what `bounds` would have refused.
    """
    match kind:
        case Patterns():
            return tuple(pattern_rule(pattern, f"pattern_{place}") for place, pattern in enumerate(kind.patterns))
        case PersonalData():
            return _chosen(personal.RULES, kind.kinds)
        case Secrets():
            return _chosen(secrets.RULES, kind.kinds or secrets.KINDS)
        case Injection():
            return _chosen(injection.SETS, kind.sets or injection.NAMES)
        case Words():
            own = (words_rule(kind.words),) if kind.words else ()
            return (*own, *map(_list_rule, kind.lists))
        case Topics():
            return tuple(words_rule(topic.words, topic.name) for topic in kind.deny)
        case Size():
            return (SizeRule(kind.characters_max),)
        case Model():
            return ()


@lru_cache(maxsize=GUARDS_KEPT)
def allowing(kind: Topics) -> Sequence[Rule]:
    """The rules of which one must find something."""
    return tuple(words_rule(topic.words, topic.name) for topic in kind.allow)


@lru_cache(maxsize=PATTERNS_KEPT)
def pattern_rule(pattern: str, name: str = "pattern_0") -> Rule:
    """Raises PatternError."""
    return rule_of(name, pattern)


@lru_cache(maxsize=GUARDS_KEPT)
def words_rule(given: tuple[str, ...], name: str = "words") -> Rule:
    """Raises PatternError."""
    return words.words_rule(name, given)


@lru_cache
def _list_rule(name: str) -> Rule:
    return words.list_rule(name)


def stand_in(kind: Kind, rule: str) -> str:
    """What stands where a hit of the rule stood."""
    match kind:
        case PersonalData() | Secrets():
            return f"[{rule.upper()}]"
        case Size():
            return ""
    return "[MASKED]"


def _chosen(rules: Mapping[str, Iterable[Rule]], names: Iterable[str]) -> Sequence[Rule]:
    return tuple(rule for name in dict.fromkeys(names) for rule in rules[name])
