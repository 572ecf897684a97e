"""What prompts begin with, kept in pages: found by the whole text before, per owner, within its memory."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from feinschliff.inference.engines.prefixes import PAGE_TOKENS, PrefixCache

SHAPE = (2, 2, 1)
SIZE = 4
PAGE_BYTES = 2 * 2 * 1 * PAGE_TOKENS * SIZE * 4
OWNER = ("adapter", "project")


def computed(ids: list[int], start: int = 0) -> Tensor:
    """Numbers that depend on every token before, as keys and values do."""
    sums = torch.tensor(ids, dtype=torch.float32).cumsum(0)
    block = torch.full((*SHAPE, start + len(ids), SIZE), -1.0)
    block[:, :, :, start:] = sums[:, None]
    return block


def text(seed: int, length: int) -> list[int]:
    chosen = random.Random(seed)
    return [chosen.randrange(1, 1000) for _ in range(length)]


def test_a_known_beginning_is_copied_page_by_page() -> None:
    cache, shared = PrefixCache(10**9), text(1, 70)
    first, second = shared + text(2, 40), shared + text(3, 40)
    cache.keep(OWNER, first, computed(first), 0)
    block = torch.full((*SHAPE, 200, SIZE), -1.0)
    assert cache.load(OWNER, second, block, 0) == 2 * PAGE_TOKENS
    assert torch.equal(block[:, :, :, : 2 * PAGE_TOKENS], computed(second)[:, :, :, : 2 * PAGE_TOKENS])
    assert bool((block[:, :, :, 2 * PAGE_TOKENS :] == -1).all())
    assert cache.load(OWNER, first, block, 0) == 3 * PAGE_TOKENS


def test_what_an_adapter_begins_with_stays_where_it_is() -> None:
    cache, ids = PrefixCache(10**9), text(1, 80)
    cache.keep(OWNER, ids, computed(ids, start=7), 7)
    block = torch.zeros(*SHAPE, 100, SIZE)
    assert cache.load(OWNER, ids, block, 7) == 2 * PAGE_TOKENS
    assert bool((block[:, :, :, :7] == 0).all())
    assert torch.equal(block[:, :, :, 7 : 7 + 64], computed(ids)[:, :, :, :64])


def test_the_last_token_is_always_read() -> None:
    cache, ids = PrefixCache(10**9), text(1, 2 * PAGE_TOKENS)
    cache.keep(OWNER, ids, computed(ids), 0)
    block = torch.zeros(*SHAPE, 100, SIZE)
    assert cache.load(OWNER, ids, block, 0) == PAGE_TOKENS
    assert cache.load(OWNER, [*ids, 5], block, 0) == 2 * PAGE_TOKENS


def test_equal_pages_behind_other_texts_are_others() -> None:
    cache, tail = PrefixCache(10**9), text(9, PAGE_TOKENS)
    one, two = text(1, PAGE_TOKENS) + tail, text(2, PAGE_TOKENS) + tail
    cache.keep(OWNER, one, computed(one), 0)
    cache.keep(OWNER, two, computed(two), 0)
    block = torch.zeros(*SHAPE, 100, SIZE)
    assert cache.load(OWNER, [*two, 1], block, 0) == 2 * PAGE_TOKENS
    assert torch.equal(block[:, :, :, :64], computed(two))
    assert cache.load(OWNER, tail + tail, block, 0) == 0


@pytest.mark.parametrize("other", [("adapter", "another"), ("another", "project")])
def test_nothing_is_shared_between_owners(other: tuple[str, str]) -> None:
    cache, ids = PrefixCache(10**9), text(1, 100)
    cache.keep(OWNER, ids, computed(ids), 0)
    assert cache.load(other, ids, torch.zeros(*SHAPE, 100, SIZE), 0) == 0


def test_what_an_adapter_left_goes_with_it_and_nothing_else() -> None:
    cache, ids = PrefixCache(10**9), text(1, 70)
    owners = [("adapter", "project"), ("adapter", "other"), ("another", "project"), ("", "project")]
    for owner in owners:
        cache.keep(owner, ids, computed(ids), 0)
    cache.drop("adapter")
    block = torch.zeros(*SHAPE, 100, SIZE)
    assert [cache.load(owner, ids, block, 0) for owner in owners] == [0, 0, 64, 64]
    assert cache.allocated_bytes == 4 * PAGE_BYTES
    cache.keep(owners[0], ids, computed(ids), 0)
    assert [cache.load(owner, ids, block, 0) for owner in owners] == [64, 0, 64, 64]


def test_owners_whose_pages_have_gone_leave_nothing_behind() -> None:
    cache, ids = PrefixCache(2 * PAGE_BYTES), text(1, 70)
    for number in range(100):
        cache.load((f"adapter{number}", "project"), ids, torch.zeros(*SHAPE, 100, SIZE), 0)
        cache.keep((f"adapter{number}", "project"), ids, computed(ids), 0)
        cache.keep((f"adapter{number}", "short"), ids[:5], computed(ids[:5]), 0)
    assert len(cache) == 2
    assert cache.owners == 1


def test_the_longest_unused_go_first_and_ends_before_beginnings() -> None:
    cache = PrefixCache(6 * PAGE_BYTES)
    texts = [text(seed, 3 * PAGE_TOKENS + 1) for seed in range(3)]
    for ids in texts[:2]:
        cache.keep(OWNER, ids, computed(ids), 0)
    block = torch.zeros(*SHAPE, 200, SIZE)
    assert cache.allocated_bytes == 6 * PAGE_BYTES
    assert cache.load(OWNER, texts[0], block, 0) == 3 * PAGE_TOKENS
    cache.keep(OWNER, texts[2][: PAGE_TOKENS + 1], computed(texts[2]), 0)
    assert cache.allocated_bytes == 6 * PAGE_BYTES
    assert cache.load(OWNER, texts[0], block, 0) == 3 * PAGE_TOKENS
    assert cache.load(OWNER, texts[1], block, 0) == 2 * PAGE_TOKENS


def test_known_pages_take_no_more_memory() -> None:
    cache, ids = PrefixCache(10**9), text(1, 100)
    for _ in range(3):
        cache.keep(OWNER, ids, computed(ids), 0)
    assert cache.allocated_bytes == 3 * PAGE_BYTES
    cache.clear()
    assert cache.allocated_bytes == 0
    assert cache.load(OWNER, ids, torch.zeros(*SHAPE, 100, SIZE), 0) == 0


def test_without_memory_nothing_is_kept() -> None:
    cache, ids = PrefixCache(0), text(1, 100)
    cache.keep(OWNER, ids, computed(ids), 0)
    assert cache.allocated_bytes == 0
    assert cache.load(OWNER, ids, torch.zeros(*SHAPE, 100, SIZE), 0) == 0
