"""All services that need no torch, in one process, each on its own port as on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import cast

from feinschliff.cli.settings import PlatformSettings
from feinschliff.kit.server import Room, run

ROOMS = ("ingestion", "training", "evaluation", "registry", "gateway")


def wire(settings: PlatformSettings) -> Sequence[Room]:
    """Every room, databases migrated; none listens yet."""
    wires = [_wire_of(room) for room in ROOMS]
    with ThreadPoolExecutor(len(wires), thread_name_prefix="wire") as pool:
        wired = [pool.submit(wire_room, settings) for wire_room in wires]
        return [room.result() for room in wired]


def _wire_of(room: str) -> Callable[[PlatformSettings], Room]:
    module = import_module(f"feinschliff.{room}.__main__")
    return cast(Callable[[PlatformSettings], Room], module.wire)


if __name__ == "__main__":
    run(wire, PlatformSettings)
