"""What to run: the same words for a subprocess and for a Kubernetes Job."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from feinschliff.kit.errors import Invalid
from feinschliff.workloads.profiles import Profile

NAME_CHARS_MAX = 63
PYTHON = "python"
RENDEZVOUS = "FEINSCHLIFF_TRAINER_RENDEZVOUS"
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_HASH_CHARS = 8


@dataclass(frozen=True)
class WorkloadSpec:
    """One program to run once.

    Args:
        name: 1..63 of `[a-z0-9.-]`, see `workload_name`; a name is used once and never again with another command.
        command: program and arguments; no shell. The program `python` is the interpreter that has this code: the one
            that runs us on this machine, the image's on a cluster.
        env: plain settings; may be written to disk.
        secret_env: settings that never touch the disk.
        secrets: of the cluster's namespace, given to the program as folders of files below its home; on this machine
            they lie there already.
        labels: what `Runner.list` selects by.
        grace_seconds: from the request to stop until it is killed.
        log_path: where its output goes (appended); None: beside the runner's own files.
        deadline_seconds: from its start to its end at most, enforced by the machine; None: no limit.
        profile: where it runs and with what; None: wherever the runner is.
        nodes: machines that run the command together and find each other by the address in `RENDEZVOUS`; only on a
            cluster more than 1.
        may_be_warm: whether a process of this machine that stands ready may become it; it has to be one alone.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    grace_seconds: float = 30.0
    log_path: Path | None = None
    deadline_seconds: float | None = None
    profile: Profile | None = None
    nodes: int = 1
    may_be_warm: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.command:
            raise Invalid("WORKLOAD_COMMAND_EMPTY", f"{self.name} has no command.", name=self.name)


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Invalid("WORKLOAD_NAME_INVALID", f"{name[:100]!r} is no name of a workload.", name=name[:100])
    return name


def workload_name(*parts: str | int) -> str:
    """A valid name that follows from its parts: readable, and distinct for distinct parts.

    `workload_name("training", "ftjob-a1", 2)` is `training-ftjob-a1-2`; parts that do not fit get a short hash.
    """
    wanted = "-".join(str(part) for part in parts)
    if _NAME.fullmatch(wanted):
        return wanted
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:_HASH_CHARS]
    readable = re.sub(r"[^a-z0-9.-]+", "-", wanted.lower()).strip("-.")[: NAME_CHARS_MAX - _HASH_CHARS - 1].rstrip("-.")
    return f"{readable}-{digest}" if readable else digest
