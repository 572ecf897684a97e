"""The sample that ships here is what its page says: balanced, in two languages, and cleanly divided."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from feinschliff.cli import demo_steps
from feinschliff.cli.demo_steps import QUESTION_ROW, Row, sample

INTENTS = {"refund", "delivery", "login", "invoice", "cancel", "defect", "change", "praise"}
ROWS = {"train": 665, "test": 64}
GERMAN = re.compile(r"\b(ich|mein|meine|bitte|nicht|die|der|das|Sie|und|ist|wo|wann|Ihr|eine?)\b|[äöüß]", re.IGNORECASE)


def said(row: Row) -> str:
    """The message without what does not count as a difference."""
    return re.sub(r"\W+", " ", row.question).strip().casefold()


def words(row: Row) -> set[str]:
    return set(said(row).split())


@pytest.mark.parametrize("name", list(ROWS))
def test_each_file_has_its_rows_and_every_intent_its_share(name: str) -> None:
    rows = sample(name)
    counts = Counter(row.answer for row in rows)
    assert len(rows) == ROWS[name]
    assert set(counts) == INTENTS
    assert min(counts.values()) >= 0.8 * len(rows) / len(INTENTS)
    assert max(counts.values()) <= 1.2 * len(rows) / len(INTENTS)


@pytest.mark.parametrize("name", list(ROWS))
def test_both_languages_are_there(name: str) -> None:
    rows = sample(name)
    german = sum(1 for row in rows if GERMAN.search(row.question))
    assert 0.2 * len(rows) <= german <= 0.8 * len(rows)


def test_no_message_stands_twice_and_none_in_both_files() -> None:
    messages = [said(row) for name in ROWS for row in sample(name)]
    assert len(set(messages)) == len(messages) == sum(ROWS.values())


def test_no_held_back_message_is_a_trained_one_in_other_words() -> None:
    for held in sample("test"):
        for trained in sample("train"):
            shared = len(words(held) & words(trained)) / len(words(held) | words(trained))
            assert shared < 0.7, (held.question, trained.question)


def test_the_instructions_are_the_same_everywhere_and_name_every_intent() -> None:
    [instructions] = {row.system for name in ROWS for row in sample(name)}
    assert all(intent in instructions for intent in INTENTS)


def test_the_demo_asks_about_rows_that_it_held_back() -> None:
    assert ROWS["test"] > QUESTION_ROW
    assert demo_steps.RECIPE.output_model == demo_steps.MODEL
