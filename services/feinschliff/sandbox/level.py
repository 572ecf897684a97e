"""What compiled code is made for; part of its name."""

from __future__ import annotations

import platform
import sys

STACK_BYTES = 1024 * 1024
"""Of machine stack for the guest; deeper recursion ends the run."""


def is_levelled() -> bool:
    """Whether code is made for a level of processors, x86-64-v2, instead of for this one."""
    return sys.platform == "linux" and platform.machine() == "x86_64"
