"""What a machine offers is read from its profile, and where that is silent from the machine."""

from __future__ import annotations

import pytest

from feinschliff.training.machine import bytes_of, likely_precision, memory_of, memory_of_this_machine
from feinschliff.workloads.profiles import Profile


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("512Mi", 512 * 1024**2),
        ("1.5Gi", 3 * 1024**3 // 2),
        ("16G", 16_000_000_000),
        ("100k", 100_000),
        ("2Ki", 2048),
        ("1e9", 1_000_000_000),
        ("8589934592", 8_589_934_592),
        ("1500m", 1),
        ("much", 0),
        ("", 0),
    ],
)
def test_quantities_are_kubernetes_own(quantity: str, expected: int) -> None:
    assert bytes_of(quantity) == expected


def test_a_limit_outranks_the_machine() -> None:
    limited = Profile(name="small", resources={"limits": {"memory": "2Gi"}})
    assert memory_of(limited, local=True) == memory_of(limited, local=False) == 2 * 1024**3


def test_without_a_limit_only_this_machine_is_known() -> None:
    free = Profile(name="free")
    assert memory_of(free, local=True) == memory_of_this_machine() > 0
    assert memory_of(free, local=False) == 0


def test_a_precision_that_is_said_is_sure() -> None:
    assert likely_precision("bf16", local=False, gpus=0) == ("bf16", True)
    assert likely_precision("auto", local=False, gpus=0) == ("fp32", False)
    assert likely_precision("auto", local=True, gpus=0)[1]
