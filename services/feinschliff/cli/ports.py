"""The ports of a platform: whether they are free, and what to say where one is not."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from feinschliff.cli.free_ports import LOOPBACK
from feinschliff.cli.settings import PlatformSettings, variable
from feinschliff.kit.errors import FieldViolation, WrongState


def check_free(settings: PlatformSettings) -> None:
    """Raises WrongState PORT_TAKEN, naming every port that is in use and its environment variable."""
    fields = [
        FieldViolation(variable(name), f"port {port} is in use", "PORT_TAKEN")
        for name, port in settings.ports().items()
        if not _is_free(_host_of(name, settings), port)
    ]
    double = _named_twice(settings.ports())
    fields += [FieldViolation(variable(name), f"port {port} is named twice", "PORT_TAKEN") for name, port in double]
    if not fields:
        return
    told = "; ".join(f"{field.field}: {field.description}" for field in fields)
    raise WrongState(
        "PORT_TAKEN",
        f"The platform cannot listen: {told}.",
        fields=fields,
        advice=[f"Stop what listens there, or set another port, or 0 for a free one: {fields[0].field}=0"],
        variables=",".join(field.field for field in fields),
    )


def _host_of(name: str, settings: PlatformSettings) -> str:
    return {"gateway_port": settings.http_host, "s3_port": LOOPBACK}.get(name, settings.bind_host)


def _named_twice(ports: Mapping[str, int]) -> list[tuple[str, int]]:
    seen: dict[int, str] = {}
    return [(name, port) for name, port in ports.items() if seen.setdefault(port, name) != name]


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
