"""Update schedules and the options of a step in whole runs: they learn, and a run that was cut ends as a calm one."""

from __future__ import annotations

import csv
import io
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from feinschliff.artifacts.commit import fetch
from feinschliff.formats.manifest import Manifest
from feinschliff.formats.optimisation import OUTSIDE_LAYERS
from feinschliff.formats.recipe import SERVED
from feinschliff.formats.report import Notice
from tests.support.attempts import work
from tests.support.trainer import JOB, Workshop, rows

EPOCH_STEPS = 5
SCHEDULES: dict[str, dict[str, object]] = {
    "gradual": {"gradual_unfreezing": {"rate_divisor": 2.6}},
    "half": {"half_fine_tuning": {"steps_per_round": 2}},
}
RATES = {"full": 3e-3, "ia3": 2e-1, "bottleneck": 1e-2}
MOVABLE = [adaptation for adaptation in SERVED["sft"] if adaptation not in OUTSIDE_LAYERS]
OPTIONS: dict[str, dict[str, object]] = {
    "noise": {"neftune_alpha": 5.0},
    "recomputation": {"gradient_checkpointing": True},
    "wsd": {"schedule": "wsd", "decay_fraction": 0.5, "final_rate_fraction": 0.1},
    "8 bits": {"optimiser": "adamw_8bit"},
}

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def workshop(folder: Path, base: Path, *, adaptation: str = "lora", **recipe: Any) -> Workshop:
    """Two epochs of five steps."""
    one = Workshop(folder, base, train=rows(18))
    optimisation = {"epochs": 2, "batch_size": 4, "learning_rate": RATES.get(adaptation, 5e-3), "warmup_fraction": 0.1}
    one.recipe = {
        "checkpointing": {"every_steps": 1000},
        **recipe,
        "adaptation": {"kind": adaptation, **recipe.get("adaptation_settings", {})},
        "optimisation": optimisation | recipe.get("optimisation", {}),
    }
    one.recipe.pop("adaptation_settings", None)
    return one


def result(one: Workshop) -> Manifest:
    assert one.result is not None
    return one.result


def losses(one: Workshop) -> list[float]:
    lines = csv.DictReader(io.StringIO(one.store.get_bytes(f"{JOB}/result/metrics.csv").decode()))
    return [float(line["train_loss"]) for line in lines]


def weights_of(one: Workshop, folder: Path) -> dict[str, torch.Tensor]:
    fetch(one.store, f"{JOB}/result", folder)
    return load_file(folder / "adapter_model.safetensors")


def check_cut(base: Path, folder: Path, cuts: list[int], **recipe: Any) -> Workshop:
    """A run that is stopped at these steps has the very files of a calm one; returns the calm one."""
    calm = workshop(folder / "calm", base, **recipe)
    work(calm)
    for cut in cuts:
        one = workshop(folder / f"cut-{cut}", base, **recipe)
        work(one, until_step=cut)
        assert one.result is None
        work(one, attempt=2)
        assert result(one).files == result(calm).files, f"cut at {cut}"
    return calm


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("adaptation", MOVABLE)
def test_every_adaptation_of_layers_learns_by_a_schedule_and_goes_on_bit_for_bit(
    tmp_path: Path, tiny_model: Path, adaptation: str, schedule: str
) -> None:
    calm = check_cut(tiny_model, tmp_path, [3], adaptation=adaptation, update_schedule=SCHEDULES[schedule])

    assert losses(calm)[-1] < losses(calm)[0] - 0.2


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_wherever_a_schedule_is_cut_the_run_ends_as_the_calm_one(
    tmp_path: Path, tiny_model: Path, schedule: str
) -> None:
    check_cut(tiny_model, tmp_path, [1, 2, 4, 5, 6, 9], adaptation="full", update_schedule=SCHEDULES[schedule])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_killed_trainer_with_a_schedule_ends_as_the_calm_one(tmp_path: Path, tiny_model: Path, schedule: str) -> None:
    calm, killed = (
        workshop(tmp_path / name, tiny_model, update_schedule=SCHEDULES[schedule], checkpointing={"every_steps": 2})
        for name in ("calm", "killed")
    )
    work(calm)
    killed.run(failpoints=f"step.after=kill@{EPOCH_STEPS + 1}", expect=-signal.SIGKILL)
    killed.run(attempt=2)

    assert result(killed).files == result(calm).files


def test_layers_that_wait_are_those_of_the_base_and_have_no_memory(tmp_path: Path, tiny_model: Path) -> None:
    one = workshop(tmp_path / "job", tiny_model, adaptation="full", update_schedule=SCHEDULES["gradual"])
    told = work(one, until_step=4)
    fetch(one.store, f"{JOB}/checkpoints/4", tmp_path / "checkpoint")
    base, kept = load_file(tiny_model / "model.safetensors"), load_file(tmp_path / "checkpoint" / "model.safetensors")
    memory = load_file(tmp_path / "checkpoint" / "optimizer.safetensors")

    lower = [name for name in base if ".layers.0." in name]
    upper = [name for name in base if ".layers.1." in name]
    assert all(torch.equal(kept[name], base[name]) for name in lower)
    assert not any(torch.equal(kept[name], base[name]) for name in upper)
    assert {name.split("/")[0] for name in memory} == {*upper, "model.norm.weight"}
    notices = [report.message for report in told if isinstance(report, Notice) and report.key == "update_schedule"]
    assert notices == ["The top layers learn first: 1 from step 1, 2 from step 6, of 2."]


