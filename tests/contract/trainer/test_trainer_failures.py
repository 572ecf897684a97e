"""Whatever ends an attempt, its owner reads a name from the table, and the exit code agrees with it."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from feinschliff.artifacts.commit import commit
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.formats.report import Failure
from feinschliff.trainer.__main__ import Wiring, attempt
from feinschliff.trainer.energy import Meter
from feinschliff.trainer.failures import RULES
from feinschliff.trainer.progress import Asked, Posted
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.trainer.stop import Stop
from tests.support.trainer import JOB, Workshop, rows

ROOT = Path(__file__).parents[3]


class FailingStore(DirectoryStore):
    """A store whose first question ends as the machine lets it."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(path)
        self._error = error

    def list(self, prefix: str = "") -> Iterator[str]:
        raise self._error


class Listener:
    """A service that takes everything and remembers the end."""

    def __init__(self) -> None:
        self.failure: Failure | None = None

    def send(self, reports: Sequence[Posted]) -> Asked:
        return Asked()

    def finish(self, *, result_prefix: str = "", failure: Failure | None = None) -> None:
        self.failure = failure


@pytest.fixture
def one(tmp_path: Path, tiny_model: Path) -> Workshop:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    made = Workshop(tmp_path / "job", base, train=rows(4))
    made.recipe = {"optimisation": {"epochs": 1, "batch_size": 4}}
    return made


def failure_of(one: Workshop) -> dict[str, object]:
    return dict(json.loads(one.store.get_bytes(f"{JOB}/failure.json")))


def test_every_rule_has_its_row_in_the_documentation() -> None:
    text = (ROOT / "docs" / "errors.md").read_text("utf-8")
    rows_there = set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \|", text, re.MULTILINE))

    assert {rule.reason for rule in RULES} <= rows_there


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (MemoryError(), "OUT_OF_MEMORY", False),
        (OSError(errno.ENOSPC, "No space left on device"), "DISK_FULL", True),
        (RuntimeError("CUDA error: unspecified launch failure"), "DEVICE_FAILED", True),
        (KeyError("a fault"), "TRAINER_CRASHED", True),
    ],
    ids=repr,
)
def test_what_the_machine_did_is_told_to_the_service_and_is_no_fault_of_the_data(
    one: Workshop, tmp_path: Path, error: Exception, reason: str, retryable: bool
) -> None:
    link, store = Listener(), FailingStore(one.store_folder, error)

    exit_code = attempt(
        Wiring(one.runfile(), store, link, Meter(core_watts=10.0)), TrainerSettings(home=tmp_path / "home"), Stop()
    )

    assert exit_code == 1
    assert link.failure is not None
    assert (link.failure.reason, link.failure.retryable) == (reason, retryable)
    assert failure_of(one) == link.failure.model_dump()


def cut_off_weights(one: Workshop) -> None:
    path = one.base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def no_config(one: Workshop) -> None:
    (one.base / "config.json").unlink()


def unreadable_config(one: Workshop) -> None:
    (one.base / "config.json").write_text("{")


def adapter_of_another_rank(one: Workshop) -> None:
    donor = Workshop(one.folder.parent / "donor", one.base, train=rows(4))
    donor.recipe = {**one.recipe, "adaptation": {"kind": "lora", "rank": 4, "alpha": 8}}
    donor.run()
    prefix, names = "projects/default/adapter", ("adapter_model.safetensors", "adapter_config.json")
    files = {name: donor.store.get_bytes(f"{JOB}/result/{name}") for name in names}
    config = json.loads(files["adapter_config.json"])
    files["adapter_config.json"] = json.dumps({**config, "r": 8}).encode()
    commit(one.store, prefix, files, {}, kind="result")
    one.initial_adapter_prefix = prefix


def only_long_rows(one: Workshop) -> None:
    one.recipe = {"optimisation": {"max_row_tokens": 16, "on_long_row": "drop"}}


Break = Callable[[Workshop], None]


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (cut_off_weights, "BASE_MODEL_UNREADABLE"),
        (no_config, "BASE_NOT_FOUND"),
        (unreadable_config, "BASE_MODEL_UNREADABLE"),
        (adapter_of_another_rank, "ADAPTER_UNFIT"),
        (only_long_rows, "NOTHING_TO_LEARN"),
    ],
)
def test_what_the_job_names_and_cannot_be_used_ends_it_for_good(one: Workshop, break_it: Break, reason: str) -> None:
    break_it(one)

    one.run(expect=65)

    failure = failure_of(one)
    assert (failure["reason"], failure["retryable"]) == (reason, False)
    assert failure["message"]
