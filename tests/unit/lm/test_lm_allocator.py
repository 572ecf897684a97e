"""The trainer's memory comes from the system once."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from feinschliff.lm.allocator import ALLOCATOR

ROUNDS = """
import resource
import numpy as np

def step():
    return sum(float(np.ones(2_000_000)[0]) + len([np.ones(1_000_000) for _ in range(8)]) for _ in range(2))

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(environment: dict[str, str]) -> int:
    clean = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS], env={**clean, **environment}, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_a_step_gave_back_is_not_asked_for_again() -> None:
    assert page_faults(dict(ALLOCATOR)) < page_faults({}) / 10
