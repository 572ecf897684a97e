"""Addresses to listen on, and what is said when one cannot be had."""

from feinschliff.kit.errors import StartError
from feinschliff.kit.settings import ENV_PREFIX


def with_port(host: str, port: int) -> str:
    """`host:port` as gRPC wants it; an IPv6 address gets its brackets."""
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{bracketed}:{port}"


def cannot_listen(setting: str, host: str, port: int, error: Exception) -> StartError:
    return StartError([f"{ENV_PREFIX}{setting}: cannot listen on {host}:{port}: {error}"])
