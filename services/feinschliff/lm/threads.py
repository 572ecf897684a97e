"""How threads of computation wait: politely, because other processes use the same cores."""

from __future__ import annotations

import os

SPINS = "1000"
"""Turns of a waiting loop before a thread sleeps, some 30 microseconds; libgomp's own default is 300,000.

Two processes with two threads each on two cores: the default made less than one step of 1,032 tokens a minute, this 170
to 290 tokens/s, a purely passive wait 110 to 160.
"""


def share_cores() -> None:
    """Let waiting threads of this process sleep early; only of use before torch is first imported."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS
