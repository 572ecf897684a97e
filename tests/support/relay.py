"""A relay on loopback: a door to a server that opens and closes when a test says, with TLS if it wants."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.ports import free_port

_PIECE_BYTES = 64 * 1024


@contextmanager
def relay(target_port: int, *, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Passes connections on to a port of this machine, while the block lasts; the port that it listens on.

    Args:
        tls: clients speak it with the relay, which speaks plain text with the target.
    """
    with socket.create_server(("127.0.0.1", port or free_port()), backlog=64) as door:
        threading.Thread(target=_accept, args=(door, target_port, tls), name="relay", daemon=True).start()
        try:
            yield door.getsockname()[1]
        finally:
            door.shutdown(socket.SHUT_RDWR)


def _accept(door: socket.socket, target_port: int, tls: ssl.SSLContext | None) -> None:
    with suppress(OSError):
        while True:
            client, _ = door.accept()
            threading.Thread(target=_serve, args=(client, target_port, tls), name="relay", daemon=True).start()


def _serve(plain: socket.socket, target_port: int, tls: ssl.SSLContext | None) -> None:
    with plain, suppress(OSError):
        client = plain if tls is None else tls.wrap_socket(plain, server_side=True)
        with client, socket.create_connection(("127.0.0.1", target_port)) as server:
            back = threading.Thread(target=_copy, args=(server, client), name="relay", daemon=True)
            back.start()
            _copy(client, server)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
