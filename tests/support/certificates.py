"""Certificates for tests, laid out and renewed as Kubernetes does with a mounted Secret."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import NamedTuple

import trustme

HOSTS = ("localhost", "127.0.0.1", "::1")


class TlsFiles(NamedTuple):
    """A folder with tls.crt, tls.key and ca.crt."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def settings(self) -> dict[str, Path]:
        return {"tls_certificate": self.certificate, "tls_key": self.key, "tls_ca": self.ca}

    def environment(self) -> dict[str, str]:
        return {f"FEINSCHLIFF_{name.upper()}": str(path) for name, path in self.settings().items()}


class Authority:
    """A CA of one test, and certificates that it signs for loopback, or whatever hosts are named."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def pair(self, folder: Path, *hosts: str, trusts: Authority | None = None) -> TlsFiles:
        """Writes a new pair, or renews the one that is there: all three files change at once.

        Args:
            trusts: whose ca.crt lies beside it; this CA's unless given.
        """
        signed = self._ca.issue_cert(*(hosts or HOSTS))
        certificate = b"".join(blob.bytes() for blob in signed.cert_chain_pems)
        ca = (trusts or self)._ca.cert_pem.bytes()
        return lay_out(folder, certificate=certificate, key=signed.private_key_pem.bytes(), ca=ca)


def lay_out(folder: Path, *, certificate: bytes, key: bytes, ca: bytes) -> TlsFiles:
    """The kubelet's way: a folder beside, one link that is swapped, and links through it that never change."""
    files = TlsFiles(folder)
    version = folder / f"..{uuid.uuid4().hex}"
    version.mkdir(parents=True)
    for path, content in ((files.certificate, certificate), (files.key, key), (files.ca, ca)):
        (version / path.name).write_bytes(content)
        if not path.is_symlink():
            path.symlink_to(Path("..data") / path.name)
    link = folder / f"..link-{uuid.uuid4().hex}"
    link.symlink_to(version.name)
    os.replace(link, folder / "..data")
    return files
