"""What the rows of a job come to as tokens, by a fair sample of them and by the very code that trains on them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from feinschliff.formats.optimisation import Optimisation
from feinschliff.formats.records import Record
from feinschliff.formats.steps import rows_drawn, steps_of
from feinschliff.kit.errors import Invalid
from feinschliff.lm.chat import Encoded
from feinschliff.lm.encoding import RowEncoder
from feinschliff.lm.shared_prefixes import READ_SHARE, SAVED_TOKENS_MIN, common_prefix

ROWS_MAX = 2000
"""Rows looked at in all; the mean of so many lengths is known to within a few percent."""

TEXT_BYTES_MAX = 6 * 1024 * 1024
"""Text looked at in all: some seconds on one core."""

BLOCK_ROWS = 64
DRAWS_MAX = 400


class Drawn(NamedTuple):
    """Rows of one split, and how many there are."""

    records: Sequence[Record]
    rows: int


class RowSource(Protocol):
    """Where rows are read."""

    def draw(self, dataset_version: str, splits: Sequence[str], rows_max: int) -> Drawn:
        """All rows of the splits, or a random choice of them, the same one for the same call."""
        ...


class Line(NamedTuple):
    """A row that is not as it should be."""

    line: int
    tokens: int = 0
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Looked:
    """What was seen of one source.

    Args:
        rows: of the source, in all. seen: rows looked at.
        lengths: tokens that each row, or each sequence of joined rows, brings into a forward pass.
        labels: those of them that are learned.
        opening: tokens that all of them begin with.
        task: whose rows they are, where each has an adapter of its own; else empty.
    """

    dataset_version: str
    weight: float
    rows: int
    seen: int
    lengths: tuple[int, ...]
    labels: tuple[int, ...]
    opening: tuple[int, ...] = ()
    task: str = ""
    unanswered: tuple[Line, ...] = ()
    long: tuple[Line, ...] = ()
    refused: tuple[Line, ...] = ()

    @property
    def sampled(self) -> bool:
        return self.seen < self.rows

    @property
    def rows_kept(self) -> int:
        """Rows, or sequences, that the source has for training."""
        if not self.sampled:
            return len(self.lengths)
        return round(self.rows * len(self.lengths) / self.seen) if self.seen else 0

    @property
    def rows_per_epoch(self) -> int:
        return rows_drawn(self.rows_kept, self.weight)

    def of_all(self, count: int) -> int:
        """So many of the rows seen, as a number of all rows."""
        return round(count * self.rows / self.seen) if self.seen else 0


@dataclass(frozen=True)
class Work:
    """All passes over the data.

    Args:
        tokens_per_row, labels_per_row: means over an epoch.
    """

    rows_per_epoch: int
    steps: int
    rows: int
    tokens_per_row: float
    labels_per_row: float

    @property
    def tokens(self) -> int:
        return round(self.rows * self.tokens_per_row)

    @property
    def labels(self) -> int:
        return round(self.rows * self.labels_per_row)


@dataclass(frozen=True)
class Largest:
    """The largest forward pass: what it usually is in the largest of all, and its bounds; and how many a step has."""

    tokens: int = 0
    tokens_low: int = 0
    tokens_high: int = 0
    labels: int = 0
    row_tokens: int = 0
    rows: int = 0
    passes: int = 0


@dataclass
class _Seen:
    rows: list[Encoded] = field(default_factory=list)
    unanswered: list[Line] = field(default_factory=list)
    long: list[Line] = field(default_factory=list)
    refused: list[Line] = field(default_factory=list)


def fair_part(records: Sequence[Record], text_bytes_max: int = TEXT_BYTES_MAX) -> Sequence[Record]:
    """All records, or where they hold too much text a random choice of them, the same one each time."""
    sizes = [len(record.to_json_line()) for record in records]
    if sum(sizes) <= text_bytes_max:
        return records
    order = random.Random(0).sample(range(len(records)), len(records))
    chosen: list[Record] = []
    used = 0
    for place in order:
        used += sizes[place]
        if chosen and used > text_bytes_max:
            break
        chosen.append(records[place])
    return chosen


def look(
    encoder: RowEncoder,
    records: Sequence[Record],
    optimisation: Optimisation,
    *,
    dataset_version: str,
    rows: int,
    weight: float = 1.0,
    task: str = "",
) -> Looked:
    """What the trainer would make of these rows, which stand for `rows` of them."""
    seen = _Seen()
    for start in range(0, len(records), BLOCK_ROWS):
        block = records[start : start + BLOCK_ROWS]
        for record, row in zip(block, _encoded(encoder, block, seen), strict=True):
            if row is not None:
                _sort(encoder, record, row, optimisation, seen)
    kept = list(encoder.joined(seen.rows, optimisation.max_row_tokens)) if encoder.joins else seen.rows
    return Looked(
        dataset_version=dataset_version,
        weight=weight,
        rows=rows,
        seen=len(records),
        lengths=tuple(len(row.token_ids) - 1 for row in kept),
        labels=tuple(sum(row.is_answer[1:]) for row in kept),
        opening=tuple(common_prefix([row.token_ids[:-1] for row in kept])),
        task=task,
        unanswered=tuple(seen.unanswered),
        long=tuple(seen.long),
        refused=tuple(seen.refused),
    )


def by_task(sources: Sequence[Looked]) -> list[list[Looked]]:
    """The sources that are learned from together."""
    found: dict[str, list[Looked]] = {}
    for source in sources:
        found.setdefault(source.task, []).append(source)
    return list(found.values())


def work_of(sources: Sequence[Looked], optimisation: Optimisation) -> Work:
    """Steps and tokens of all epochs, by the trainer's own rule; tasks that learn apart step side by side."""
    parts = [_work_of(some, optimisation) for some in by_task(sources)]
    rows = sum(part.rows for part in parts)
    return Work(
        sum(part.rows_per_epoch for part in parts),
        max((part.steps for part in parts), default=0),
        rows,
        sum(part.rows * part.tokens_per_row for part in parts) / max(1, rows),
        sum(part.rows * part.labels_per_row for part in parts) / max(1, rows),
    )


