"""What a workload on this machine finds in its environment, and what of it a process cannot change after its start."""

from __future__ import annotations

import os
from collections.abc import Mapping

from feinschliff.kit.settings import ENV_PREFIX
from feinschliff.kit.tracing import TRACEPARENT_VARIABLE

COERCED = "LC_CTYPE"
"""Python sets it for itself and for what it starts where the locale is C (PEP 538)."""

INHERITED = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "SSL_CERT_FILE", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip


def environment(*more: Mapping[str, str]) -> dict[str, str]:
    """`INHERITED` of ours, then each of these; the later one counts."""
    found = {name: os.environ[name] for name in INHERITED if name in os.environ}
    for variables in more:
        found.update(variables)
    return found


def lasting(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that the C library, the interpreter or a package may have read before a process knows what it is to do.

    Our own settings and the trace are read when the work begins, so they may differ; all others may not.
    """
    return {
        name: value
        for name, value in variables.items()
        if not name.startswith(ENV_PREFIX) and name != TRACEPARENT_VARIABLE
    }


def take(variables: Mapping[str, str]) -> None:
    """Let this process have the environment that a cold start would have given it."""
    coerced = {name: value for name, value in os.environ.items() if name == COERCED}
    os.environ.clear()
    os.environ.update({**coerced, **variables})
