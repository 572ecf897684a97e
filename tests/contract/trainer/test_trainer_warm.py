"""A trainer that stood ready learns what one that started cold learns, bit for bit, and ends as it would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from feinschliff.lm.allocator import ALLOCATOR
from feinschliff.workloads.process import SubprocessRunner
from feinschliff.workloads.spec import PYTHON, WorkloadSpec
from feinschliff.workloads.status import Observation, State
from feinschliff.workloads.warm import Kind, Start, WarmWorkers
from tests.support.tiny_model import make_tiny_model
from tests.support.trainer import Workshop, rows
from tests.support.waiting import eventually
from tests.support.warm import stand_ready

pytestmark = pytest.mark.timeout(600)

TRAINER = (PYTHON, "-m", "feinschliff.trainer")
OPTIMISATION = {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3}
RECIPES: dict[str, dict[str, object]] = {
    "lora": {"adaptation": {"kind": "lora", "dropout": 0.1}, "precision": "auto"},
    "full": {"adaptation": {"kind": "full"}, "precision": "auto"},
    "fp32": {"precision": "fp32"},
    "qlora": {"adaptation": {"kind": "qlora"}, "precision": "auto"},
}


@dataclass
class Site:
    """A machine with a trainer that stands ready, or none."""

    folder: Path
    base: Path
    warm: WarmWorkers | None = None
    starts: list[Start] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runner = SubprocessRunner(self.folder / "workloads", warm=self.warm)

    def job(self, name: str, **recipe: object) -> Workshop:
        one = Workshop(self.folder / name, self.base, train=rows(12), validation=rows(4, first=50))
        checkpointing = {"every_steps": 2}
        one.recipe = {"optimisation": OPTIMISATION, "checkpointing": checkpointing, **RECIPES["lora"], **recipe}
        return one

    def start(self, one: Workshop, *, attempt: int = 1, failpoints: str = "") -> str:
        path = one.folder / f"runfile-{attempt}.json"
        path.write_text(one.runfile(attempt).model_dump_json(), "utf-8")
        arguments = ["--runfile", path, "--store", one.store_folder, "--reports", one.reports_path]
        name = f"{one.folder.name}-{attempt}"
        self.runner.start(
            WorkloadSpec(
                name,
                (*TRAINER, *map(str, arguments)),
                env={**ENVIRONMENT, "FEINSCHLIFF_HOME": str(one.folder / "home"), "FEINSCHLIFF_FAILPOINTS": failpoints},
                grace_seconds=60,
                may_be_warm=True,
            )
        )
        return name

    def ended(self, name: str) -> Observation:
        def over() -> Observation | None:
            seen = self.runner.observe(name)
            return seen if seen.state is State.EXITED else None

        found = eventually(over, 90, f"the end of {name}")
        assert found is not None
        return found

    def run(self, one: Workshop, *, attempt: int = 1) -> str:
        """To its end; the result's digest."""
        name = self.start(one, attempt=attempt)
        assert self.ended(name).exit_code == 0, self.said(name)
        assert one.result is not None
        return one.result.digest

    def said(self, name: str) -> str:
        return self.runner.logs(name).decode()


ENVIRONMENT = {**ALLOCATOR, "FEINSCHLIFF_TRAINER_THREADS": "1"}
Warmed = Callable[..., Site]


def kind(*more: str) -> Kind:
    return Kind(TRAINER, (PYTHON, "-m", "feinschliff.trainer.warm", *more), env=ENVIRONMENT)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Callable[[str], str]:
    """The digest of a recipe's result from a trainer that never stood ready; one that starts cold makes the same."""
    digests: dict[str, str] = {}
    site = Site(tmp_path_factory.mktemp("never-ready"), tiny_model)

    def expect(recipe: str) -> str:
        if recipe not in digests:
            result = site.job(recipe, **RECIPES[recipe]).run()
            assert result is not None
            digests[recipe] = result.digest
        return digests[recipe]

    return expect


@pytest.fixture
def warmed(tmp_path: Path, tiny_model: Path) -> Iterator[Warmed]:
    """Sites where one trainer stands ready."""
    sites: list[Site] = []

    def warm(*more: str) -> Site:
        starts: list[Start] = []
        workers = WarmWorkers(kind(*more), 1, told=starts.append, quiet_seconds=600)
        sites.append(Site(tmp_path, tiny_model, workers, starts))
        stand_ready(workers)
        return sites[-1]

    yield warm
    for site in sites:
        site.runner.close()


@pytest.mark.parametrize(("recipe", "with_base"), [("lora", False), *((recipe, True) for recipe in RECIPES)])
def test_it_learns_the_same_bits(
    warmed: Warmed, expected: Callable[[str], str], tiny_model: Path, recipe: str, with_base: bool
) -> None:
    site = warmed(*(["--base", f"file:{tiny_model}"] if with_base else []))

    assert site.run(site.job(recipe, **RECIPES[recipe])) == expected(recipe)
    assert site.starts == ["warm"]
    said = site.said(f"{recipe}-1")
    assert ("in memory already" in said) == with_base
    assert ("read again" in said) == (with_base and recipe in ("fp32", "qlora"))


def test_another_base_than_the_one_in_memory_is_read(
    warmed: Warmed, expected: Callable[[str], str], tmp_path: Path
) -> None:
    other = make_tiny_model(tmp_path / "other", seed=7)
    site = warmed("--base", f"file:{other}")

    assert site.run(site.job("lora")) == expected("lora")
    assert "another base was in memory" in site.said("lora-1")


def test_stopped_it_saves_and_the_next_attempt_ends_as_an_undisturbed_one(
    warmed: Warmed, expected: Callable[[str], str], tiny_model: Path
) -> None:
    site = warmed("--base", f"file:{tiny_model}")
    one = site.job("lora")
    name = site.start(one, failpoints="step.after=delay:0.5")
    eventually(lambda: "checkpoint/2" in one.reported_keys(), 60, "its first checkpoint")
    site.runner.stop(name)

    assert site.ended(name).exit_code == 75
    assert site.starts == ["warm"]
    assert one.result is None
    assert site.run(one, attempt=2) == expected("lora")
    assert site.starts == ["warm", "cold"]


def test_one_that_starts_cold_learns_them_too(tmp_path: Path, tiny_model: Path, expected: Callable[[str], str]) -> None:
    site = Site(tmp_path, tiny_model)

    assert site.run(site.job("lora")) == expected("lora")


def test_what_cannot_be_used_ends_it_with_65(warmed: Warmed) -> None:
    site = warmed()
    one = site.job("odd", base_model=f"file:{site.folder}/nowhere")
    name = site.start(one)

    assert site.ended(name).exit_code == 65
    assert "BASE_NOT_FOUND" in site.said(name)


def test_a_base_that_cannot_be_held_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workers = WarmWorkers(kind("--base", f"file:{tmp_path}/nowhere"), 1)

    def told() -> bool:
        workers.turn()
        return bool(caplog.records)

    try:
        eventually(told, 60, "a word about it")
    finally:
        workers.close()
    assert "nowhere cannot be held in memory: There is no base model" in vars(caplog.records[0])["said"]
