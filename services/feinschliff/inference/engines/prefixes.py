"""What prompts begin with is computed once: keys and values of their first tokens, in pages, kept in bounded memory."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple

from torch import Tensor

PAGE_TOKENS = 32


class _Key(NamedTuple):
    """The tokens of a page, and the page before it: equal keys mean equal texts from the first token on."""

    before: int
    tokens: tuple[int, ...]


class _Page(NamedTuple):
    number: int
    owner: tuple[str, ...]
    tensor: Tensor  # (layers, 2, groups, PAGE_TOKENS, size)


class PrefixCache:
    """Pages of prompts that were read, by the text up to their end and by whom they belong to; the longest unused go.

    Who reads a page gets a copy, so a page may go at any time. Not for several threads at once.

    Args:
        bytes_max: 0 keeps nothing.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._pages: OrderedDict[_Key, _Page] = OrderedDict()  # the longest unused first
        self._roots: dict[tuple[str, ...], int] = {}  # what stands before an owner's first pages; of those who have any
        self._counts: Counter[tuple[str, ...]] = Counter()  # pages by owner
        self._numbers = count(1)
        self.allocated_bytes = 0

    def __len__(self) -> int:
        return len(self._pages)

    @property
    def owners(self) -> int:
        """Who has pages."""
        return len(self._roots)

    def load(self, owner: tuple[str, ...], ids: Sequence[int], into: Tensor, start: int) -> int:
        """Copies what is known of a prompt's beginning into a row's block, behind its first `start` positions.

        The last token is never among it: somebody must say what follows.

        Args:
            owner: what else the numbers depend on, and whose they are.
            into: (layers, 2, groups, capacity, size).

        Returns:
            Tokens copied.
        """
        if not self._pages:
            return 0
        found = self._known(owner, ids[:-1])
        for place, (_, page) in enumerate(found):
            at = start + place * PAGE_TOKENS
            into[:, :, :, at : at + PAGE_TOKENS] = page.tensor
        self._touch([key for key, _ in found])
        return len(found) * PAGE_TOKENS

    def keep(self, owner: tuple[str, ...], ids: Sequence[int], block: Tensor, start: int) -> None:
        """Copies the whole pages of a prompt that was read; those that are known already cost nothing."""
        if not self._bytes_max:
            return
        used, before = [], self._roots.setdefault(owner, next(self._numbers))
        pages_max = self._bytes_max // max(1, block[:, :, :, :PAGE_TOKENS].nbytes)
        for place, tokens in enumerate(islice(_pages_of(ids), pages_max)):
            key, at = _Key(before, tokens), start + place * PAGE_TOKENS
            if key not in self._pages:
                self._add(key, _Page(next(self._numbers), owner, block[:, :, :, at : at + PAGE_TOKENS].clone()))
                self._fit()
            used.append(key)
            before = self._pages[key].number
        self._touch(used)
        if not self._counts[owner]:
            self._forget(owner)

    def drop(self, first: str) -> None:
        """Takes out the pages of all owners whose first part is this: nobody will ask for them again."""
        for key in [key for key, page in self._pages.items() if page.owner[0] == first]:
            self._remove(key, self._pages.pop(key))

    def clear(self) -> None:
        self._pages.clear()
        self._roots.clear()
        self._counts.clear()
        self.allocated_bytes = 0

    def _known(self, owner: tuple[str, ...], ids: Sequence[int]) -> list[tuple[_Key, _Page]]:
        found: list[tuple[_Key, _Page]] = []
        before = self._roots.get(owner, 0)  # 0 stands before no page
        for tokens in _pages_of(ids):
            key = _Key(before, tokens)
            page = self._pages.get(key)
            if page is None:
                break
            found.append((key, page))
            before = page.number
        return found

    def _touch(self, keys: Sequence[_Key]) -> None:
        """A page is of no use without those before it, so they go after it."""
        for key in reversed(keys):
            if key in self._pages:  # room for the last ones may have cost the first
                self._pages.move_to_end(key)

    def _fit(self) -> None:
        while self.allocated_bytes > self._bytes_max:
            self._remove(*self._pages.popitem(last=False))

    def _add(self, key: _Key, page: _Page) -> None:
        self._pages[key] = page
        self._counts[page.owner] += 1
        self.allocated_bytes += page.tensor.nbytes

    def _remove(self, key: _Key, page: _Page) -> None:
        """Of a page that is taken out already."""
        self.allocated_bytes -= page.tensor.nbytes
        self._counts[page.owner] -= 1
        if not self._counts[page.owner]:
            self._forget(page.owner)

    def _forget(self, owner: tuple[str, ...]) -> None:
        self._roots.pop(owner, None)
        del self._counts[owner]


def _pages_of(ids: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The whole pages; what is left over makes none."""
    source = iter(ids)
    while len(tokens := tuple(islice(source, PAGE_TOKENS))) == PAGE_TOKENS:
        yield tokens
