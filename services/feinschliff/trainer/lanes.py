"""What learns in a job: one lane for all its rows, or one for each task, which then has weights of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from feinschliff.trainer import optim
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.moving import Moving
from feinschliff.trainer.order import Course

Parameters = Mapping[str, nn.Parameter]


@dataclass
class Lane:
    """Rows, the weights that learn from them, and all else that a job of these rows alone would have.

    The model's parameters are there once: a lane whose turn it is lends them its weights. What it learns is, bit for
    bit, what a job of its rows alone would learn, for nothing of another lane comes into its steps.
    """

    course: Course
    optimiser: torch.optim.Optimizer
    moving: Moving
    validation_rows: Sequence[int]
    task: str = ""
    """Empty: of all tasks."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Its own, by name; empty: those that the parameters have."""
    _gradients: dict[str, Tensor | None] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Where its files lie beside those of other lanes."""
        return f"tasks/{self.task}" if self.task else ""

    def steps_after(self, steps: int, steps_total: int) -> int:
        """How many of its steps are made after so many of the job's: in proportion, and the first at once."""
        return -(-steps * self.course.steps_total // steps_total)

    def due(self, step: int, steps_total: int) -> int | None:
        """How many steps it has made before the job's step that follows `step` done ones; None where it rests in it."""
        made = self.steps_after(step, steps_total)
        return made if self.steps_after(step + 1, steps_total) > made else None

    def lend(self, parameters: Parameters) -> None:
        """Let the model compute with this lane's weights until another lends its own."""
        for name, weight in self.weights.items():
            parameters[name].data = weight

    def put_gradients_aside(self, parameters: Parameters) -> None:
        """Keep them until `move`, so that the next lane begins with none."""
        for name in self.weights:
            self._gradients[name], parameters[name].grad = parameters[name].grad, None

    def move(self, parameters: Parameters, rate: float) -> None:
        """The optimiser's step with the gradients that were gathered."""
        self.lend(parameters)
        for name in self.weights:
            parameters[name].grad = self._gradients.pop(name)
        optim.set_learning_rate(self.optimiser, rate)
        self.optimiser.step()
        self.optimiser.zero_grad()


def save(lanes: Sequence[Lane], parameters: Parameters, learner: Learner, folder: Path, *, base_model: str) -> None:
    """The weights of every lane, each in its folder."""
    for lane in lanes:
        lane.lend(parameters)
        (folder / lane.folder).mkdir(parents=True, exist_ok=True)
        learner.save(folder / lane.folder, base_model=base_model)


def restore(lanes: Sequence[Lane], parameters: Parameters, learner: Learner, folder: Path) -> None:
    """Put back what `save` wrote."""
    for lane in lanes:
        lane.lend(parameters)
        learner.restore(folder / lane.folder)


def state_tensors(lanes: Sequence[Lane], parameters: Parameters) -> dict[str, Tensor]:
    """The memory of every lane's optimiser."""
    return {
        f"{lane.folder}/{name}".removeprefix("/"): tensor
        for lane in lanes
        for name, tensor in optim.state_tensors(lane.optimiser, parameters).items()
    }


def restore_states(lanes: Sequence[Lane], parameters: Parameters, tensors: Mapping[str, Tensor]) -> None:
    """Put `state_tensors` back."""
    for lane in lanes:
        prefix = f"{lane.folder}/" if lane.folder else ""
        own = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
        lane.lend(parameters)
        optim.restore(lane.optimiser, parameters, own)
