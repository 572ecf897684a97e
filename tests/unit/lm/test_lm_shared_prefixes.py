"""Rows that begin alike: arranged as a tree, and learned from exactly as rows that stand alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from transformers import MistralConfig, PreTrainedModel, Qwen2Config

from feinschliff.lm import rows_attention
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import FlatBatch, flatten, hidden_states
from feinschliff.lm.logprobs import score_labels
from feinschliff.lm.randomness import draws
from feinschliff.lm.rows_attention import Form, rows_apart, tiles
from feinschliff.lm.shared_prefixes import SAVED_TOKENS_MIN, Run, Runs, shared, side_by_side
from tests.unit.lm.test_lm_flat import SMALL, small

TRUNK = list(range(3, 3 + SAVED_TOKENS_MIN))
BRANCH = list(range(40, 40 + SAVED_TOKENS_MIN))


def rows_that_begin_alike() -> list[Encoded]:
    """Two system prompts; one row is nothing but the beginning of others, one is learned from its first token on."""
    texts = [
        [*TRUNK, 60, 61, 62, 63, 64],
        [99, 98, 97],
        [*TRUNK, *BRANCH, 70, 71],
        [*TRUNK, 60, 65],
        [*TRUNK, *BRANCH, 72, 73, 74, 75],
        [*TRUNK, *BRANCH, 76],
    ]
    return [Encoded(text, [k > 1 for k in range(len(text))] if text[-1] == 75 else [False] * (len(text) - 1) + [True])
            for text in texts]  # fmt: skip


def read_back(rows: list[list[int]]) -> Iterator[list[int]]:
    arranged = shared(rows)
    for runs in arranged.of_row:
        yield [token for run in runs for token in arranged.runs[run].token_ids]


def test_what_rows_share_stands_once_and_branches_have_a_trunk_each() -> None:
    arranged = shared([[*TRUNK, 60, 61], [99, 98], [*TRUNK, *BRANCH, 70], [*TRUNK, *BRANCH, 71]])

    assert arranged.runs == [
        Run(TRUNK, 0, ()),
        Run([60, 61], 16, (0,)),
        Run(BRANCH, 16, (0,)),
        Run([70], 32, (0, 2)),
        Run([71], 32, (0, 2)),
        Run([99, 98], 0, ()),
    ]
    assert arranged.of_row == [(0, 1), (5,), (0, 2, 3), (0, 2, 4)]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_its_runs(seed: int) -> None:
    dice = random.Random(seed)
    words = [[dice.randrange(3) for _ in range(dice.choice((1, 7, 30)))] for _ in range(4)]
    rows = [[token for _ in range(dice.randrange(1, 5)) for token in dice.choice(words)] for _ in range(9)]

    assert list(read_back(rows)) == rows
    assert shared(rows).bounds[-1] <= side_by_side(rows).bounds[-1]
    for run in shared(rows).runs:
        assert run.start == sum(len(shared(rows).runs[one].token_ids) for one in run.before)


def test_little_in_common_is_not_shared() -> None:
    short = TRUNK[: SAVED_TOKENS_MIN - 1]

    assert [run.token_ids for run in shared([[*short, 70], [*short, 71]]).runs] == [[*short, 70], [*short, 71]]
    assert shared([[*short, 70], [*short, 71], [*short, 72]]).runs[0].token_ids == short


def test_identical_rows_are_computed_once() -> None:
    rows = [Encoded([*TRUNK, 9], [False] * 15 + [True] * 2) for _ in range(3)]
    batch = flatten(rows, share_prefixes=True)

    assert batch.token_ids_T.tolist() == TRUNK
    assert batch.label_positions_N.tolist() == [14, 15] * 3
    assert (batch.tokens, batch.row_labels) == (48, (2, 2, 2))


FORM = Form(virtual=0, window=None, groups=1, dtype=torch.float32, device=torch.device("cpu"), by_products=True)


@pytest.fixture
def tile_tokens_max(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Sets how large products of attention may be."""

    def set_to(tokens: int) -> None:
        monkeypatch.setattr(rows_attention, "TILE_TOKENS_MAX", tokens)
        tiles.cache_clear()

    yield set_to
    tiles.cache_clear()


