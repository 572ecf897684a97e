"""The files of TLS: what is refused at the start, and what a renewal changes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from feinschliff.kit import tls
from feinschliff.kit.errors import StartError
from feinschliff.kit.settings import Settings, read_settings
from feinschliff.kit.tls import Tls, tls_of
from tests.support.certificates import Authority, TlsFiles, lay_out


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> TlsFiles:
    return authority.pair(tmp_path / "tls")


def opened(files: TlsFiles) -> Tls:
    return Tls(*files.settings().values(), demands_client_certificates=True)


def test_nothing_set_is_plain_text() -> None:
    assert tls_of(read_settings(Settings)) is None


@pytest.mark.parametrize("missing", ["tls_certificate", "tls_key", "tls_ca"])
def test_all_three_are_set_or_none(missing: str, files: TlsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in files.settings().items():
        if name != missing:
            monkeypatch.setenv(f"FEINSCHLIFF_{name.upper()}", str(path))
    with pytest.raises(StartError, match=rf"^FEINSCHLIFF_{missing.upper()}: is empty while FEINSCHLIFF_TLS_"):
        read_settings(Settings)


@pytest.mark.parametrize("missing", ["certificate", "key", "ca"])
def test_a_file_that_cannot_be_read_is_named_with_its_variable(missing: str, files: TlsFiles) -> None:
    path: Path = getattr(files, missing)
    path.unlink()
    with pytest.raises(StartError) as caught:
        opened(files)
    assert str(caught.value) == f"FEINSCHLIFF_TLS_{missing.upper()}: cannot read {path}: No such file or directory"


def test_files_that_are_no_certificates_are_named(files: TlsFiles) -> None:
    for path in (files.certificate, files.ca):
        path.write_text("no PEM")
    with pytest.raises(StartError) as caught:
        opened(files)
    pair, ca = caught.value.problems
    assert pair.startswith("FEINSCHLIFF_TLS_CERTIFICATE and FEINSCHLIFF_TLS_KEY: ")
    assert ca.startswith(f"FEINSCHLIFF_TLS_CA: {files.ca} holds no PEM certificate")


def test_a_key_of_another_certificate_is_refused(authority: Authority, files: TlsFiles, tmp_path: Path) -> None:
    other = authority.pair(tmp_path / "other")
    with pytest.raises(StartError, match="are no PEM certificate and its key: key values mismatch"):
        Tls(files.certificate, other.key, files.ca, demands_client_certificates=True)


def test_what_is_renewed_is_read_once_and_what_is_not_stays(authority: Authority, files: TlsFiles) -> None:
    own = opened(files)
    first = own.pem()
    assert own.pem() is first
    authority.pair(files.folder)
    second = own.pem()
    assert second.certificate == files.certificate.read_bytes() != first.certificate
    assert own.pem() is second


@pytest.mark.parametrize("broken", ["gone", "half", "mixed"])
def test_a_broken_renewal_leaves_the_old_pair_in_use_and_is_told_once(
    broken: str, authority: Authority, files: TlsFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = opened(files)
    before, ca = own.pem(), files.ca.read_bytes()
    if broken == "gone":
        (files.folder / "..data").unlink()
    elif broken == "half":
        lay_out(files.folder, certificate=b"-----BEGIN CERT", key=before.key, ca=ca)
    else:
        other = authority.pair(tmp_path / "other")
        lay_out(files.folder, certificate=other.certificate.read_bytes(), key=before.key, ca=ca)
    with caplog.at_level(logging.WARNING):
        assert own.pem() is before
        assert own.pem() is before
    assert [record.getMessage() for record in caplog.records] == ["renewed certificate is unusable; the old one stays"]
    (files.folder / "..data").unlink(missing_ok=True)
    authority.pair(files.folder)
    assert own.pem().certificate == files.certificate.read_bytes()


def test_binding_beyond_loopback_needs_no_more_than_client_certificates(files: TlsFiles) -> None:
    given = {"bind_host": "0.0.0.0", **files.settings()}
    assert Settings(**given).bind_host == "0.0.0.0"
    with pytest.raises(ValueError, match="FEINSCHLIFF_BIND_HOST"):
        Settings(**given, tls_client_certificates=False)


def test_configuring_again_with_the_same_files_keeps_what_is_open(files: TlsFiles) -> None:
    settings = Settings(**files.settings())
    tls.configure(settings)
    try:
        own = tls.configured()
        tls.configure(settings)
        assert own is not None
        assert tls.configured() is own
    finally:
        tls.configure(Settings())
    assert tls.configured() is None
