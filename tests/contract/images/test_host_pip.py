"""What pip is told on a machine is told to a build there: indexes, wheelhouse, authorities."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images.host import Pip, this_pip


def test_what_is_not_set_is_not_said() -> None:
    assert Pip().build_arguments() == {}
    assert Pip().folders() == []


def test_an_index_elsewhere_is_said_and_its_authority_mounted() -> None:
    pip = Pip(index_url="https://packages.example.com/simple", certificates="/etc/ssl/bundle.pem")

    assert pip.build_arguments() == {
        "PIP_INDEX_URL": "https://packages.example.com/simple",
        "PIP_CERT": "/run/secrets/ca",
    }
    assert pip.folders() == []


def test_folders_of_this_machine_are_mounted_where_they_are() -> None:
    pip = Pip(extra_index_url="file:///data/a/simple file:///data/b/simple", find_links="/data/wheels")

    assert pip.folders() == [Path("/data/a"), Path("/data/b"), Path("/data/wheels")]
    assert pip.build_arguments()["TORCH_INDEX_URL"] == "none"


def test_a_wheelhouse_is_all_there_is() -> None:
    pip = Pip(index_url="https://packages.example.com/simple", wheelhouse="/data/wheels")

    assert pip.build_arguments() == {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheelhouse", "TORCH_INDEX_URL": "none"}


def test_this_machines_environment_goes_before_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://file.example.com/simple\nfind-links = /from/file\n", "utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_FIND_LINKS", "/from/environment")
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)

    pip = this_pip()

    assert (pip.index_url, pip.find_links) == ("https://file.example.com/simple", "/from/environment")
