"""Calling other services: one channel per address, retries as data, deadlines and request ids passed on."""

import asyncio
import json
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from feinschliff.kit.client_interceptors import Outgoing, aio_interceptors, sync_interceptor
from feinschliff.kit.metrics import Metrics

MESSAGE_CAP_BYTES = 16 * 1024 * 1024
METADATA_CAP_BYTES = 64 * 1024
SAFE_PREFIXES = ("Get", "List", "Watch", "Read", "Check", "BatchGet", "Compare", "Resolve")
CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", MESSAGE_CAP_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_CAP_BYTES),
    ("grpc.max_metadata_size", METADATA_CAP_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_CAP_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

_lock = threading.Lock()
_aio: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[object, ...], grpc.aio.Channel]]" = (
    weakref.WeakKeyDictionary()
)
_sync: dict[tuple[object, ...], grpc.Channel] = {}


def channel(
    address: str,
    *,
    name: str,
    services: Sequence[str] = (),
    metrics: Metrics | None = None,
    timeout_seconds: float = 30,
) -> grpc.aio.Channel:
    """The channel to `address` of the running loop; made once and reused, never closed by its users.

    Args:
        name: the service as people call it; two names at one address get a channel each.
        services: full names whose safe methods are repeated when the server is unavailable: reads by their name, and
            creates, because each gets a `request_id` if it has none. Their generated modules must be imported.
        metrics: where grpc_client_* is counted.
        timeout_seconds: deadline of unary calls that bring none; never beyond that of the call being answered.
    """
    key = (address, name, tuple(services), id(metrics), timeout_seconds)
    with _lock:
        channels = _aio.setdefault(asyncio.get_running_loop(), {})
        if key not in channels:
            channels[key] = grpc.aio.insecure_channel(
                address,
                options=_options(services),
                interceptors=aio_interceptors(Outgoing(name, metrics, timeout_seconds)),
            )
        return channels[key]


def sync_channel(
    address: str,
    *,
    name: str,
    services: Sequence[str] = (),
    metrics: Metrics | None = None,
    timeout_seconds: float = 30,
) -> grpc.Channel:
    """The same for plain threads: programs, reconcilers, the command line."""
    key = (address, name, tuple(services), id(metrics), timeout_seconds)
    with _lock:
        if key not in _sync:
            plain = grpc.insecure_channel(address, options=_options(services))
            _sync[key] = grpc.intercept_channel(plain, sync_interceptor(Outgoing(name, metrics, timeout_seconds)))
        return _sync[key]


async def close_channels() -> None:
    """Closes the channels of the running loop."""
    with _lock:
        channels = _aio.pop(asyncio.get_running_loop(), {})
    for one in channels.values():
        await one.close()


def close_sync_channels() -> None:
    with _lock:
        channels = list(_sync.values())
        _sync.clear()
    for one in channels:
        one.close()


def service_config(services: Sequence[ServiceDescriptor]) -> str:
    """The gRPC service config that repeats safe methods, and only them."""
    names = [{"service": s.full_name, "method": m.name} for s in services for m in s.methods if _is_safe(m)]
    config: dict[str, Any] = {"retryThrottling": {"maxTokens": 20, "tokenRatio": 0.5}}
    if names:
        config["methodConfig"] = [{"name": names, "retryPolicy": RETRY_POLICY}]
    return json.dumps(config)


def _is_safe(method: Any) -> bool:
    if method.client_streaming:
        return False
    return method.name.startswith(SAFE_PREFIXES) or "request_id" in method.input_type.fields_by_name


def _options(services: Sequence[str]) -> list[tuple[str, int | str]]:
    pool = descriptor_pool.Default()
    found = [pool.FindServiceByName(name) for name in services]
    return [*CHANNEL_OPTIONS, ("grpc.service_config", service_config(found)), ("grpc.enable_retries", 1)]
