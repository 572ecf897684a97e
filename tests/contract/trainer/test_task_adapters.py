"""Tasks with adapters of their own: each learns what a job of its rows alone would, to the bit, and is a result."""

from __future__ import annotations

import csv
import io
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from feinschliff.artifacts.commit import commit, fetch
from feinschliff.formats.adaptations import OF_BASE
from feinschliff.formats.manifest import FileEntry, Manifest
from feinschliff.formats.recipe import SERVED
from feinschliff.formats.records import Record
from feinschliff.formats.report import Metrics, Result, TaskResults
from feinschliff.formats.tasks import result_prefix_of
from feinschliff.kit.errors import Invalid
from tests.support.attempts import work
from tests.support.trainer import JOB, Rows, Workshop, dataset_of, rows

TASKS = {
    "large": Rows(rows(18), rows(4, first=50)),
    "small": Rows(rows(7, first=20), rows(3, first=60)),
    "middle": Rows(rows(10, first=30), rows(4, first=70)),
}
TOTAL = 10
STEPS = {"large": 10, "small": 4, "middle": 6}
RATES = {"ia3": 1e-1, "bottleneck": 1e-2, "prompt": 1e-1, "p_tuning": 1e-2, "prefix": 1e-1}
BESIDE = [adaptation for adaptation in SERVED["sft"] if adaptation not in OF_BASE]
OPTIONS: dict[str, dict[str, Any]] = {
    "a start": {"adaptation": {"kind": "lora", "rank": 4, "start": "pissa"}},
    "dropout": {"adaptation": {"kind": "lora", "rank": 4, "dropout": 0.2}},
    "noise": {"optimisation": {"neftune_alpha": 5.0}},
    "recomputation": {"optimisation": {"gradient_checkpointing": True}},
    "8 bits": {"adaptation": {"kind": "lora", "rank": 64}, "optimisation": {"optimiser": "adamw_8bit"}},
    "clipping": {"optimisation": {"max_gradient_norm": 0.05}},
    "by length": {"optimisation": {"order": "by_length"}},
    "steps": {"optimisation": {"steps_max": 5}},
    "a schedule": {"update_schedule": {"gradual_unfreezing": {}}},
    "rows joined": {"objective": {"kind": "pretrain", "sequence_tokens": 64}},
    "fewer rows measured": {"validation": {"rows_max": 2}},
}

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def workshop(folder: Path, base: Path, *names: str, tasks: Mapping[str, Rows] = TASKS, **recipe: Any) -> Workshop:
    """Two epochs; of several tasks, each with its adapter. `sources` says more of a data set, by its name."""
    one = Workshop(folder, base, tasks={name: tasks[name] for name in names})
    adaptation = recipe.get("adaptation", {"kind": "lora", "rank": 4})
    rate = RATES.get(adaptation["kind"], 5e-3)
    optimisation = {"epochs": 2, "batch_size": 4, "learning_rate": rate, "warmup_fraction": 0.1}
    extra = recipe.pop("sources", {})
    one.recipe = {
        "task_adapters": "separate" if len(names) > 1 else "shared",
        "data": [{"dataset_version": dataset_of(name), **extra.get(name, {})} for name in names],
        "checkpointing": {"every_steps": 1000, "keep_best": False},
        **recipe,
        "adaptation": adaptation,
        "optimisation": optimisation | recipe.get("optimisation", {}),
    }
    return one


def with_answers_of_the_next(records: Sequence[Record]) -> list[Record]:
    nexts = [*records[1:], records[0]]
    return [
        one.model_copy(update={"messages": [one.messages[0], other.messages[1]]})
        for one, other in zip(records, nexts, strict=True)
    ]


def put(one: Workshop, version: Path) -> None:
    """Let the job continue the version in a folder."""
    names = ("adapter_model.safetensors", "adapter_config.json")
    commit(one.store, "projects/default/adapter", {name: version / name for name in names}, {}, kind="result")
    one.initial_adapter_prefix = "projects/default/adapter"


