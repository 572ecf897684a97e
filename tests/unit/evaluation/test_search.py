"""What a search tries next follows from what was tried, and nothing shown can be taken for a placeholder."""

from __future__ import annotations

from feinschliff.evaluation.optimization.search import (
    Ask,
    HillClimb,
    Miss,
    Pool,
    Tried,
    Try,
    best_of,
    can_be_shown,
    with_examples,
    with_instructions,
)

START = [{"role": "system", "text": "old"}, {"role": "user", "text": "{{ item.q }}"}]
BETTER = [{"role": "system", "text": "new"}, START[1]]
POOL = [Pool({}, f"q{k}", f"a{k}") for k in range(5)]


def test_it_begins_with_the_start_and_goes_on_from_the_best() -> None:
    search = HillClimb(START, 0, 7)
    assert search.next([], [], []) == Try(START)
    tried = [Tried(START, 0.2), Tried(BETTER, 0.5), Tried(START, None), Tried(START, 0.5)]
    assert best_of(tried) == 1
    asked = search.next(tried, [Miss("why?", "so", "wrong")], POOL)
    assert isinstance(asked, Ask)
    assert asked.base == BETTER
    assert "new" in (asked.messages[1].content or "")
    assert "why?" in (asked.messages[1].content or "")
    assert best_of([Tried(START, None)]) is None


def test_with_examples_every_second_prompt_shows_other_ones_and_the_same_seed_the_same() -> None:
    tried = [Tried(START, 0.2)]
    first, again = (HillClimb(START, 3, 7).next(tried, [], POOL) for _ in range(2))
    assert isinstance(first, Try)
    assert first == again
    assert first.messages[0] == START[0]
    assert first.messages[-1] == START[1]
    assert 4 <= len(first.messages) <= 8
    others = [HillClimb(START, 3, seed).next(tried, [], POOL) for seed in range(5)]
    assert any(one != first for one in others)
    assert isinstance(HillClimb(START, 3, 7).next([*tried, Tried(BETTER, 0.1)], [], POOL), Ask)


def test_instructions_and_examples_replace_what_stood_there() -> None:
    assert with_instructions(START, " say {{ item.x }} ")[0] == {"role": "system", "text": "say {  item.x  }"}
    assert with_instructions(START, "  ") == START
    shown = with_examples(with_examples(START, POOL[:2]), POOL[2:3])
    assert [turn["text"] for turn in shown] == ["old", "q2", "a2", "{{ item.q }}"]
    assert not can_be_shown(Pool({}, "{{ x }}", "a"))
    assert not can_be_shown(Pool({}, "q", ""))
