"""POSTs to web servers that people name: to checked addresses only, with a bound on time and size."""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import quote, urlsplit

ANSWER_BYTES_MAX = 1 << 20
WORKERS = 32
_READ_BYTES = 65_536
_OUTAGES = (429, 502, 503, 504)
_PATH_SAFE = "/%~!$&'()*+,;=:@-._"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_INWARD = [
    ipaddress.ip_network(one)
    for one in ("192.0.0.0/24", "192.88.99.0/24", "::/96", "64:ff9b:1::/48", "fec0::/10", "3fff::/20", "5f00::/16")
]
"""Not of the internet at large either, whatever this version of Python says."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PostFailed(Exception):
    """No usable answer. Its text names no secret.

    Args:
        again: another try may help.
        is_outage: the server is not there at present, whatever it is asked.
    """

    def __init__(self, why: str, *, again: bool, is_outage: bool = False) -> None:
        super().__init__(why)
        self.again = again
        self.is_outage = is_outage


class Post(NamedTuple):
    """One POST of JSON."""

    url: str
    headers: Mapping[str, str]
    body: object
    timeout_seconds: float


class Reach(NamedTuple):
    """Where posts may go: to machines of this network, and to those outside."""

    private: bool
    public: bool

    def allows(self, address: Address) -> bool:
        return self.public if is_public(address) else self.private


def is_public(address: Address) -> bool:
    """Whether the address belongs to the internet at large, looking through addresses that wrap another."""
    inner = _wrapped(address)
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast and not any(address in one for one in _INWARD)


def _wrapped(address: Address) -> Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


class Poster:
    """Threads that post; each post goes to the very address that was checked, and follows no redirect."""

    def __init__(self, certificates: ssl.SSLContext | None = None) -> None:
        self._certificates = certificates
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="post")

    @property
    def pool(self) -> ThreadPoolExecutor:
        return self._pool

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def send(self, post: Post, reach: Reach) -> object:
        """The answer as JSON values; blocking.

        Raises:
            PostFailed: the address is not allowed, the server does not answer in time with 2xx, or not with JSON.
        """
        until = time.monotonic() + post.timeout_seconds
        parts = urlsplit(post.url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        address = _resolved(host, port, reach)
        connection = self._connection(parts.scheme, host, port, address, post.timeout_seconds)
        timer = threading.Timer(max(until - time.monotonic(), 0.001), _cut, (connection,))
        timer.daemon = True
        timer.start()
        try:
            path = quote(parts.path or "/", safe=_PATH_SAFE) + (
                f"?{quote(parts.query, safe=_PATH_SAFE + '?')}" if parts.query else ""
            )
            headers = {"content-type": "application/json", "accept": "application/json", **post.headers}
            body = json.dumps(post.body, ensure_ascii=False).encode("utf-8", "replace")
            connection.request("POST", path, body, headers)
            return _read(connection.getresponse(), host)
        except PostFailed:
            if time.monotonic() >= until:  # what was cut off looks like an answer that ends too soon
                raise _late(host, post) from None
            raise
        except TimeoutError:
            raise _late(host, post) from None
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= until:
                raise _late(host, post) from None
            raise PostFailed(f"{host} does not answer: {type(error).__name__}", again=True, is_outage=True) from None
        except ValueError:  # its text repeats the header
            raise PostFailed(f"what goes to {host} is no request that HTTP knows", again=False) from None
        finally:
            timer.cancel()
            connection.close()

    def _connection(
        self, scheme: str, host: str, port: int, address: str, timeout_seconds: float
    ) -> http.client.HTTPConnection:
        if scheme == "https":
            context = self._certificates or ssl.create_default_context()
            return _PinnedTls(host, port, address, timeout_seconds, context)
        return _Pinned(host, port, address, timeout_seconds)


class _Pinned(http.client.HTTPConnection):
    """To an address that is known already; the host's name goes into the request alone."""

    def __init__(self, host: str, port: int, address: str, timeout_seconds: float) -> None:
        super().__init__(host, port, timeout=timeout_seconds)
        self._address = address

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)


class _PinnedTls(http.client.HTTPSConnection):
    """As `_Pinned`, and the certificate must be that of the name."""

    def __init__(self, host: str, port: int, address: str, timeout_seconds: float, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=timeout_seconds, context=context)
        self._address = address
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def _resolved(host: str, port: int, reach: Reach) -> str:
    """The first address of a host, all of whose addresses must be allowed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise PostFailed(f"{host} has no address", again=True, is_outage=True) from None
    addresses: Sequence[str] = [str(info[4][0]).partition("%")[0] for info in found]
    refused = next((one for one in addresses if not reach.allows(ipaddress.ip_address(one))), None)
    if refused is not None:
        why = "is in a private network" if not is_public(ipaddress.ip_address(refused)) else "is outside"
        raise PostFailed(f"{host} {why}, which this installation does not allow", again=False)
    return addresses[0]


def _read(response: http.client.HTTPResponse, host: str) -> object:
    body = bytearray()
    while part := response.read(_READ_BYTES):
        body += part
        if len(body) > ANSWER_BYTES_MAX:
            raise PostFailed(f"{host} answered with more than {ANSWER_BYTES_MAX} bytes", again=False)
    if not 200 <= response.status < 300:
        again = response.status >= 500 or response.status == 429
        is_outage = response.status in _OUTAGES
        raise PostFailed(f"{host} answered with status {response.status}", again=again, is_outage=is_outage)
    try:
        answer: object = json.loads(_without_surrogates(json.loads(body)))
    except (ValueError, RecursionError):
        raise PostFailed(f"{host} did not answer with JSON", again=False) from None
    return answer


def _without_surrogates(values: object) -> bytes:
    """JSON again; halves of characters, which JSON can write and UTF-8 cannot, become question marks."""
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "replace")


def _cut(connection: http.client.HTTPConnection) -> None:
    """The time is up: whoever waits for the server stops waiting."""
    sock = connection.sock
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is closed already, or not yet connected: then its own timeout ends it
            return


def _late(host: str, post: Post) -> PostFailed:
    return PostFailed(f"{host} did not answer within {post.timeout_seconds:g} s", again=False)
