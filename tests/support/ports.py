"""Free loopback ports."""

from __future__ import annotations

from feinschliff.cli.free_ports import free_ports


def free_port() -> int:
    return free_ports(1)[0]
