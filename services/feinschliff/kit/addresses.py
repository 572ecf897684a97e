"""Addresses to listen on, what is said when one cannot be had, and whether one is of this installation."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from feinschliff.kit.errors import StartError
from feinschliff.kit.settings import ENV_PREFIX


def with_port(host: str, port: int) -> str:
    """`host:port` as gRPC wants it; an IPv6 address gets its brackets."""
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{bracketed}:{port}"


def cannot_listen(setting: str, host: str, port: int, error: Exception) -> StartError:
    return StartError([f"{ENV_PREFIX}{setting}: cannot listen on {host}:{port}: {error}"])


def is_inside(url: str) -> bool:
    """Whether a URL's host belongs to this machine, a private network or the cluster, as far as its name tells."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        return ip_address(host).is_private
    except ValueError:
        return bool(host) and ("." not in host or host.endswith((".svc", ".local", ".internal", ".localhost")))
