"""What the frozen lower layers make of a row: computed once for a whole job, and kept on disk.

Every row runs through the lower layers alone. So its states are the same bits whatever stands beside it in a batch,
whether they were kept or computed again, and after a resume; keeping them changes the time of a step and nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import weakref
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from feinschliff.formats.adaptations import LastLayers
from feinschliff.formats.recipe import Recipe
from feinschliff.lm.adaptations.last_layers import layers_of
from feinschliff.lm.flat import FlatBatch, hidden_states
from feinschliff.lm.lower import Below, upper_left_out
from feinschliff.lm.randomness import draws
from feinschliff.lm.rows_attention import rows_apart
from feinschliff.lm.shared_prefixes import Runs
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.order import Course

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

FREE_SHARE = 0.5
"""Of a disk's free space; the rest is for checkpoints and for others."""

PROOF_TOKENS = 6


def frozen_layers(learner: Learner, recipe: Recipe, course: Course) -> int:
    """How many of the lowest layers are a fixed function of a row's tokens that is worth keeping; 0: none.

    It follows from the recipe, the base and the number of rows alone, so every attempt of a job says the same. A job of
    one pass over its data sees no row twice; noise on the embeddings and dropout make every pass another one. Processes
    that share a layer's weights have to run it together, so none may leave it out.
    """
    if not isinstance(recipe.adaptation, LastLayers) or recipe.optimisation.neftune_alpha:
        return 0
    if course.steps_total <= course.steps_per_epoch or recipe.sharing == "sharded":
        return 0
    model = learner.transformer
    stack = layers_of(model)
    lower = list(stack)[: len(stack) - recipe.adaptation.layers]
    frozen: list[nn.Module] = [*lower, model.get_input_embeddings()]
    learning = any(weight.requires_grad for module in frozen for weight in module.parameters())
    if not lower or learning or not _exchangeable(model, stack, len(lower)):
        return 0
    random = draws(model, lambda: lower_states(model, stack, len(lower), _proof_tokens(model)))
    return 0 if random else len(lower)


class Features:
    """States of rows at the border between the frozen lower layers and those that learn.

    They are read by plain reads, not through a mapping: a mapping's pages would count as the trainer's own memory.
    """

    def __init__(self, model: PreTrainedModel, layers: int, folder: Path, *, bytes_max: int) -> None:
        """Args:
        layers: how many of the lowest ones are frozen.
        bytes_max: size of the file; rows that find no room are computed in every pass.
        """
        self._model = model
        self._stack = layers_of(model)
        self._layers = layers
        self._bytes_max = min(bytes_max, int(shutil.disk_usage(folder).free * FREE_SHARE))
        self._bytes_kept = 0
        self._places: dict[bytes, _Place] = {}
        self._file = os.open(folder / "features", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        weakref.finalize(self, os.close, self._file)

    @property
    def rows_kept(self) -> int:
        return len(self._places)

    def __call__(self, batch: FlatBatch) -> FlatBatch:
        """The batch with what the lower layers make of it, so that only the upper ones need to run."""
        states = [self._states(batch, start, stop) for start, stop in pairwise(batch.runs.bounds)]
        return replace(batch, below=Below(self._stack, self._layers, torch.cat(states)))

    def _states(self, batch: FlatBatch, start: int, stop: int) -> Tensor:
        token_ids_T = batch.token_ids_T[start:stop]
        name = hashlib.blake2b(token_ids_T.cpu().numpy().tobytes(), digest_size=16).digest()
        if place := self._places.get(name):
            return self._read(place).to(token_ids_T.device)
        states_TH = lower_states(self._model, self._stack, self._layers, token_ids_T)
        self._keep(name, states_TH.cpu().contiguous())
        return states_TH

    def _keep(self, name: bytes, states_TH: Tensor) -> None:
        size = states_TH.numel() * states_TH.element_size()
        if self._bytes_kept + size > self._bytes_max:
            return
        try:
            _write(self._file, _bytes_of(states_TH), self._bytes_kept)
        except OSError as error:
            logger.warning("no more states of frozen layers can be kept", extra={"why": str(error)})
            self._bytes_max = self._bytes_kept
            return
        self._places[name] = _Place(self._bytes_kept, states_TH.shape, states_TH.dtype)
        self._bytes_kept += size

    def _read(self, place: _Place) -> Tensor:
        states_TH = torch.empty(place.shape, dtype=place.dtype)
        view, offset = _bytes_of(states_TH), place.offset
        while len(view):
            count = os.preadv(self._file, [view], offset)
            if not count:
                raise OSError("the file of frozen layers' states has become shorter")
            view, offset = view[count:], offset + count
        return states_TH


class _Place(NamedTuple):
    """Where the states of a row lie in the file."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype


def lower_states(model: PreTrainedModel, stack: nn.ModuleList, layers: int, token_ids_T: Tensor) -> Tensor:
    """What the lowest layers make of one row, (T, H); call inside `rows_apart(model)`."""
    with torch.no_grad(), upper_left_out(stack, layers) as made:
        hidden_states(model, _alone(token_ids_T))
    return made[0][0]


def _alone(token_ids_T: Tensor) -> FlatBatch:
    places_T = torch.arange(len(token_ids_T), device=token_ids_T.device)
    tokens = len(token_ids_T)
    runs = Runs((0, tokens), ((),))
    return FlatBatch(token_ids_T, places_T, runs, places_T[:0], token_ids_T[:0], row_tokens=(tokens,), row_labels=(0,))


def _exchangeable(model: PreTrainedModel, stack: nn.ModuleList, layers: int) -> bool:
    """Show on a short row that the model's layers can be run in two parts without a changed bit."""
    batch = _alone(_proof_tokens(model))
    try:
        with torch.no_grad(), rows_apart(model):
            whole = hidden_states(model, batch)
            states_TH = lower_states(model, stack, layers, batch.token_ids_T)
            parted = hidden_states(model, replace(batch, below=Below(stack, layers, states_TH)))
    except (AttributeError, IndexError, TypeError, RuntimeError) as error:
        logger.info("frozen layers are run in every pass", extra={"why": str(error)})
        return False
    return torch.equal(whole, parted)


def _proof_tokens(model: PreTrainedModel) -> Tensor:
    return torch.arange(3, 3 + PROOF_TOKENS, device=model.device)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.view(torch.uint8).numpy().data.cast("B")


def _write(file: int, data: memoryview, offset: int) -> None:
    while len(data):
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count
