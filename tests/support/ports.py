"""Free loopback ports."""

from __future__ import annotations

from feinschliff.cli.embedded_s3 import free_ports


def free_port() -> int:
    return free_ports(1)[0]
