"""What a run learns, whatever its batches are cut into, and when it ends."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from feinschliff.artifacts.commit import fetch
from feinschliff.formats.records import Message, Record
from feinschliff.formats.report import Metrics, Notice, Result
from feinschliff.kit.errors import Invalid
from feinschliff.trainer.loop import refuse_what_is_not_finite, step_seed
from tests.support.trainer import JOB, Workshop, rows
from tests.unit.trainer.conftest import MakeWorkshop


def trained(one: Workshop, folder: Path) -> dict[str, torch.Tensor]:
    fetch(one.store, f"{JOB}/result", folder)
    return load_file(folder / "adapter_model.safetensors")


def history(one: Workshop) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(one.store.get_bytes(f"{JOB}/result/metrics.csv").decode())))


def with_answers_of_the_next(records: list[Record]) -> list[Record]:
    nexts = records[1:] + records[:1]
    return [
        one.model_copy(update={"messages": [one.messages[0], other.messages[1]]})
        for one, other in zip(records, nexts, strict=True)
    ]


def test_the_loss_falls_and_the_files_say_so(workshop: MakeWorkshop) -> None:
    one = workshop()
    one.run()

    lines = history(one)
    assert list(lines[0]) == [
        "step",
        "train_loss",
        "train_accuracy",
        "valid_loss",
        "valid_mean_token_accuracy",
    ]
    assert [int(line["step"]) for line in lines] == list(range(1, 16))
    assert float(lines[-1]["train_loss"]) < float(lines[0]["train_loss"]) - 1
    assert [line["step"] for line in lines if line["valid_loss"]] == ["5", "10", "15"]
    assert list((one.store_folder / JOB / "tensorboard/attempt-1").glob("events.out.tfevents.*"))


def test_how_a_step_is_cut_into_micro_batches_changes_nothing(workshop: MakeWorkshop, tmp_path: Path) -> None:
    whole, cut = workshop(), workshop()
    cut.recipe["optimisation"] = {**whole.recipe["optimisation"], "micro_batch_tokens": 16}  # type: ignore[dict-item]
    whole.run()
    cut.run()

    first, second = trained(whole, tmp_path / "whole"), trained(cut, tmp_path / "cut")
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], rtol=1e-3, atol=2e-5, msg=name)
    for one, other in zip(history(whole), history(cut), strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), abs=1e-4)


SYSTEM = Message(role="system", content="Sort the letters of what you are told and answer in one word. " * 4)


def tokens_of(one: Workshop) -> tuple[list[float], list[float]]:
    """Of each step: tokens that were computed, and tokens of its rows."""
    steps = [p.report for p in one.reports() if isinstance(p.report, Metrics) and p.report.phase == "train"]
    return [step.values["computed_tokens"] for step in steps], [step.values["tokens"] for step in steps]


def told(records: list[Record]) -> list[Record]:
    return [one.model_copy(update={"messages": [SYSTEM, *one.messages]}) for one in records]


def test_a_system_prompt_is_computed_once_a_batch_and_nothing_else_changes(tmp_path: Path, tiny_model: Path) -> None:
    together, alone = (Workshop(tmp_path / name, tiny_model, train=told(rows(12)), validation=[]) for name in "ab")
    together.recipe = {"optimisation": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01}}
    alone.recipe = {"optimisation": {**together.recipe["optimisation"], "micro_batch_tokens": 16}}
    together.run()
    alone.run()

    (computed, of_rows), (each, of_each) = tokens_of(together), tokens_of(alone)
    assert sum(computed) < 0.5 * sum(of_rows)
    assert each == of_each == of_rows, "a row that is alone shares nothing"
    for one, other in zip(history(together), history(alone), strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), abs=1e-4)
    first, second = trained(together, tmp_path / "together"), trained(alone, tmp_path / "alone")
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], rtol=1e-3, atol=2e-5, msg=name)


def test_tokens_that_are_computed_count_against_the_micro_batch(tmp_path: Path, tiny_model: Path) -> None:
    one = Workshop(tmp_path / "job", tiny_model, train=told(rows(8)), validation=[])
    one.recipe = {"optimisation": {"epochs": 1, "batch_size": 8, "micro_batch_tokens": 700}}
    one.run()

    (computed,), (of_rows,) = tokens_of(one)
    assert computed < 700 < of_rows - 700, "one pass, where rows on their own would need three"


@pytest.mark.parametrize(
    "changes",
    [{"adaptation": {"kind": "lora", "rank": 4, "dropout": 0.1}}, {"optimisation": {"neftune_alpha": 5.0}}],
    ids=["dropout", "noise"],
)
def test_rows_whose_randomness_is_their_own_share_nothing(
    tmp_path: Path, tiny_model: Path, changes: dict[str, object]
) -> None:
    one = Workshop(tmp_path / "job", tiny_model, train=told(rows(8)), validation=[])
    one.recipe = {"optimisation": {"epochs": 1, "batch_size": 4}} | changes
    one.run()

    computed, of_rows = tokens_of(one)
    assert computed == of_rows


def test_training_stops_early_and_keeps_the_best_weights(tmp_path: Path, tiny_model: Path) -> None:
    wrong = with_answers_of_the_next(rows(8))
    one = Workshop(tmp_path / "job", tiny_model, train=rows(18), validation=wrong)
    one.recipe = {
        "optimisation": {"epochs": 30, "batch_size": 4, "learning_rate": 0.01, "warmup_fraction": 0.0},
        "validation": {"every_steps": 5, "patience": 2},
        "checkpointing": {"every_steps": 1000},
    }
    manifest = one.run()
    assert manifest is not None
    result = Result.model_validate(manifest.meta)

    losses = {int(line["step"]): float(line["valid_loss"]) for line in history(one) if line["valid_loss"]}
    assert result.stopped_early
    assert result.steps < 150
    assert result.best_step == min(losses, key=lambda step: losses[step]) == result.steps - 10
    assert result.metrics["validation_loss"] == losses[result.best_step]
    assert any(isinstance(posted.report, Notice) and posted.report.key == "early_stop" for posted in one.reports())
    best = one.store.get_bytes(f"{JOB}/checkpoints/{result.best_step}/adapter_model.safetensors")
    assert one.store.get_bytes(f"{JOB}/result/adapter_model.safetensors") == best


def test_every_step_reports_what_a_watcher_wants_to_see(workshop: MakeWorkshop) -> None:
    one = workshop()
    one.run()

    steps = [posted.report for posted in one.reports() if isinstance(posted.report, Metrics)]
    train = [report for report in steps if report.phase == "train"]
    assert [report.step for report in train] == list(range(1, 16))
    assert {report.steps_total for report in train} == {15}
    assert train[-1].epoch == pytest.approx(3.0)
    assert all(report.eta_seconds is not None for report in train)
    for report in train:
        assert report.values.keys() == {
            "loss",
            "accuracy",
            "learning_rate",
            "gradient_norm",
            "tokens",
            "computed_tokens",
            "tokens_per_second",
        }
        assert report.values["tokens_per_second"] > 0
        assert report.values["gradient_norm"] > 0
    assert train[0].trained_tokens < train[-1].trained_tokens


def test_a_version_can_be_trained_on_from_its_adapter(workshop: MakeWorkshop, tmp_path: Path) -> None:
    first = workshop()
    first.run()
    adapter = tmp_path / "adapter"
    fetch(first.store, f"{JOB}/result", adapter)
    second = workshop()
    from feinschliff.artifacts.commit import commit

    names = ("adapter_model.safetensors", "adapter_config.json")
    commit(second.store, "projects/default/adapter", {name: adapter / name for name in names}, {}, kind="result")
    second.initial_adapter_prefix = "projects/default/adapter"
    second.run()

    assert float(history(second)[0]["train_loss"]) < float(history(first)[0]["train_loss"]) - 1


def test_bad_data_ends_the_job_with_a_reason(workshop: MakeWorkshop) -> None:
    one = workshop(optimisation={"max_row_tokens": 16})

    one.run(expect=65)

    failure = json.loads(one.store.get_bytes(f"{JOB}/failure.json"))
    assert failure["reason"] == "ROW_TOO_LONG"
    assert failure["retryable"] is False
    assert failure["advice"]
    assert one.result is None


def test_long_rows_that_are_dropped_are_counted_in_a_notice(tmp_path: Path, tiny_model: Path) -> None:
    many = rows(8)
    long = many[3].model_copy(
        update={"messages": [many[3].messages[0].model_copy(update={"content": "x" * 400}), many[3].messages[1]]}
    )
    one = Workshop(tmp_path / "job", tiny_model, train=[*many, long])
    one.recipe = {"optimisation": {"epochs": 1, "max_row_tokens": 128, "on_long_row": "drop"}}
    one.run()

    notices = [posted.report.message for posted in one.reports() if isinstance(posted.report, Notice)]
    assert any(message.startswith("1 rows of") and "128 tokens" in message for message in notices)


def test_seeds_of_steps_differ() -> None:
    assert len({step_seed(seed, step) for seed in range(3) for step in range(100)}) == 300


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (1.0, float("inf"))])
def test_numbers_that_are_none_end_the_job(loss: float, norm: float) -> None:
    with pytest.raises(Invalid) as refusal:
        refuse_what_is_not_finite(loss, norm, 3)

    assert refusal.value.reason == "LOSS_NOT_FINITE"