def _work_of(sources: Sequence[Looked], optimisation: Optimisation) -> Work:
    rows_per_epoch = sum(source.rows_per_epoch for source in sources)
    if not rows_per_epoch:
        return Work(0, 0, 0, 0.0, 0.0)
    steps = steps_of(rows_per_epoch, optimisation)
    epochs, rest = divmod(steps, -(-rows_per_epoch // optimisation.batch_size))
    rows = epochs * rows_per_epoch + min(rest * optimisation.batch_size, rows_per_epoch)
    shares = [source.rows_per_epoch / rows_per_epoch for source in sources]
    return Work(
        rows_per_epoch,
        steps,
        rows,
        sum(share * _mean(source.lengths) for share, source in zip(shares, sources, strict=True)),
        sum(share * _mean(source.labels) for share, source in zip(shares, sources, strict=True)),
    )


def largest(sources: Sequence[Looked], optimisation: Optimisation, steps: int, *, shared: bool = False) -> Largest:
    """The largest forward pass of a job, by drawing batches as the trainer does and cutting them as it does.

    Only so many steps are drawn as there are, at most `DRAWS_MAX`: the longest rows seldom meet in one batch. Of tasks
    that learn apart the largest pass of any counts, and a step has the passes of all.

    Args:
        shared: what all rows begin with is computed once in a pass. Rows may share more, which is not looked for.
    """
    parts = [_largest(some, optimisation, steps, shared=shared) for some in by_task(sources)]
    return replace(
        max(parts, key=lambda part: part.tokens, default=Largest()),
        tokens_high=max((part.tokens_high for part in parts), default=0),
        row_tokens=max((part.row_tokens for part in parts), default=0),
        passes=sum(part.passes for part in parts),
    )


def _largest(sources: Sequence[Looked], optimisation: Optimisation, steps: int, *, shared: bool) -> Largest:
    lengths = np.asarray([length for source in sources for length in source.lengths], dtype=np.int64)
    labels = np.asarray([count for source in sources for count in source.labels], dtype=np.int64)
    if not len(lengths):
        return Largest()
    weights = np.concatenate(
        [np.full(len(one.lengths), one.rows_per_epoch / max(1, len(one.lengths))) for one in sources]
    )
    if not weights.sum():
        return Largest()
    size, limit = min(optimisation.batch_size, round(weights.sum())), optimisation.micro_batch_tokens
    drawn = _batches(lengths, weights / weights.sum(), size, min(max(1, steps), DRAWS_MAX))
    if optimisation.order == "by_length":
        drawn.append(np.argsort(lengths, kind="stable")[-size:])
    once = len(common_prefix([list(source.opening) for source in sources])) if shared else 0
    once = once if once * (size - 1) >= SAVED_TOKENS_MIN else 0
    cut = [_passes(lengths[batch], labels[batch], limit, once) for batch in drawn]
    passes = [max(one) for one in cut]
    longest = int(lengths.max())
    most = np.sort(lengths)[-size:]
    bound = min(_cost(int(most.sum()), len(most), once), max(limit, longest))
    return Largest(
        tokens=max(one[0] for one in passes),
        tokens_low=int(np.median([one[0] for one in passes])),
        tokens_high=max(bound, *(one[0] for one in passes)),
        labels=max(one[1] for one in passes),
        row_tokens=longest,
        rows=max(one[2] for one in passes),
        passes=max(len(one) for one in cut),
    )


def _batches(lengths: np.ndarray, chances: np.ndarray, size: int, count: int) -> list[np.ndarray]:
    dice, again = np.random.default_rng(0), bool(size > np.count_nonzero(chances))
    return [dice.choice(len(lengths), size=size, p=chances, replace=again) for _ in range(count)]


def _passes(lengths: np.ndarray, labels: np.ndarray, limit: int, once: int) -> list[tuple[int, int, int]]:
    """Tokens, labels and rows of each forward pass of a step: rows in turn, as many as fit, and always one.

    Args:
        once: tokens that all rows begin with.
    """
    passes: list[tuple[int, int, int]] = []
    tokens, learned, rows = 0, 0, 0
    for length, label in zip(lengths.tolist(), labels.tolist(), strict=True):
        if rows and _cost(tokens + length, rows + 1, once) > limit:
            passes.append((_cost(tokens, rows, once), learned, rows))
            tokens, learned, rows = 0, 0, 0
        tokens, learned, rows = tokens + length, learned + label, rows + 1
    return [*passes, (_cost(tokens, rows, once), learned, rows)]


def _cost(tokens: int, rows: int, once: int) -> int:
    """What rows of so many tokens cost a pass, see `Arrangement.cost`."""
    return tokens if rows < 2 else round(tokens - once * (rows - 1 - READ_SHARE * rows))


def _encoded(encoder: RowEncoder, block: Sequence[Record], seen: _Seen) -> list[Encoded | None]:
    try:
        return list(encoder.encode(block))
    except Invalid:
        return [_encoded_alone(encoder, record, seen) for record in block]


def _encoded_alone(encoder: RowEncoder, record: Record, seen: _Seen) -> Encoded | None:
    try:
        return encoder.encode([record])[0]
    except Invalid as refusal:
        seen.refused.append(Line(record.line, reason=refusal.reason, message=refusal.message))
        return None


def _sort(encoder: RowEncoder, record: Record, row: Encoded, optimisation: Optimisation, seen: _Seen) -> None:
    """Among those that are learned from, or among those that the trainer refuses, cuts or leaves out."""
    if not any(row.is_answer[1:]):
        seen.unanswered.append(Line(record.line))
        return
    if encoder.joins or encoder.tokens(row) <= optimisation.max_row_tokens:
        seen.rows.append(row)
        return
    seen.long.append(Line(record.line, tokens=encoder.tokens(row)))
    if optimisation.on_long_row != "drop":
        cut = encoder.cut(row, optimisation.max_row_tokens)
        if any(cut.is_answer[1:]):
            seen.rows.append(cut)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
