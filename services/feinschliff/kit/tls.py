"""TLS between services: the pair that a process shows and the CA that it trusts, read again when their files change."""

import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import grpc

from feinschliff.kit.errors import StartError
from feinschliff.kit.settings import ENV_PREFIX, Settings

log = logging.getLogger(__name__)
_READ_TRIES = 3
Stamp = tuple[tuple[int, int, int], ...]


class Pem(NamedTuple):
    """What the three files hold; it is replaced as a whole, so its identity tells whether anything changed."""

    certificate: bytes
    key: bytes
    ca: bytes


class Tls:
    """A certificate, its key and the CA, from files that somebody else renews.

    Every new connection uses what the files hold at that moment. Files that are missing, half written or no pair leave
    what was read before in use, and are told of once.

    Raises:
        StartError: the files cannot be used, each by its variable.
    """

    def __init__(self, certificate: Path, key: Path, ca: Path, *, demands_client_certificates: bool) -> None:
        self.demands_client_certificates = demands_client_certificates
        self._paths = (certificate, key, ca)
        self._lock = threading.Lock()
        self._pem, self._stamp = _read(self._paths)
        self._told: Stamp | None = self._stamp

    def pem(self) -> Pem:
        """What to show and to trust now; three looks at the file system."""
        with self._lock:
            stamp = _stamp(self._paths)
            if stamp != self._stamp and stamp != self._told:
                self._renew(stamp)
            return self._pem

    def server_credentials(self) -> grpc.ServerCredentials:
        """For one port; looks for renewed files before every handshake."""
        shown = self.pem()

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal shown
            now = self.pem()
            if now is shown:
                return None
            shown = now
            return _shown(now)

        # None, which the stubs do not know, stands for no change.
        fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], renewed)
        return grpc.dynamic_ssl_server_credentials(_shown(shown), fetch, self.demands_client_certificates)

    def _renew(self, stamp: Stamp | None) -> None:
        try:
            self._pem, self._stamp = _read(self._paths)
        except StartError as error:
            log.warning("renewed certificate is unusable; the old one stays", extra={"problems": error.problems})
        else:
            log.info("certificate renewed", extra={"certificate": str(self._paths[0])})
        self._told = stamp


def channel_credentials(pem: Pem) -> grpc.ChannelCredentials:
    """Trusts the CA and shows the pair; for the connections of one channel."""
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate)


def tls_of(settings: Settings) -> Tls | None:
    """What the settings name, read; None where services speak plain text.

    Raises:
        StartError: a file cannot be used.
    """
    certificate, key, ca = settings.tls_certificate, settings.tls_key, settings.tls_ca
    if certificate is None or key is None or ca is None:
        return None
    return Tls(certificate, key, ca, demands_client_certificates=settings.tls_client_certificates)


class _Process:
    tls: Tls | None = None
    named: tuple[Path | None, ...] = (None, None, None)


def configure(settings: Settings) -> None:
    """Says, for the whole process, how its channels to other services speak; before the first channel is made.

    Raises:
        StartError: a file cannot be used.
    """
    named = (settings.tls_certificate, settings.tls_key, settings.tls_ca)
    if named != _Process.named:
        _Process.tls, _Process.named = tls_of(settings), named


def configured() -> Tls | None:
    return _Process.tls


def _shown(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.ca)


def _read(paths: Sequence[Path]) -> tuple[Pem, Stamp | None]:
    for _ in range(_READ_TRIES):
        before = _stamp(paths)
        pem = Pem(*(_bytes(name, path) for name, path in zip(Pem._fields, paths, strict=True)))
        problems = _problems(*paths)
        if before == _stamp(paths):  # else they were swapped while we read, and may be two halves of two pairs
            break
    if problems:
        raise StartError(problems)
    return pem, before


def _bytes(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError([f"{_variable(name)}: cannot read {path}: {error.strerror}"]) from None


def _problems(certificate: Path, key: Path, ca: Path) -> list[str]:
    problems, context = [], ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:  # SSLError is one
        variables = f"{_variable('certificate')} and {_variable('key')}"
        problems.append(f"{variables}: {certificate} and {key} are no PEM certificate and its key: {_why(error)}")
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        problems.append(f"{_variable('ca')}: {ca} holds no PEM certificate: {_why(error)}")
    return problems


def _why(error: OSError) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return (reason or str(error)).replace("_", " ").lower()


def _variable(name: str) -> str:
    return f"{ENV_PREFIX}TLS_{name.upper()}"


def _stamp(paths: Sequence[Path]) -> Stamp | None:
    """Tells one version of the files from another; None while one of them is not there."""
    try:
        found = [path.stat() for path in paths]
    except OSError:
        return None
    return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)
