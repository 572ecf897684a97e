"""All services that need no torch, in one process, each on its own port as on a cluster."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import NoReturn, cast

from feinschliff.cli.settings import PlatformSettings
from feinschliff.kit import failpoints, logs, threads
from feinschliff.kit.errors import StartError
from feinschliff.kit.server import Room, serve
from feinschliff.kit.settings import read_settings

ROOMS = ("ingestion", "training", "evaluation", "registry", "gateway")


def wire(settings: PlatformSettings) -> Sequence[Room]:
    """Every room, databases migrated; none listens yet."""
    wires = [_wire_of(room) for room in ROOMS]
    with ThreadPoolExecutor(len(wires), thread_name_prefix="wire") as pool:
        wired = [pool.submit(wire_room, settings) for wire_room in wires]
        return [room.result() for room in wired]


def main() -> NoReturn:
    try:
        settings = read_settings(PlatformSettings)
        logs.configure(settings.log_level, settings.log_format)
        failpoints.configure(settings.failpoints)
        asyncio.run(_serve(settings))
    except StartError as error:
        print("\n".join(error.problems), file=sys.stderr)
        sys.exit(StartError.exit_code)
    sys.stdout.flush()
    sys.stderr.flush()
    if threads.in_flight():
        os._exit(0)
    sys.exit(0)


async def _serve(settings: PlatformSettings) -> None:
    await serve(await asyncio.to_thread(wire, settings), settings)


def _wire_of(room: str) -> Callable[[PlatformSettings], Room]:
    module = import_module(f"feinschliff.{room}.__main__")
    return cast(Callable[[PlatformSettings], Room], module.wire)


if __name__ == "__main__":
    main()
