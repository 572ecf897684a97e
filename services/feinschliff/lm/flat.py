"""Batches without padding: rows one after another in a single sequence, with attention strictly inside each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from feinschliff.lm.chat import Encoded
from feinschliff.lm.lower import Below, taken_as_given
from feinschliff.lm.rows_attention import architecture_unsupported, rows_apart
from feinschliff.lm.shared_prefixes import Runs, shared, side_by_side

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROOF_ROW_TOKENS = 24
PROOF_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}
"""Largest difference of hidden states against the row alone, relative to their largest value."""


@dataclass(frozen=True)
class FlatBatch:
    """Rows side by side; T tokens in all, N of them predicted.

    The last token of a row is only ever a label, so it is no input. A row is a run of tokens, or several where it
    shares its first ones with others (`shared_prefixes`).

    row_tokens, row_labels: of each row, shared tokens included; labels stand in the order of the rows.
    row_targets: of each row, where a head judges it; see `Encoded`.
    below: what the lowest layers make of the batch, where that is known already.
    """

    token_ids_T: Tensor
    position_ids_T: Tensor
    runs: Runs
    label_positions_N: Tensor
    labels_N: Tensor
    row_tokens: tuple[int, ...]
    row_labels: tuple[int, ...]
    row_targets: tuple[tuple[float, ...], ...] = ()
    below: Below | None = None

    @property
    def tokens(self) -> int:
        """Of the rows."""
        return sum(self.row_tokens)

    @property
    def computed_tokens(self) -> int:
        """Fewer than those of the rows, where rows share some."""
        return len(self.token_ids_T)

    @property
    def labels(self) -> int:
        return len(self.labels_N)

    @property
    def row_of_label_N(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.row_labels)), self.row_labels)

    def to(self, device: torch.device) -> FlatBatch:
        return replace(
            self,
            token_ids_T=self.token_ids_T.to(device),
            position_ids_T=self.position_ids_T.to(device),
            label_positions_N=self.label_positions_N.to(device),
            labels_N=self.labels_N.to(device),
        )


def flatten(rows: Sequence[Encoded], *, share_prefixes: bool = False) -> FlatBatch:
    """Rows of at least two tokens as one batch; positions restart at 0 in each row.

    Args:
        share_prefixes: tokens that rows begin with in common stand in the batch once. Only sound where the model
            makes the same of them in every row: no dropout, no noise that is a row's own.
    """
    inputs = [row.token_ids[:-1] for row in rows]
    arranged = shared(inputs) if share_prefixes else side_by_side(inputs)
    bounds = arranged.bounds
    places = [np.arange(start, stop) for start, stop in pairwise(bounds)]
    answers = [np.flatnonzero(row.is_answer[1:]) for row in rows]
    label_positions = [
        np.concatenate([places[run] for run in runs])[found]
        for runs, found in zip(arranged.of_row, answers, strict=True)
    ]
    labels = [np.asarray(row.token_ids[1:])[found] for row, found in zip(rows, answers, strict=True)]
    return FlatBatch(
        token_ids_T=torch.tensor([token for run in arranged.runs for token in run.token_ids]),
        position_ids_T=torch.cat([torch.arange(run.start, run.start + len(run.token_ids)) for run in arranged.runs]),
        runs=Runs(bounds, tuple(run.before for run in arranged.runs)),
        label_positions_N=torch.from_numpy(np.concatenate(label_positions)),
        labels_N=torch.from_numpy(np.concatenate(labels)),
        row_tokens=tuple(len(row) for row in inputs),
        row_labels=tuple(len(found) for found in answers),
        row_targets=tuple(row.targets for row in rows),
    )


def hidden_states(model: PreTrainedModel, batch: FlatBatch) -> Tensor:
    """Last hidden state of every input token, (T, H); call inside `rows_apart(model)`."""
    with taken_as_given(batch.below):
        output = model.base_model(
            input_ids=batch.token_ids_T[None],
            position_ids=batch.position_ids_T[None],
            use_cache=False,
            runs=batch.runs,
        )
    states: Tensor = output.last_hidden_state[0]
    return states


def prove_rows_apart(model: PreTrainedModel) -> None:
    """Show on short rows that this architecture keeps rows apart and computes what it computes row by row.

    Raises:
        Invalid: ARCHITECTURE_UNSUPPORTED.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise architecture_unsupported("its attention cannot be exchanged")
    first, second, other = (_proof_row(model, k) for k in (0, 1, 2))
    half = PROOF_ROW_TOKENS - PROOF_ROW_TOKENS // 4
    fork = Encoded([*second.token_ids[:half], *first.token_ids[half:]], second.is_answer)
    with torch.no_grad():
        with rows_apart(model):
            together = _states(model, [first, second])
            neighbour_changed = _states(model, [other, second])
            forked = _states(model, [fork, second], share_prefixes=True)
        alone = model.base_model(
            input_ids=torch.tensor([second.token_ids[:-1]], device=model.device), use_cache=False
        ).last_hidden_state[0]
    inputs, rest = PROOF_ROW_TOKENS - 1, PROOF_ROW_TOKENS - 1 - half
    if not torch.equal(together[inputs:], neighbour_changed[inputs:]):
        raise architecture_unsupported("one row of a batch changes another")
    found = {"side by side": (together[inputs:], alone), "that begin alike": (forked[-rest:], alone[-rest:])}
    for which, (states, expected) in found.items():
        difference = (states - expected).abs().max() / alone.abs().max()
        if difference > PROOF_TOLERANCE[alone.dtype]:
            raise architecture_unsupported(f"rows {which} differ from the row alone by {difference:.1e}")


def _proof_row(model: PreTrainedModel, k: int) -> Encoded:
    vocabulary = int(model.config.get_text_config().vocab_size)
    return Encoded([(31 * k + 7 * i + 3) % vocabulary for i in range(PROOF_ROW_TOKENS)], [True] * PROOF_ROW_TOKENS)


def _states(model: PreTrainedModel, rows: Sequence[Encoded], *, share_prefixes: bool = False) -> Tensor:
    return hidden_states(model, flatten(rows, share_prefixes=share_prefixes).to(model.device))