def of_task(one: Workshop, task: str) -> Manifest:
    found = one.result_of(task)
    assert found is not None, task
    return found


def check_as_alone(base: Path, folder: Path, names: tuple[str, ...] = ("large", "small"), **recipe: Any) -> Workshop:
    """The weights of every task, and all that its result tells, are those of a job of its own; returns the job of all.

    Losses of one task alone are summed up in fp32, and of several in double precision. Measured is when the job is due.
    """
    together = workshop(folder / "together", base, *names, **recipe)
    work(together)
    for name in names:
        alone = workshop(folder / name, base, name, **recipe)
        work(alone)
        assert alone.result is not None
        task = of_task(together, name)
        assert without_numbers(task) == without_numbers(alone.result), name
        own, its = (Result.model_validate(one.meta) for one in (task, alone.result))
        told = {"seconds", "energy_joules", "metrics"}
        assert own.model_dump(exclude=told) == its.model_dump(exclude=told)
        assert own.metrics == pytest.approx(its.metrics, rel=1e-5, abs=1e-5)
        lines, others = history(together, result_prefix_of(JOB, name)), history(alone, f"{JOB}/result")
        assert len(lines) == len(others)
        for line, other in zip(lines, others, strict=True):
            assert {name: line[name] for name in other if name in line} == pytest.approx(
                {name: other[name] for name in other if name in line}, abs=1e-5
            )
    return together


def without_numbers(result: Manifest) -> dict[str, FileEntry]:
    return {name: entry for name, entry in result.files.items() if name != "metrics.csv"}


def history(one: Workshop, prefix: str) -> list[dict[str, float]]:
    lines = csv.DictReader(io.StringIO(one.store.get_bytes(f"{prefix}/metrics.csv").decode()))
    return [{name: float(cell) for name, cell in line.items() if cell} for line in lines]


@pytest.mark.parametrize("adaptation", BESIDE)
def test_a_task_beside_others_learns_what_a_job_of_its_own_would(
    tmp_path: Path, tiny_model: Path, adaptation: str
) -> None:
    together = check_as_alone(tiny_model, tmp_path, adaptation={"kind": adaptation})
    assert of_task(together, "large").digest != of_task(together, "small").digest


@pytest.mark.parametrize("option", OPTIONS)
def test_whatever_a_step_has_it_has_for_each_task(tmp_path: Path, tiny_model: Path, option: str) -> None:
    check_as_alone(tiny_model, tmp_path, **OPTIONS[option])


def test_a_task_is_resampled_by_the_weights_of_its_own_data(tmp_path: Path, tiny_model: Path) -> None:
    together = check_as_alone(tiny_model, tmp_path, sources={"small": {"weight": 2.5}})
    assert Result.model_validate(of_task(together, "small").meta).steps == 10


def test_a_task_may_have_several_data_sets(tmp_path: Path, tiny_model: Path) -> None:
    sources = {"large": {"task": "both"}, "middle": {"task": "both", "weight": 0.5}}
    together = workshop(tmp_path / "together", tiny_model, "large", "small", "middle", sources=sources)
    alone = workshop(tmp_path / "alone", tiny_model, "large", "middle", sources=sources, task_adapters="shared")
    for one in (together, alone):
        work(one)

    assert alone.result is not None
    assert without_numbers(of_task(together, "both")) == without_numbers(alone.result)
    assert together.result_of("large") is None


def test_a_task_without_a_row_to_learn_from_is_named(tmp_path: Path, tiny_model: Path) -> None:
    one = workshop(tmp_path, tiny_model, "large", "small", sources={"small": {"weight": 0.01}})
    with pytest.raises(Invalid, match="task `small`") as refused:
        work(one)
    assert refused.value.reason == "NOTHING_TO_LEARN"


