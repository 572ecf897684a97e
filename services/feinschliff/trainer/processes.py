"""A crew of several processes over torch.distributed: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from feinschliff.formats.recipe import Recipe
from feinschliff.trainer import optim, sharding
from feinschliff.trainer.crew import balanced
from feinschliff.trainer.learner import Learner
from feinschliff.trainer.patience import GIVE_UP_SECONDS
from feinschliff.trainer.peers import PeerLost
from feinschliff.trainer.stop import Stop, Stopped, Why

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")

BUCKET_BYTES = 25 * 1024 * 1024
"""Gradients that travel in one message; the default of torch's DDP (Li et al. 2020, arXiv:2006.15704, figure 7)."""

PATIENCE_SECONDS = GIVE_UP_SECONDS + 900
"""How long a process waits for the others, who may wait for a store that is down. A process that died is noticed at
once, by its closed connections."""

FAREWELL_SECONDS = 10.0

_WHYS = tuple(Why)
_VERDICT = "verdict"


class Noticeboard(Protocol):
    """What torch's stores have in common, as far as it is used here: texts that all processes see."""

    def add(self, key: str, amount: int) -> int: ...

    def set(self, key: str, text: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...

    def wait(self, keys: list[str], timeout: timedelta) -> None: ...


class Seat(NamedTuple):
    """Which of the processes this is, as its launcher says.

    Args:
        begun: how often a process of this machine died in this attempt.
    """

    place: int
    size: int
    place_here: int
    size_here: int
    begun: int

    @classmethod
    def from_environment(cls) -> Seat:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
        return cls(*(int(os.environ[name]) for name in names))

    @property
    def is_on_one_machine(self) -> bool:
        return self.size == self.size_here


class Processes:
    """See `Crew`; made by `join`."""

    def __init__(self, seat: Seat, store: Noticeboard) -> None:
        self.seat = seat
        self.idle: Callable[[], None] | None = None
        """What to do in a round in which only others have a micro-batch; None: nothing."""
        self.restarts = 0.0
        """How many processes of this attempt died before, each of which let all begin again."""
        self._store = store
        self._saving = False
        self._is_cut = False

    @property
    def is_first(self) -> bool:
        return self.seat.place == 0

    @property
    def place(self) -> int:
        return self.seat.place

    @property
    def processes_here(self) -> int:
        return self.seat.size_here

    def part_of(self, rows: Sequence[int], tokens_of: Callable[[int], int]) -> Sequence[int]:
        return balanced(rows, tokens_of, self.seat.size)[self.place]

    def share(self, batches: Sequence[T], stop: Stop) -> Iterator[T]:
        rest = iter(batches)
        batch = next(rest, None)
        while self._goes_on(stop, more=batch is not None):
            if batch is not None:
                yield batch
            elif self.idle is not None:
                self.idle()
            batch = next(rest, None)

    def take_save_request(self, stop: Stop) -> bool:
        """A request waits until the next round of a step, in which all hear of it."""
        wanted, self._saving = self._saving, False
        return wanted

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """In the order of the processes and in double precision, so that all of them get the same bits."""
        mine = torch.tensor(list(numbers), dtype=torch.float64)
        parts = [torch.empty_like(mine) for _ in range(self.seat.size)]
        with _noticing_losses():
            dist.all_gather(parts, mine)
        return [float(sum(column)) for column in zip(*(part.tolist() for part in parts), strict=True)]

    def sum_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """What DDP computes, once a step: sums of buckets, under way at the same time; sharded ones are summed already.

        Raises:
            PeerLost.
        """
        moving = [weight for weight in weights if weight.requires_grad and not isinstance(weight, DTensor)]
        with _noticing_losses():
            moving = self._with_gradient_anywhere(moving)
            for weight in moving:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
            flats = [_Bucket(weights) for weights in _buckets(moving)]
            under_way = [dist.all_reduce(bucket.flat, async_op=True) for bucket in flats]
            for bucket, work in zip(flats, under_way, strict=True):
                if work is not None:
                    work.wait()
                bucket.hand_out()

    def clip(self, weights: Iterable[nn.Parameter], norm_max: float) -> float:
        if not self._is_cut:
            return optim.clip(weights, norm_max)
        return sharding.clip(list(weights), norm_max, self.sum)

    def cut(self, learner: Learner, recipe: Recipe) -> Learner:
        if recipe.sharing != "sharded":
            return learner
        self._is_cut = True
        return sharding.cut(learner, keeps=self.is_first)

    def prepare(self, optimiser: torch.optim.Optimizer, *, idle: Callable[[], None]) -> None:
        if self._is_cut:
            self.idle = idle
            sharding.separate_groups(optimiser)
            sharding.cut_states(optimiser)

    def gather(self, learner: Learner, states: dict[str, Tensor]) -> dict[str, Tensor]:
        if not isinstance(learner.adaptation, sharding.Sharded):
            return states
        with _noticing_losses():
            learner.adaptation.gather(cast("PreTrainedModel", learner.adapted))
            return sharding.whole(states, keeps=self.is_first)

    def begin_at(self, step: int) -> None:
        """
        Raises:
            PeerLost: one found another newest checkpoint than the others.
        """
        if self.sum([step]) != [float(self.seat.size * step)]:
            raise PeerLost(f"the processes do not begin alike; this one goes on after step {step}")

    def wait(self) -> None:
        with _noticing_losses():
            dist.all_reduce(torch.zeros(1))

    def leave(self, exit_code: int) -> None:
        """Tells the others how this process ends, in case they do not know, and closes the connections to them."""
        with suppress(RuntimeError):
            if self._store.add(f"{_VERDICT}/voices", 1) == 1:
                self._store.set(_VERDICT, str(int(exit_code)))
            self._store.set(f"{_VERDICT}/left/{self.place}", "1")
        with suppress(RuntimeError):
            dist.destroy_process_group()
        if self.is_first and not self.seat.is_on_one_machine:
            self._let_them_read()

    def verdict(self) -> int | None:
        """How the first process that left on its own said that it ends; None where none said anything."""
        with suppress(RuntimeError):
            if self._store.check([_VERDICT]):
                return int(self._store.get(_VERDICT))
        return None

    def _let_them_read(self) -> None:
        """The store dies with the first process; on other machines somebody may still have to look into it."""
        with suppress(RuntimeError):
            others = [f"{_VERDICT}/left/{place}" for place in range(1, self.seat.size)]
            self._store.wait(others, timedelta(seconds=FAREWELL_SECONDS))

    def _goes_on(self, stop: Stop, *, more: bool) -> bool:
        """Exchanges wishes; says whether any process has another micro-batch."""
        wish = 0 if stop.wish is None else 1 + _WHYS.index(stop.wish)
        flags = torch.tensor([wish, int(stop.take_save_request()), int(more)])
        with _noticing_losses():
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        agreed, save, goes_on = flags.tolist()
        self._saving = self._saving or bool(save)
        if agreed:
            raise Stopped(_WHYS[agreed - 1])
        return bool(goes_on)

    def _with_gradient_anywhere(self, weights: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        present = torch.tensor([int(weight.grad is not None) for weight in weights], dtype=torch.uint8)
        dist.all_reduce(present, op=dist.ReduceOp.MAX)
        return [weight for weight, is_there in zip(weights, present.tolist(), strict=True) if is_there]


def join(folder: Path) -> Processes:
    """Meet the other processes; every one of them has to call this.

    Args:
        folder: of this machine's launcher. On one machine all meet by a file in it, and no port is opened to others.

    Raises:
        PeerLost: they did not all come.
    """
    seat = Seat.from_environment()
    patience = timedelta(seconds=PATIENCE_SECONDS)
    if torch.cuda.is_available():
        torch.cuda.set_device(seat.place_here % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _noticing_losses():
        store = _file_in(folder, seat) if seat.is_on_one_machine else _server(seat, patience)
        dist.init_process_group(backend, store=store, rank=seat.place, world_size=seat.size, timeout=patience)
    crew = Processes(seat, store)
    (crew.restarts,) = crew.sum([0 if seat.place_here else seat.begun])
    return crew


def _file_in(folder: Path, seat: Seat) -> Any:
    from torch.distributed import FileStore  # type: ignore[attr-defined]

    return FileStore(str(folder / f"meeting-{seat.begun}"), seat.size)


def _server(seat: Seat, patience: timedelta) -> Any:
    """A store in the first process, which its launcher found a free port for."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=seat.place == 0, wait_for_workers=False, timeout=patience)


@contextmanager
def _noticing_losses() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(str(error)) from error


class _Bucket:
    """Gradients of some weights end to end."""

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self._weights = weights
        self.flat = torch.cat([_gradient(weight).reshape(-1) for weight in weights])

    def hand_out(self) -> None:
        sizes = [weight.numel() for weight in self._weights]
        for weight, part in zip(self._weights, torch.split(self.flat, sizes), strict=True):
            _gradient(weight).copy_(part.view_as(weight))


def _gradient(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def _buckets(weights: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of the same type and device, as many as fit."""
    group: list[nn.Parameter] = []
    size = 0
    for weight in weights:
        bytes_here = weight.numel() * _gradient(weight).element_size()
        alike = not group or (group[0].dtype, group[0].device) == (weight.dtype, weight.device)
        if group and (not alike or size + bytes_here > BUCKET_BYTES):
            yield group
            group, size = [], 0
        group.append(weight)
        size += bytes_here
    if group:
        yield group
