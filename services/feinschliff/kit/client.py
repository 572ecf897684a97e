"""Calling other services: one channel per address, retries as data, deadlines and request ids passed on."""

import asyncio
import json
import threading
import weakref
from collections.abc import Sequence
from typing import Any, cast

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from feinschliff.kit.client_interceptors import Outgoing, aio_interceptors, sync_interceptor
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.renewing import Renewing
from feinschliff.kit.tls import channel_credentials, configured

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
    ("grpc.max_reconnect_backoff_ms", 1_000),  # who comes back is found within a second
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),  # a pod that is replaced comes back under another address
)
RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    # gRPC answers CANCELLED to a call that a stopping server had received but not yet begun; our own is never repeated.
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}

_lock = threading.Lock()
_aio: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[object, ...], grpc.aio.Channel]]" = (
    weakref.WeakKeyDictionary()
)
_sync: dict[tuple[object, ...], grpc.Channel] = {}
_closing: set[asyncio.Future[None]] = set()


def channel(
    address: str,
    *,
    name: str,
    services: Sequence[str] = (),
    metrics: Metrics | None = None,
    timeout_seconds: float = 30,
) -> grpc.aio.Channel:
    """The channel to `address` of the running loop; made once and reused, never closed by its users.

    It speaks as `tls.configure` said, and to all addresses that a DNS name has, in turns.

    Args:
        name: the service as people call it; two names at one address get a channel each.
        services: full names whose safe methods are repeated when the server is unavailable: reads by their name, and
            creates, because each gets a `request_id` if it has none. Their generated modules must be imported.
        metrics: where grpc_client_* is counted.
        timeout_seconds: deadline of unary calls that bring none; never beyond that of the call being answered.
    """
    key = (address, name, tuple(services), id(metrics), timeout_seconds, configured())
    with _lock:
        channels = _aio.setdefault(asyncio.get_running_loop(), {})
        if key not in channels:
            channels[key] = _dial_aio(address, _options(services), Outgoing(name, metrics, timeout_seconds))
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
    key = (address, name, tuple(services), id(metrics), timeout_seconds, configured())
    with _lock:
        if key not in _sync:
            _sync[key] = _dial_sync(address, _options(services), Outgoing(name, metrics, timeout_seconds))
        return _sync[key]


def bare_channel(address: str) -> grpc.Channel:
    """A new channel without retries and interceptors, to be closed by its user."""
    tls = configured()
    if tls is None:
        return grpc.insecure_channel(address)
    return grpc.secure_channel(address, channel_credentials(tls.pem()))


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
    _close_sync(channels)


def service_config(services: Sequence[ServiceDescriptor]) -> str:
    """The gRPC service config: calls go to all addresses in turns; safe methods, and only they, are repeated."""
    names = [{"service": s.full_name, "method": m.name} for s in services for m in s.methods if _is_safe(m)]
    config: dict[str, Any] = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.5},
    }
    if names:
        config["methodConfig"] = [{"name": names, "retryPolicy": RETRY_POLICY}]
    return json.dumps(config)


Options = list[tuple[str, int | str]]


def _dial_aio(address: str, options: Options, outgoing: Outgoing) -> grpc.aio.Channel:
    tls, interceptors = configured(), aio_interceptors(outgoing)
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)

    def dial(credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)

    return cast(grpc.aio.Channel, Renewing(tls, dial, _close_aio))


def _dial_sync(address: str, options: Options, outgoing: Outgoing) -> grpc.Channel:
    tls, interceptor = configured(), sync_interceptor(outgoing)
    if tls is None:
        return grpc.intercept_channel(grpc.insecure_channel(address, options=options), interceptor)

    def dial(credentials: grpc.ChannelCredentials) -> grpc.Channel:
        return grpc.intercept_channel(grpc.secure_channel(address, credentials, options=options), interceptor)

    return cast(grpc.Channel, Renewing(tls, dial, _close_sync))


def _close_aio(channels: Sequence[grpc.aio.Channel]) -> asyncio.Future[None]:
    async def close_all() -> None:
        for one in channels:
            await one.close()

    closing = asyncio.ensure_future(close_all())
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)
    return closing


def _close_sync(channels: Sequence[grpc.Channel]) -> None:
    for one in channels:
        one.close()


def _is_safe(method: Any) -> bool:
    if method.client_streaming:
        return False
    return method.name.startswith(SAFE_PREFIXES) or "request_id" in method.input_type.fields_by_name


def _options(services: Sequence[str]) -> Options:
    pool = descriptor_pool.Default()
    found = [pool.FindServiceByName(name) for name in services]
    return [*CHANNEL_OPTIONS, ("grpc.service_config", service_config(found)), ("grpc.enable_retries", 1)]