def test_tasks_of_any_size_are_through_an_epoch_together(tmp_path: Path, tiny_model: Path) -> None:
    together = check_as_alone(tiny_model, tmp_path, ("small", "large", "middle"))
    results = {name: Result.model_validate(of_task(together, name).meta) for name in STEPS}
    assert {name: (one.steps, one.epochs) for name, one in results.items()} == {
        name: (steps, 2.0) for name, steps in STEPS.items()
    }
    assert together.result is not None
    prefixes = TaskResults.model_validate(together.result.meta).tasks
    assert prefixes == {name: result_prefix_of(JOB, name) for name in ("small", "large", "middle")}


def test_numbers_are_told_task_by_task_and_count_alike(tmp_path: Path, tiny_model: Path) -> None:
    one = workshop(tmp_path, tiny_model, "large", "small")
    told = [report for report in work(one) if isinstance(report, Metrics)]
    train = [report for report in told if report.phase == "train"]
    measured = [report.values for report in told if report.phase == "validation"]

    assert [report.step for report in train] == list(range(1, TOTAL + 1))
    assert {report.steps_total for report in train} == {TOTAL}
    assert [report.step for report in train if "loss/small" in report.values] == [1, 3, 6, 8]
    assert all({"loss/large", "gradient_norm/large"} <= report.values.keys() for report in train)
    for values in measured:
        assert values["loss"] == pytest.approx((values["loss/large"] + values["loss/small"]) / 2)
    results = [Result.model_validate(of_task(one, name).meta) for name in ("large", "small")]
    assert sum(result.trained_tokens for result in results) == train[-1].trained_tokens
    assert [result.metrics["validation_loss"] for result in results] == [
        measured[-1][f"loss/{name}"] for name in ("large", "small")
    ]


@pytest.mark.parametrize(("adaptation", "cut"), [("lora", 1), ("lora", 3), ("lora", 6), ("prompt", 5)])
def test_a_run_that_was_stopped_ends_as_a_calm_one(tmp_path: Path, tiny_model: Path, adaptation: str, cut: int) -> None:
    calm, one = (
        workshop(tmp_path / name, tiny_model, "large", "small", adaptation={"kind": adaptation})
        for name in ("calm", "cut")
    )
    work(calm)
    work(one, until_step=cut)
    assert one.result is None
    work(one, attempt=2)

    check_equal(one, calm)


@pytest.mark.parametrize("looks", [1, 2])
def test_a_run_that_is_stopped_between_two_tasks_is_saved_as_it_was(
    tmp_path: Path, tiny_model: Path, looks: int
) -> None:
    """Both tasks have their turn in the third step of the job, the first of them one micro-batch."""
    calm, one = (workshop(tmp_path / name, tiny_model, "large", "small") for name in ("calm", "cut"))
    work(calm)
    told = work(one, until_step=2, looks=looks)
    assert [report.step for report in told if isinstance(report, Metrics)] == list(range(1, looks + 2))
    fetch(one.store, f"{JOB}/checkpoints/{looks + 1}", tmp_path / "checkpoint")
    work(one, attempt=2)

    check_equal(one, calm)


@pytest.mark.parametrize(
    "failpoint",
    [
        "step.after=kill@6",
        "checkpoint.before_commit=kill@2",
        "result.before_commit=kill@2",
        "result.after_commit=kill@2",
    ],
)
def test_a_killed_run_ends_as_a_calm_one(tmp_path: Path, tiny_model: Path, failpoint: str) -> None:
    calm, killed = (
        workshop(tmp_path / name, tiny_model, "large", "small", checkpointing={"every_steps": 2})
        for name in ("calm", "killed")
    )
    calm.run()
    killed.run(failpoints=failpoint, expect=-signal.SIGKILL)
    assert killed.result is None
    killed.run(attempt=2)

    check_equal(killed, calm)


