"""The trainer's memory comes from the system once, and what one tensor leaves the next one takes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from feinschliff.lm.allocator import ALLOCATOR

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

FAULTS = """
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

GROWTH_MIB = """
import resource
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

torch.set_num_threads(1)

class Layer(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.up, self.gate, self.down = nn.Linear(hidden, inner), nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.requires_grad_(False)
        self.trained = nn.Parameter(torch.zeros(hidden))

    def forward(self, x):
        y = self.norm(x) + self.trained
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))

layers = [Layer(32, 2048) for _ in range(24)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x = torch.randn(900, 32)
for layer in layers:
    x = checkpoint(layer, x, use_reentrant=False)
x.sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""

GROWTH_MIB_MAX = 220
"""Of tensors there are 45 MiB at most, of one layer; the heap grows by 64. glibc 2.36 left as it is takes 450."""


def said(program: str, environment: dict[str, str]) -> int:
    clean = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**clean, **environment}, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def test_memory_that_a_step_gave_back_is_not_asked_for_again() -> None:
    assert said(FAULTS, dict(ALLOCATOR)) < said(FAULTS, {}) / 10


def test_activations_computed_twice_leave_no_holes_in_the_heap() -> None:
    assert said(GROWTH_MIB, dict(ALLOCATOR)) < GROWTH_MIB_MAX
