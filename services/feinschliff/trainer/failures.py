"""Why an attempt failed: an ordered table, in which the first row that knows an error names it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import NamedTuple

from feinschliff.formats.report import ExitCode, Failure
from feinschliff.kit.errors import Invalid, NotFound, Refusal, WrongState

CRASHED = 1
MESSAGE_CHARS_MAX = 4000
ADVICE_LINES_MAX = 16

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Rule(NamedTuple):
    """One kind of failure; `knows` looks at an error, or at what caused it.

    `blames_inputs`: data, base or adapter of the job are at fault, not the machine.
    """

    reason: str
    knows: Callable[[BaseException], bool]
    what: str
    advice: tuple[str, ...]
    retryable: bool
    blames_inputs: bool = False


class Ending(NamedTuple):
    """What the job's owner reads, and what the process says by its exit code."""

    failure: Failure
    exit_code: int


def ending_of(error: BaseException) -> Ending:
    """How an attempt ends that `error` ended.

    A machine's want of memory or disk outranks the refusal that was made of it; a refusal outranks every other row.
    """
    chain = list(_with_causes(error))
    for rule in MACHINE:
        if any(rule.knows(one) for one in chain):
            return _by_rule(rule, error)
    if isinstance(error, Refusal):
        return _by_refusal(error)
    for rule in INPUTS:
        if any(rule.knows(one) for one in chain):
            return _by_rule(rule, error)
    return _by_rule(UNKNOWN, error)


def _by_rule(rule: Rule, error: BaseException) -> Ending:
    failure = Failure(
        reason=rule.reason,
        message=f"{rule.what} {_own_words(error)}"[:MESSAGE_CHARS_MAX],
        advice=list(rule.advice),
        retryable=rule.retryable,
    )
    return Ending(failure, ExitCode.DATA_BAD if rule.blames_inputs else CRASHED)


def _by_refusal(refusal: Refusal) -> Ending:
    """Only what lies in the work itself is final."""
    final = isinstance(refusal, Invalid | NotFound | WrongState)
    failure = Failure(
        reason=refusal.reason,
        message=refusal.message[:MESSAGE_CHARS_MAX],
        advice=list(refusal.advice)[:ADVICE_LINES_MAX],
        retryable=not final,
    )
    return Ending(failure, ExitCode.DATA_BAD if final else CRASHED)


def _own_words(error: BaseException) -> str:
    return error.message if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on; an error that merely came up while another was handled is not."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__


def _is(error: BaseException, package: str, name: str) -> bool:
    """Whether it is of this class, by name: a process that never imported the package need not do so to fail."""
    return any(kind.__name__ == name and kind.__module__.partition(".")[0] == package for kind in type(error).__mro__)


def _says(error: BaseException, *phrases: str) -> bool:
    """Whether a library of compiled code says so; it has no class for each of its errors."""
    if not (isinstance(error, RuntimeError) or _is(error, "safetensors", "SafetensorError")):
        return False
    text = str(error).lower()
    return any(phrase in text for phrase in phrases)


def _out_of_device_memory(error: BaseException) -> bool:
    return _is(error, "torch", "OutOfMemoryError") or _says(
        error, "cuda out of memory", "cuda error: out of memory", "cublas_status_alloc_failed"
    )


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or _says(
        error, "not enough memory", "can't allocate memory", "cannot allocate memory", "std::bad_alloc"
    )


def _disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    return _says(error, "no space left on device", "disk quota exceeded")


def _device_unsuitable(error: BaseException) -> bool:
    return _says(
        error,
        "no kernel image is available",
        "driver version is insufficient",
        "driver on your system is too old",
        "no cuda-capable device",
        "found no nvidia driver",
        "no cuda gpus are available",
    )


def _device_failed(error: BaseException) -> bool:
    return _is(error, "torch", "AcceleratorError") or _says(
        error, "cuda error", "cudnn error", "cudnn_status", "cublas_status", "nccl error", "hip error"
    )


def _adapter_unfit(error: BaseException) -> bool:
    return _says(error, "error(s) in loading state_dict", "size mismatch for")


def _weights_unreadable(error: BaseException) -> bool:
    return _is(error, "safetensors", "SafetensorError") and "deserializ" in str(error).lower()


TRAIN_SMALLER = (
    "Lower optimisation.micro_batch_tokens: it bounds memory and does not change the result.",
    "Lower optimisation.max_row_tokens, with on_long_row truncate or drop: a single row is never divided.",
    "Choose an execution profile with more memory, or a smaller base.",
)

# What a machine lacks; looked for first and in causes too, because it hides behind other errors.
MACHINE: tuple[Rule, ...] = (
    Rule(
        "DEVICE_OUT_OF_MEMORY",
        _out_of_device_memory,
        "The accelerator has too little memory for this work.",
        TRAIN_SMALLER,
        retryable=False,
    ),
    Rule(
        "OUT_OF_MEMORY",
        _out_of_memory,
        "The machine gave the trainer too little memory for this work.",
        TRAIN_SMALLER,
        retryable=False,
    ),
    Rule(
        "DISK_FULL",
        _disk_full,
        "The trainer's disk is full.",
        ("Free space where FEINSCHLIFF_TRAINER_CACHE lies, or raise the execution profile's `scratch`.",),
        retryable=True,
    ),
    Rule(
        "DEVICE_UNSUITABLE",
        _device_unsuitable,
        "This installation's torch cannot use the machine's accelerator.",
        ("Choose another execution profile.", "Match the image's torch with the accelerator and its driver."),
        retryable=False,
    ),
    Rule(
        "DEVICE_FAILED",
        _device_failed,
        "The accelerator failed.",
        ("Look for hardware errors in the machine's log.", "Choose another execution profile."),
        retryable=True,
    ),
)

# What the job names and cannot be used; refusals, which say more, come before these.
INPUTS: tuple[Rule, ...] = (
    Rule(
        "ADAPTER_UNFIT",
        _adapter_unfit,
        "Saved weights do not fit the layers of the base.",
        ("Continue from a version that was trained on this base.",),
        retryable=False,
        blames_inputs=True,
    ),
    Rule(
        "WEIGHTS_UNREADABLE",
        _weights_unreadable,
        "A file of weights is damaged.",
        ("Start a new job, from the base or from another version.",),
        retryable=False,
        blames_inputs=True,
    ),
)

UNKNOWN = Rule("TRAINER_CRASHED", lambda error: True, "A fault in the trainer.", (), retryable=True)

RULES = (*MACHINE, *INPUTS, UNKNOWN)
