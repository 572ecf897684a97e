"""What a pass over rows adds up to: sums alone, task by task, so that batches and processes can be added in any way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from feinschliff.lm.flat import FlatBatch
from feinschliff.trainer.terms import LossTerms

LOSS, HITS, LABELS, JUDGED = range(4)


@dataclass
class Tasks:
    """Which of the job's tasks each row of a table belongs to."""

    names: list[str] = field(default_factory=list)
    _of_row: list[np.ndarray] = field(default_factory=list)

    def append(self, name: str, rows: int) -> None:
        """The next so many rows of the table."""
        if name not in self.names:
            self.names.append(name)
        self._of_row.append(np.full(rows, self.names.index(name), dtype=np.int16))

    def of(self, rows: Sequence[int]) -> np.ndarray:
        """Task numbers of rows."""
        if len(self._of_row) > 1:
            self._of_row = [np.concatenate(self._of_row)]
        return self._of_row[0][np.asarray(rows, dtype=np.int64)]


class Tally:
    """Sums over labels: losses, hits, how many there were, and how many of them could be hit or missed."""

    def __init__(self, tasks: Tasks, *, apart: bool = False) -> None:
        """Args: apart: whether every task learns on its own, so that each counts alike."""
        self._tasks = tasks
        self._apart = apart
        self._sums = np.zeros((max(1, len(tasks.names)), 4))
        self._observed = np.zeros(0)

    def add(self, terms: LossTerms, batch: FlatBatch, rows: Sequence[int], observed: np.ndarray | None = None) -> None:
        """One batch.

        Args:
            rows: numbers of its rows in the table.
            observed: what its method wants to be summed up besides.
        """
        if len(self._sums) == 1:
            hits = 0 if terms.hits_N is None else int(terms.hits_N.sum())
            judged = 0 if terms.hits_N is None else terms.labels
            self._sums[0] += (terms.loss_sum.item(), hits, terms.labels, judged)
        else:
            self._add_by_task(terms, batch, rows)
        if observed is not None:
            self._observed = self._observed + observed if len(self._observed) else observed

    def numbers(self, *, observed: int = 0) -> list[float]:
        """All sums in one list, for a crew to add up.

        Args:
            observed: how many numbers the method observes; a process without rows has seen none of them.
        """
        seen = self._observed if len(self._observed) else np.zeros(observed)
        return [*self._sums.ravel().tolist(), *seen.tolist()]

    def totals(self, numbers: Sequence[float]) -> Totals:
        """What the sums of all processes mean."""
        cells = self._sums.size
        sums = np.asarray(numbers[:cells]).reshape(self._sums.shape)
        return Totals(self._tasks.names, sums, np.asarray(numbers[cells:]), self._apart)

    def _add_by_task(self, terms: LossTerms, batch: FlatBatch, rows: Sequence[int]) -> None:
        task_N, tasks = self._tasks.of(rows)[batch.row_of_label_N], len(self._sums)
        losses_N = terms.losses_N.detach().double().cpu().numpy()
        self._sums[:, LOSS] += np.bincount(task_N, weights=losses_N, minlength=tasks)
        self._sums[:, LABELS] += np.bincount(task_N, minlength=tasks)
        if terms.hits_N is not None:
            hits_N = terms.hits_N.cpu().numpy().astype(float)
            self._sums[:, HITS] += np.bincount(task_N, weights=hits_N, minlength=tasks)
            self._sums[:, JUDGED] += np.bincount(task_N, minlength=tasks)


@dataclass(frozen=True, eq=False)
class Totals:
    """The sums of all processes."""

    tasks: Sequence[str]
    sums: np.ndarray
    observed: np.ndarray
    apart: bool = False

    @property
    def loss(self) -> float:
        """Mean over all labels; where tasks learn apart, over those that had a label, of each one's mean."""
        return self._mean(LOSS, LABELS)

    @property
    def accuracy(self) -> float | None:
        """Share of labels that were hit, as the loss; None where nothing is hit or missed."""
        return self._mean(HITS, JUDGED) if self.sums[:, JUDGED].sum() else None

    def losses(self) -> dict[str, float]:
        """The mean of each task that had a label."""
        labelled = zip(self.tasks, self.sums[:, LOSS].tolist(), self.sums[:, LABELS].tolist(), strict=True)
        return {name: loss / labels for name, loss, labels in labelled if labels}

    def values(self) -> dict[str, float]:
        """`loss` and `accuracy`; where the job has several tasks, also those of each that had a label."""
        values = {"loss": self.loss}
        if self.accuracy is not None:
            values["accuracy"] = self.accuracy
        if len(self.tasks) < 2:
            return values
        values |= {f"loss/{name}": loss for name, loss in self.losses().items()}
        for name, (_, hits, _, judged) in zip(self.tasks, self.sums.tolist(), strict=True):
            if judged:
                values[f"accuracy/{name}"] = hits / judged
        return values

    def _mean(self, what: int, of: int) -> float:
        if not self.apart:
            return float(self.sums[:, what].sum() / self.sums[:, of].sum())
        there = self.sums[:, of] > 0
        return float((self.sums[there, what] / self.sums[there, of]).mean())
