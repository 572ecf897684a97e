"""From logits to text: what is drawn, what is shown, and where it stops."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from feinschliff.lm.penalties import Weights
from feinschliff.lm.sampling import Detokeniser, Sampler, StopFinder, TextStream, choose_tokens

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENIZER = Tokenizer(models.BPE(vocab={byte: place for place, byte in enumerate(BYTES)}, merges=[]))
TOKENIZER.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
TOKENIZER.decoder = decoders.ByteLevel()
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def sampler(temperature: float = 1.0, top_p: float = 1.0, seed: int = 0) -> Sampler:
    return Sampler(temperature=temperature, top_p=top_p, seed=seed)


def logits(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_temperature_zero_takes_the_most_probable() -> None:
    assert choose_tokens(torch.tensor([[0.1, 3.0, 1.0], [5.0, 1.0, 2.0]]), [sampler(0), sampler(0)]) == [1, 0]


def test_draws_follow_the_probabilities() -> None:
    one = sampler(seed=7)
    draws = [one.choose(logits(0.5, 0.3, 0.2)) for _ in range(4000)]
    shares = [draws.count(token) / len(draws) for token in range(3)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_temperature_sharpens_and_flattens() -> None:
    def share_of_best(temperature: float) -> float:
        one = sampler(temperature, seed=1)
        return sum(one.choose(logits(0.6, 0.4)) == 0 for _ in range(2000)) / 2000

    sharp, flat = 0.6**2 / (0.6**2 + 0.4**2), 0.6**0.5 / (0.6**0.5 + 0.4**0.5)
    assert share_of_best(0.5) == pytest.approx(sharp, abs=0.04)
    assert share_of_best(2.0) == pytest.approx(flat, abs=0.04)


@pytest.mark.parametrize(
    ("top_p", "allowed"), [(0.4, {0}), (0.5, {0}), (0.6, {0, 1}), (0.81, {0, 1, 2}), (1.0, {0, 1, 2})]
)
def test_top_p_draws_only_from_the_smallest_set_that_reaches_it(top_p: float, allowed: set[int]) -> None:
    one = sampler(top_p=top_p, seed=3)
    assert {one.choose(logits(0.5, 0.3, 0.2)) for _ in range(400)} == allowed


def test_top_p_beyond_the_first_look_sorts_all() -> None:
    one = sampler(top_p=0.99, seed=3)
    draws = {one.choose(torch.zeros(2000)) for _ in range(4000)}
    assert max(draws) > 512
    assert len(draws) > 1000


def test_tokens_of_no_probability_are_never_drawn() -> None:
    one = sampler(2.0, seed=5)
    assert {one.choose(torch.tensor([float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")])) for _ in range(500)} == {
        1,
        3,
    }


def test_seed_decides_the_draws_whatever_the_neighbours_do() -> None:
    rows = torch.randn(50, 100, generator=torch.Generator().manual_seed(0))
    alone = sampler(seed=11)
    by_itself = [alone.choose(row) for row in rows]
    crowded, others = sampler(seed=11), [sampler(seed=seed) for seed in range(5)]
    in_batch = [choose_tokens(row.expand(6, -1), [*others[:3], crowded, *others[3:]])[3] for row in rows]
    assert in_batch == by_itself
    assert [sampler(seed=12).choose(row) for row in rows] != by_itself


def test_tiny_temperature_is_greedy_and_finite() -> None:
    assert sampler(1e-9).choose(torch.tensor([1.0, 500.0, 499.0])) == 1


def test_rows_with_wishes_of_their_own_leave_their_neighbours_alone() -> None:
    rows = torch.tensor([[0.1, 3.0, 1.0]]).expand(4, -1)
    biased = Sampler(temperature=0, seed=0, weights=Weights(bias={1: -100.0}))
    only_first = [None, None, np.array([True, False, False]), None]
    assert choose_tokens(rows, [sampler(0), biased, sampler(0), sampler(0)], only_first) == [1, 2, 0, 1]
    assert rows.tolist() == [[pytest.approx(0.1), 3.0, 1.0]] * 4


def test_a_token_that_was_chosen_counts_as_used() -> None:
    one = Sampler(temperature=0, seed=0, weights=Weights(presence=1.5))
    assert [one.choose(torch.tensor([1.0, 2.0, 0.0])) for _ in range(3)] == [1, 0, 1]


def decode(ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(ids)))


def pieces_of(data: bytes) -> list[str]:
    detokeniser = Detokeniser(decode)
    ids = [BYTES.index(_spelling(byte)) for byte in data]
    return [*(detokeniser.push(token) for token in ids), detokeniser.flush()]


def _spelling(byte: int) -> str:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [one for one in range(256) if one not in printable]
    return chr(byte) if byte in printable else chr(256 + moved.index(byte))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_pieces_are_whole_characters_and_join_to_the_text(text: str) -> None:
    pieces = pieces_of(text.encode())
    assert "".join(pieces) == text
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_invalid_bytes_come_out_as_the_decoder_writes_them(data: bytes) -> None:
    assert "".join(pieces_of(data)) == data.decode(errors="replace")


def test_endless_invalid_bytes_do_not_hold_the_text_back() -> None:
    assert len("".join(pieces_of(b"\xff" * 20)[:-1])) >= 16


class Words:
    """Decodes words with a space before all but the first; 0 is not shown, and what is read is counted."""

    def __init__(self) -> None:
        self.tokens_read = 0

    def __call__(self, ids: Sequence[int]) -> str:
        self.tokens_read += len(ids)
        return " ".join(f"w{token}" for token in ids if token)


def said(ids: Sequence[int]) -> tuple[list[str], int]:
    words = Words()
    detokeniser = Detokeniser(words)
    return [*map(detokeniser.push, ids), detokeniser.flush()], words.tokens_read


@pytest.mark.parametrize("first", [[], [1], [1, 2, 3]])
def test_a_long_run_of_silent_tokens_costs_no_more_for_each_than_a_short_one(first: list[int]) -> None:
    pieces, read = said([*first, *[0] * 5000, 4, 5])
    assert "".join(pieces) == " ".join(f"w{token}" for token in [*first, 4, 5])
    assert read < 5000 * 100


def test_a_long_run_of_broken_bytes_does_not_either() -> None:
    for data in (b"\xff" * 3000, b"\xe2\x82" * 1500, b"ab" + b"\x80" * 3000 + "é€ c".encode() + b"\xf0\x9f" * 500):
        counted = Words()

        def decode_counted(ids: Sequence[int], counted: Words = counted) -> str:
            counted(ids)
            return decode(ids)

        detokeniser = Detokeniser(decode_counted)
        ids = [BYTES.index(_spelling(byte)) for byte in data]
        assert "".join([*map(detokeniser.push, ids), detokeniser.flush()]) == data.decode(errors="replace")
        assert counted.tokens_read < len(data) * 100


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 3), st.just(0)), max_size=30), st.lists(st.integers(60, 140), max_size=4))
def test_runs_anywhere_in_a_text_leave_it_as_it_is(ids: list[int], runs: list[int]) -> None:
    for place, length in enumerate(runs):
        ids[place * 5 : place * 5] = [0] * length
    assert "".join(said(ids)[0]) == " ".join(f"w{token}" for token in ids if token)


def cut(text: str, cuts: list[int]) -> list[str]:
    places = sorted({min(place, len(text)) for place in cuts} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(places)] or [""]


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    finder, shown = StopFinder(stops), ""
    for piece in pieces:
        text, stopped = finder.push(piece)
        shown += text
        if stopped:
            return shown, True
    return shown + finder.flush(), False


SHORT = st.text(alphabet="abc", max_size=12)


@settings(max_examples=300, deadline=None)
@given(SHORT, st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=4), st.lists(st.integers(0, 12)))
def test_stop_strings_do_not_depend_on_how_the_text_is_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    assert run(stops, cut(text, cuts)) == run(stops, list(text))
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert run(stops, list(text)) == ((text[: min(ends)[1]], True) if ends else (text, False))


def test_what_could_become_a_stop_string_is_held_back() -> None:
    finder = StopFinder(["###"])
    assert finder.push("answer #") == ("answer ", False)
    assert finder.push("#") == ("", False)
    assert finder.push(" no") == ("## no", False)
    assert finder.push("##") == ("", False)
    assert finder.push("#more") == ("", True)


def test_stop_string_across_a_split_character_ends_the_text_before_it() -> None:
    stream = TextStream(decode, ["ü!"])
    ids = [BYTES.index(_spelling(byte)) for byte in "gr ü!x".encode()]
    shown = ""
    for token in ids:
        found = stream.push(token)
        shown += found.text
        if found.stopped:
            break
    assert shown == "gr "
    assert found.stopped


def test_flush_shows_the_beginning_of_a_stop_string_that_never_came() -> None:
    stream = TextStream(decode, ["abc"])
    shown = "".join(stream.push(BYTES.index(letter)).text for letter in "xab")
    assert shown == "x"
    assert stream.flush() == ("ab", False)