def cut(runs: Runs, form: Form = FORM) -> list[tuple[int, tuple[int, ...]]]:
    return [(tile.tokens, tile.before) for tile in tiles(runs, form)]


def test_runs_side_by_side_are_attended_at_once_where_they_continue_the_same(
    tile_tokens_max: Callable[[int], None],
) -> None:
    runs = Runs((0, 4, 6, 9, 11, 14, 15, 17), ((), (0,), (0,), (0,), (0, 3), (0, 3), ()))

    assert cut(runs) == [(4, ()), (5, (0,)), (2, (0,)), (4, (0, 2)), (2, ())]
    tile_tokens_max(5)
    assert cut(runs) == [(4, ()), (2, (0,)), (3, (0,)), (2, (0,)), (3, (0, 3)), (1, (0, 3)), (2, ())], "5 x 9 > 25"
    alone = [(stop - start, before) for (start, stop), before in zip(pairwise(runs.bounds), runs.before, strict=True)]
    assert cut(runs, FORM._replace(by_products=False)) == alone


def test_what_stands_before_counts_against_products(tile_tokens_max: Callable[[int], None]) -> None:
    tile_tokens_max(8)
    behind = Runs((0, 20, 22, 24, 27), ((), (0,), (0,), (0,)))

    made = [(tile.tokens, tile.by_products) for tile in tiles(behind, FORM)]
    assert made == [(20, False), (2, True), (2, True), (3, False)]


def test_a_row_that_reads_a_trunk_costs_a_share_of_it() -> None:
    trunk = [*range(800)]
    rows = [[*trunk, 900 + number, 1] for number in range(10)]

    assert (side_by_side(rows).cost, shared(rows).bounds[-1]) == (8020, 820)
    assert shared(rows).cost == 820 + 10 * 800 / 8


def loss_and_gradients(model: PreTrainedModel, batch: FlatBatch) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    with rows_apart(model):
        losses_N = -score_labels(model, batch).logprobs_N
        losses_N.sum().backward()
    return losses_N.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("products", [True, False], ids=["products", "fused"])
@pytest.mark.parametrize(
    "config", [Qwen2Config(**SMALL), MistralConfig(**SMALL, sliding_window=5)], ids=["all", "window"]
)
def test_loss_and_gradients_are_those_of_rows_on_their_own(
    config: Qwen2Config | MistralConfig, products: bool, tile_tokens_max: Callable[[int], None]
) -> None:
    if not products:
        tile_tokens_max(0)
    model, rows = small(config).requires_grad_(True), rows_that_begin_alike()

    alone = [loss_and_gradients(model, flatten([row])) for row in rows]
    batch = flatten(rows, share_prefixes=True)
    losses_N, gradients = loss_and_gradients(model, batch)

    assert len(batch.token_ids_T) < batch.tokens == sum(len(row.token_ids) - 1 for row in rows)
    torch.testing.assert_close(losses_N, torch.cat([losses for losses, _ in alone]), rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, sum(one[name] for _, one in alone), rtol=1e-4, atol=1e-5, msg=name)


def test_each_label_knows_its_row(model: PreTrainedModel) -> None:
    rows = rows_that_begin_alike()
    batch = flatten(rows, share_prefixes=True)

    assert batch.row_of_label_N.tolist() == [n for n, row in enumerate(rows) for one in row.is_answer[1:] if one]
    assert batch.labels_N.tolist() == [
        token for row in rows for token, is_answer in zip(*row[:2], strict=True) if is_answer
    ]


def test_dropout_is_noticed_and_nothing_is_left_changed(model: PreTrainedModel) -> None:
    batch = flatten([Encoded([5, 6, 7], [False, True, True])])
    before = torch.get_rng_state()

    assert not draws(model, lambda: hidden_states(model, batch))
    model.get_input_embeddings().register_forward_hook(
        lambda module, _, made: torch.dropout(made, 0.1, module.training)
    )
    assert draws(model, lambda: hidden_states(model, batch))
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
