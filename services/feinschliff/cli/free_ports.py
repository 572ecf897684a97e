"""Free loopback ports, each handed out once until all others were: programs that start at once never get the same."""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from feinschliff.kit.errors import Unavailable

LOOPBACK = "127.0.0.1"
SINGLES = (10_240, 20_000)
PAIRS = (20_000, 22_768)
PAIR_OFFSET = 10_000
"""All below 32768, where systems begin to take ports for outgoing connections."""

_ANYWHERE = itertools.count(random.SystemRandom().randrange(1 << 16))


def free_ports(number: int) -> list[int]:
    """Distinct loopback ports that nobody listens on right now.

    Raises:
        Unavailable: PORTS_EXHAUSTED.
    """
    return [_next(SINGLES, is_free) for _ in range(number)]


def free_pair() -> int:
    """A free port whose twin `PAIR_OFFSET` above is free too.

    Raises:
        Unavailable: PORTS_EXHAUSTED.
    """
    return _next(PAIRS, lambda port: is_free(port) and is_free(port + PAIR_OFFSET))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _next(ports: tuple[int, int], usable: Callable[[int], bool]) -> int:
    for port in _turns(*ports):
        if usable(port):
            return port
    raise Unavailable("PORTS_EXHAUSTED", f"No port from {ports[0]} to {ports[1] - 1} is free on this machine.")


def _turns(first: int, end: int) -> Iterator[int]:
    """Every port of the range once, going on where the last caller of this user, in whatever process, stopped."""
    for _ in range(first, end):
        yield first + _count(Path(tempfile.gettempdir()) / f"feinschliff-ports-{os.getuid()}-{first}") % (end - first)


def _count(path: Path) -> int:
    """One more than the last caller got; where the folder cannot be written, than this process's last one did."""
    with suppress(OSError, ValueError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "r+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = file.read(20)
            number = (int(before) if before.isdecimal() else next(_ANYWHERE)) + 1
            file.seek(0)
            file.truncate()
            file.write(str(number))
        return number
    return next(_ANYWHERE)