@pytest.mark.timeout(600)
def test_processes_share_the_steps_of_every_task(tmp_path: Path, tiny_model: Path) -> None:
    alone = workshop(tmp_path / "alone", tiny_model, "large", "small", checkpointing={"every_steps": 2})
    crew, killed = (
        workshop(tmp_path / name, tiny_model, "large", "small", checkpointing={"every_steps": 2}, processes_per_node=2)
        for name in ("crew", "killed")
    )
    work(alone)
    crew.run()
    killed.run(failpoints="step.after=kill@5")

    check_equal(killed, crew)
    for name in crew.tasks:
        lines, others = (history(one, result_prefix_of(JOB, name)) for one in (crew, alone))
        assert [line["train_loss"] for line in lines] == pytest.approx(
            [line["train_loss"] for line in others], abs=1e-3
        )


def check_equal(one: Workshop, other: Workshop) -> None:
    assert one.result is not None
    assert other.result is not None
    assert one.result.files == other.result.files
    for name in one.tasks:
        assert of_task(one, name).files == of_task(other, name).files, name


def test_the_best_and_the_end_are_judged_by_the_mean_over_tasks(tmp_path: Path, tiny_model: Path) -> None:
    tasks = {
        name: given._replace(validation=with_answers_of_the_next(given.train[:6])) for name, given in TASKS.items()
    }
    one = workshop(
        tmp_path,
        tiny_model,
        "large",
        "small",
        tasks=tasks,
        optimisation={"epochs": 30, "learning_rate": 0.02, "warmup_fraction": 0.0},
        validation={"every_steps": 5, "patience": 2},
        checkpointing={"every_steps": 1000},
    )
    told = work(one)
    measured = {
        report.step: report.values for report in told if isinstance(report, Metrics) and report.phase == "validation"
    }
    best = min(measured, key=lambda step: measured[step]["loss"])
    last = max(measured)

    assert last == best + 10 < 150
    fetch(one.store, f"{JOB}/checkpoints/{best}", tmp_path / "best")
    for name, done in (("large", best), ("small", -(-best * 60 // 150))):
        result = Result.model_validate(of_task(one, name).meta)
        assert (result.best_step, result.stopped_early) == (done, True)
        assert result.metrics["validation_loss"] == measured[best][f"loss/{name}"]
        fetch(one.store, result_prefix_of(JOB, name), tmp_path / name)
        kept = (tmp_path / "best" / "tasks" / name / "adapter_model.safetensors").read_bytes()
        assert (tmp_path / name / "adapter_model.safetensors").read_bytes() == kept


def test_every_task_goes_on_from_the_version_that_the_job_continues(tmp_path: Path, tiny_model: Path) -> None:
    first = workshop(tmp_path / "first", tiny_model, "middle")
    work(first)
    fetch(first.store, f"{JOB}/result", tmp_path / "version")
    jobs = [
        workshop(tmp_path / f"job-{'-'.join(names)}", tiny_model, *names) for names in (("large", "small"), ("small",))
    ]
    for one in jobs:
        put(one, tmp_path / "version")
        work(one)
    together, alone = jobs

    assert alone.result is not None
    assert without_numbers(of_task(together, "small")) == without_numbers(alone.result)
    before = load_file(tmp_path / "version" / "adapter_model.safetensors")
    fetch(together.store, result_prefix_of(JOB, "large"), tmp_path / "large")
    after = load_file(tmp_path / "large" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("names", "change", "field"),
    [
        (("large",), {"task_adapters": "separate"}, "data"),
        (("large", "small"), {"adaptation": {"kind": "full"}}, "full"),
        (("large", "small"), {"adaptation": {"kind": "last_layers"}}, "last_layers"),
        (("large", "small"), {"objective": {"kind": "classify"}}, "classify"),
    ],
)
def test_what_cannot_lie_side_by_side_is_refused_before_anything_is_read(
    tmp_path: Path, tiny_model: Path, names: tuple[str, ...], change: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        work(workshop(tmp_path, tiny_model, *names, **change))
    assert refused.value.reason == "TASK_ADAPTERS_UNSUITED"
    assert [one.field for one in refused.value.fields] == [f"training_job.recipe.{field}"]
