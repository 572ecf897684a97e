"""What a machine offers, as far as it can be known without running anything there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from feinschliff.workloads.profiles import Profile

MEMORY_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Words of /proc/cpuinfo for units that multiply bf16, on x86 and on ARM."""

_QUANTITY = re.compile(r"(?P<number>[0-9.]+([eE][+-]?[0-9]+)?)(?P<suffix>[KMGTPE]i|[mkMGTPE])?")
_POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


def memory_of(profile: Profile, *, local: bool) -> int:
    """Bytes that all processes of one node may take together; 0 where nobody says it.

    Args:
        local: whether attempts run on this machine, whose own memory counts where the profile has no limit.
    """
    stated = profile.resources.get("limits", {}).get("memory", "")
    limit = bytes_of(stated) if stated else 0
    return limit or (memory_of_this_machine() if local else 0)


def memory_of_this_machine() -> int:
    """Of the machine, or of the container that we are in, whichever is less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    texts = (path.read_text("ascii").strip() for path in MEMORY_FILES if path.is_file())
    return min([whole, *(int(text) for text in texts if text.isdigit())])


def multiplies_bf16() -> bool:
    """Whether this machine's processor does; a plan must not load torch to ask it."""
    try:
        words = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").split()
    except OSError:
        return False
    return not BF16_FLAGS.isdisjoint(words)


def bytes_of(quantity: str) -> int:
    """A quantity in Kubernetes's words: `512Mi`, `16G`, `1.5Gi`, `8589934592`; 0 for one that is none."""
    found = _QUANTITY.fullmatch(quantity.strip())
    if found is None:
        return 0
    number, suffix = float(found["number"]), found["suffix"] or ""
    if suffix == "m":
        return int(number / 1000)
    base = 1024 if suffix.endswith("i") else 1000
    return int(number * base ** _POWERS[suffix.removesuffix("i").replace("K", "k")])


def likely_precision(wanted: str, *, local: bool, gpus: int) -> tuple[Literal["bf16", "fp32"], bool]:
    """What `auto` will become, and whether that is sure: a machine elsewhere cannot be asked."""
    if wanted == "bf16":
        return "bf16", True
    if wanted == "fp32":
        return "fp32", True
    if gpus:
        return "bf16", False
    if local:
        return ("bf16" if multiplies_bf16() else "fp32"), True
    return "fp32", False
