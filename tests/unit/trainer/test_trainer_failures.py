"""Each way in which an attempt fails has its name, and says whether to come back."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from feinschliff.formats.report import ExitCode
from feinschliff.kit.errors import Exhausted, Invalid, NotFound, Refusal, Unavailable, WrongState
from feinschliff.trainer.failures import CRASHED, RULES, UNKNOWN, ending_of

CPU_ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    " 309237645312 bytes. Error code 12 (Cannot allocate memory)"
)
LAUNCH = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "DEVICE_OUT_OF_MEMORY"),
        (RuntimeError("CUDA error: out of memory"), "DEVICE_OUT_OF_MEMORY"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "DEVICE_OUT_OF_MEMORY"),
        (MemoryError(), "OUT_OF_MEMORY"),
        (RuntimeError(CPU_ALLOCATOR), "OUT_OF_MEMORY"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), "OUT_OF_MEMORY"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "OUT_OF_MEMORY"),
        (OSError(errno.ENOSPC, "No space left on device"), "DISK_FULL"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "DISK_FULL"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "DISK_FULL"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "DEVICE_UNSUITABLE"),
        (RuntimeError("Found no NVIDIA driver on your system."), "DEVICE_UNSUITABLE"),
        (RuntimeError(LAUNCH), "DEVICE_FAILED"),
        (torch.AcceleratorError("a word that nobody expects"), "DEVICE_FAILED"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "DEVICE_FAILED"),
        (RuntimeError("Error(s) in loading state_dict for X:\n\tsize mismatch for w"), "ADAPTER_UNFIT"),
        (SafetensorError("Error while deserializing header: header too large"), "WEIGHTS_UNREADABLE"),
        (RuntimeError("something else"), "TRAINER_CRASHED"),
        (ValueError("CUDA error is only a word here"), "TRAINER_CRASHED"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "TRAINER_CRASHED"),
        (ZeroDivisionError("division by zero"), "TRAINER_CRASHED"),
    ],
    ids=repr,
)
def test_an_error_has_the_name_of_its_first_row(error: Exception, reason: str) -> None:
    assert ending_of(error).failure.reason == reason


def test_what_the_table_says_is_what_the_job_reads() -> None:
    for rule in RULES:
        assert rule.what.endswith(".")
        assert rule.advice or rule is UNKNOWN
        assert not (rule.blames_inputs and rule.retryable)
    assert len({rule.reason for rule in RULES}) == len(RULES)
    assert RULES[-1] is UNKNOWN


@pytest.mark.parametrize(
    ("error", "retryable", "exit_code"),
    [
        (MemoryError(), False, CRASHED),
        (torch.OutOfMemoryError("CUDA out of memory"), False, CRASHED),
        (OSError(errno.ENOSPC, "No space left on device"), True, CRASHED),
        (RuntimeError(LAUNCH), True, CRASHED),
        (RuntimeError("no CUDA-capable device is detected"), False, CRASHED),
        (RuntimeError("size mismatch for w: copying a param"), False, ExitCode.DATA_BAD),
        (SafetensorError("Error while deserializing: incomplete metadata"), False, ExitCode.DATA_BAD),
        (RuntimeError("something else"), True, CRASHED),
    ],
    ids=repr,
)
def test_only_what_the_job_itself_names_is_its_own_fault(error: Exception, retryable: bool, exit_code: int) -> None:
    ending = ending_of(error)

    assert ending.failure.retryable is retryable
    assert ending.exit_code == exit_code


@pytest.mark.parametrize(
    ("refusal", "final"),
    [
        (Invalid("REASON", "m", advice=["a"]), True),
        (NotFound("REASON", "m", advice=["a"]), True),
        (WrongState("REASON", "m", advice=["a"]), True),
        (Unavailable("REASON", "m", advice=["a"]), False),
        (Exhausted("REASON", "m", advice=["a"]), False),
    ],
)
def test_a_refusal_keeps_its_words_and_only_what_would_come_again_is_final(refusal: Refusal, final: bool) -> None:
    failure, exit_code = ending_of(refusal)

    assert (failure.reason, failure.message, failure.advice) == ("REASON", "m", ["a"])
    assert failure.retryable is not final
    assert exit_code == (ExitCode.DATA_BAD if final else CRASHED)


def caused(refusal: Refusal, cause: Exception) -> Refusal:
    refusal.__cause__ = cause
    return refusal


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (RuntimeError(CPU_ALLOCATOR), "OUT_OF_MEMORY"),
        (OSError(errno.ENOSPC, "No space left on device"), "DISK_FULL"),
        (OSError(errno.ENOENT, "config.json"), "BASE_MODEL_UNREADABLE"),
        (RuntimeError("size mismatch for w"), "BASE_MODEL_UNREADABLE"),
    ],
)
def test_a_want_of_memory_or_disk_is_not_taken_for_a_bad_base(cause: Exception, reason: str) -> None:
    assert ending_of(caused(Invalid("BASE_MODEL_UNREADABLE", "It cannot be read."), cause)).failure.reason == reason


def test_what_came_up_while_another_error_was_handled_is_not_its_cause() -> None:
    error = ValueError("later")
    error.__context__ = MemoryError()

    assert ending_of(error).failure.reason == "TRAINER_CRASHED"


def test_causes_in_a_circle_come_to_an_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first

    assert ending_of(first).failure.reason == "TRAINER_CRASHED"


def test_a_long_message_is_cut_and_says_what_happened_first() -> None:
    failure = ending_of(RuntimeError(CPU_ALLOCATOR + "x" * 10_000)).failure

    assert len(failure.message) == 4000
    assert failure.message.startswith(
        "The machine gave the trainer too little memory for this work. RuntimeError: [enf"
    )


def allocate_in_torch() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def allocate_in_numpy() -> None:
    np.empty(1 << 60, dtype=np.uint8)


def write_to_a_full_disk() -> None:
    with open("/dev/full", "wb") as file:
        file.write(b"x" * 100_000)


def load_another_shape() -> None:
    nn.Linear(2, 2).load_state_dict({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)})


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (allocate_in_torch, "OUT_OF_MEMORY"),
        (allocate_in_numpy, "OUT_OF_MEMORY"),
        (write_to_a_full_disk, "DISK_FULL"),
        (load_another_shape, "ADAPTER_UNFIT"),
    ],
)
def test_what_libraries_really_raise_is_known(act: Callable[[], None], reason: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        act()

    assert ending_of(caught.value).failure.reason == reason


def test_a_file_of_weights_that_was_cut_off_is_known(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(SafetensorError) as caught:
        load_file(path)

    assert ending_of(caught.value).failure.reason == "WEIGHTS_UNREADABLE"
