"""Files that are not those of the record are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from feinschliff.artifacts.commit import commit
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.formats.manifest import content_digest
from feinschliff.inference.engines import EngineOptions
from feinschliff.inference.life import Version
from feinschliff.inference.loader import ArtifactLoader
from feinschliff.kit.errors import NotFound, Refusal, WrongState
from tests.unit.inference.builders import version

WEIGHTS = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


class Shop:
    """A store with one committed adapter, and the version that records it."""

    def __init__(self, folder: Path) -> None:
        (folder / "store").mkdir()
        self.folder = folder
        self.store = DirectoryStore(folder / "store")
        self.manifest = commit(self.store, "job/result", {**WEIGHTS, "metrics.csv": b"1"}, {}, kind="result")
        self.loader = ArtifactLoader(self.store, EngineOptions(cache_dir=folder / "cache"), offline=True)
        weights = {name: self.manifest.files[name] for name in WEIGHTS}
        self.version = version(1).model_copy(
            update={
                "adapter_uri": f"s3://{self.store.bucket}/job/result",
                "adapter_digest": content_digest(weights),
                "adapter_sha256": self.manifest.digest.removeprefix("sha256:"),
            }
        )

    def fetched(self, wanted: Version) -> dict[str, bytes]:
        with self.loader.fetch(wanted) as folder:
            found = {name: (folder / name).read_bytes() for name in WEIGHTS}
        assert not folder.exists()
        return found


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_the_recorded_files_are_given_and_removed_after_use(shop: Shop) -> None:
    assert shop.fetched(shop.version) == WEIGHTS


def test_the_digest_of_the_whole_folder_will_do(shop: Shop) -> None:
    whole = {"adapter_digest": shop.manifest.digest, "adapter_sha256": ""}
    assert shop.fetched(shop.version.model_copy(update=whole)) == WEIGHTS


@pytest.mark.parametrize("field", ["adapter_digest", "adapter_sha256"])
def test_another_digest_than_the_recorded_one_is_refused(shop: Shop, field: str) -> None:
    with pytest.raises(WrongState) as refused:
        shop.fetched(shop.version.model_copy(update={field: "sha256:" + "0" * 64}))
    assert refused.value.reason == "ADAPTER_DIGEST_MISMATCH"


def test_bytes_that_changed_in_the_store_are_refused(shop: Shop) -> None:
    shop.store.put_bytes("job/result/adapter_model.safetensors", b"WEIGHTS")
    with pytest.raises(Refusal) as refused:
        shop.fetched(shop.version)
    assert refused.value.reason == "ARTIFACT_CORRUPT"


def test_an_adapter_that_was_never_committed_is_not_found(shop: Shop) -> None:
    with pytest.raises(NotFound):
        shop.fetched(shop.version.model_copy(update={"adapter_uri": f"s3://{shop.store.bucket}/job/other"}))