def test_half_of_the_matrices_stay_those_of_the_base_for_a_round(tmp_path: Path, tiny_model: Path) -> None:
    schedule = {"half_fine_tuning": {"steps_per_round": 3}}
    base = load_file(tiny_model / "model.safetensors")
    moved: list[set[str]] = []
    for step in (3, 6):
        one = workshop(tmp_path / f"job-{step}", tiny_model, adaptation="full", update_schedule=schedule)
        work(one, until_step=step)
        fetch(one.store, f"{JOB}/checkpoints/{step}", tmp_path / f"checkpoint-{step}")
        kept = load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors")
        moved.append({name for name in base if not torch.equal(kept[name], base[name])})

    layers = {name for name in base if ".layers." in name}
    assert len(moved[0] & layers) == len(layers) // 2
    assert moved[1] == layers | {"model.norm.weight"}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_a_step_learns_and_goes_on_bit_for_bit(tmp_path: Path, tiny_model: Path, option: str) -> None:
    settings = {"dropout": 0.1, "rank": 64}
    calm = check_cut(tiny_model, tmp_path, [3], adaptation_settings=settings, optimisation=OPTIONS[option])

    assert losses(calm)[-1] < losses(calm)[0] - 0.3


def test_computing_activations_again_changes_no_bit_of_the_result(tmp_path: Path, tiny_model: Path) -> None:
    usual = workshop(tmp_path / "usual", tiny_model)
    again = workshop(tmp_path / "again", tiny_model, optimisation=OPTIONS["recomputation"])
    work(usual)
    work(again)

    assert result(again).files == result(usual).files


def test_noise_is_for_training_alone_and_does_not_depend_on_micro_batches(tmp_path: Path, tiny_model: Path) -> None:
    calm = workshop(tmp_path / "calm", tiny_model)
    whole = workshop(tmp_path / "whole", tiny_model, optimisation=OPTIONS["noise"])
    cut = workshop(tmp_path / "cut", tiny_model, optimisation=OPTIONS["noise"] | {"micro_batch_tokens": 16})
    for one in (calm, whole, cut):
        work(one)

    assert abs(losses(whole)[0] - losses(calm)[0]) > 1e-4
    assert losses(whole) == pytest.approx(losses(cut), abs=1e-3)
    first, second = weights_of(whole, tmp_path / "w1"), weights_of(cut, tmp_path / "w2")
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], rtol=1e-3, atol=2e-5, msg=name)


def test_noise_leaves_the_validation_loss_alone(tmp_path: Path, tiny_model: Path) -> None:
    """Without a rate nothing moves: the loss with noise differs, the validation loss does not."""
    found = []
    for name, alpha in (("calm", 0.0), ("noisy", 5.0)):
        one = Workshop(tmp_path / name, tiny_model, train=rows(8), validation=rows(4, first=50))
        one.recipe = {"optimisation": {"steps_max": 1, "learning_rate": 1e-30, "neftune_alpha": alpha}}
        work(one)
        line = next(csv.DictReader(io.StringIO(one.store.get_bytes(f"{JOB}/result/metrics.csv").decode())))
        found.append((line["train_loss"], line["valid_loss"]))

    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("adaptation", sorted(OUTSIDE_LAYERS))
def test_a_schedule_for_weights_outside_the_layers_is_refused(
    tmp_path: Path, tiny_model: Path, adaptation: str, schedule: str
) -> None:
    one = workshop(tmp_path / "job", tiny_model, adaptation=adaptation, update_schedule=SCHEDULES[schedule])

    with pytest.raises(ValidationError, match="goes by layers") as refused:
        one.runfile()
    assert refused.value.errors()[0]["loc"] == ("update_schedule",)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_head_over_texts_learns_from_the_first_step_of_any_schedule(
    tmp_path: Path, tiny_model: Path, schedule: str
) -> None:
    recipe = {"objective": {"kind": "classify"}, "update_schedule": SCHEDULES[schedule]}
    calm = check_cut(tiny_model, tmp_path, [3], adaptation="last_layers", **recipe)
    one = workshop(tmp_path / "short", tiny_model, adaptation="last_layers", **recipe)
    work(one, until_step=1)
    fetch(one.store, f"{JOB}/checkpoints/1", tmp_path / "checkpoint")

    assert losses(calm)[-1] < losses(calm)[0] - 0.1
    memory = {name.split("/")[0] for name in load_file(tmp_path / "checkpoint" / "optimizer.safetensors")}
    assert any("head" in name for name in memory)
    assert len([name for name in memory if ".layers." in name]) == 9


def test_two_processes_move_what_one_moves(tmp_path: Path, tiny_model: Path) -> None:
    options = {**OPTIONS["noise"], **OPTIONS["recomputation"]}
    alone, both = (
        workshop(
            tmp_path / f"{processes}",
            tiny_model,
            update_schedule=SCHEDULES["half"],
            optimisation=options,
            processes_per_node=processes,
        )
        for processes in (1, 2)
    )
    alone.run()
    both.run()

    assert losses(both) == pytest.approx(losses(alone), abs=1e-4)
