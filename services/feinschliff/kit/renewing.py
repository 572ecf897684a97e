"""A channel whose certificate may be renewed: new calls go over a new channel, those that run end on the old one."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc

from feinschliff.kit.tls import Pem, Tls, channel_credentials

C = TypeVar("C", bound=grpc.Channel | grpc.aio.Channel)


class Renewing(Generic[C]):
    """What generated stubs need of a channel, blocking or asyncio.

    At most one former channel stays open: the one before it is closed when the next certificate comes, which cuts
    calls older than that.

    Args:
        dial: makes a channel with these credentials.
        close: closes channels; what it returns is what `close` here returns.
    """

    def __init__(
        self, tls: Tls, dial: Callable[[grpc.ChannelCredentials], C], close: Callable[[Sequence[C]], Any]
    ) -> None:
        self._tls = tls
        self._dial = dial
        self._close = close
        self._lock = threading.Lock()
        self._pem: Pem | None = None
        self._channels: list[C] = []  # oldest first

    def current(self) -> C:
        """The channel for a call that begins now."""
        pem = self._tls.pem()
        with self._lock:
            if pem is not self._pem:
                self._channels.append(self._dial(channel_credentials(pem)))
                self._pem = pem
                outdated, self._channels = self._channels[:-2], self._channels[-2:]
                if outdated:
                    self._close(outdated)
            return self._channels[-1]

    def close(self) -> Any:
        with self._lock:
            channels, self._channels, self._pem = self._channels, [], None
        return self._close(channels)

    def unary_unary(self, *arguments: Any, **named: Any) -> "_Method":
        return _Method(lambda: self.current().unary_unary(*arguments, **named), self.current)

    def unary_stream(self, *arguments: Any, **named: Any) -> "_Method":
        return _Method(lambda: self.current().unary_stream(*arguments, **named), self.current)

    def stream_unary(self, *arguments: Any, **named: Any) -> "_Method":
        return _Method(lambda: self.current().stream_unary(*arguments, **named), self.current)

    def stream_stream(self, *arguments: Any, **named: Any) -> "_Method":
        return _Method(lambda: self.current().stream_stream(*arguments, **named), self.current)


class _Method:
    """One method of a service, on whichever channel is current when it is called."""

    def __init__(self, make: Callable[[], Any], current: Callable[[], object]) -> None:
        self._make = make
        self._current = current
        self._made: tuple[object, Any] | None = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._now()(*arguments, **named)

    def with_call(self, *arguments: Any, **named: Any) -> Any:
        return self._now().with_call(*arguments, **named)

    def future(self, *arguments: Any, **named: Any) -> Any:
        return self._now().future(*arguments, **named)

    def _now(self) -> Any:
        channel, made = self._current(), self._made
        if made is None or made[0] is not channel:
            made = self._made = (channel, self._make())
        return made[1]
