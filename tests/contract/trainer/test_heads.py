"""Heads over the last token: equal to transformers' own models, kept with what they tell, and trained on."""

from __future__ import annotations

import csv
import io
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from feinschliff.artifacts.commit import commit, fetch
from feinschliff.formats.heads import HEAD_NAME, HeadFacts
from feinschliff.formats.objectives import Classify, Objective, Regress
from feinschliff.formats.records import Record
from feinschliff.formats.report import Metrics, Result
from feinschliff.kit.errors import Invalid, WrongState
from feinschliff.lm import heads
from feinschliff.lm.adaptations import ADAPTATIONS
from feinschliff.lm.chat import Chat
from feinschliff.lm.encoding import RowEncoder, survey
from feinschliff.lm.load import load_model, load_tokenizer
from feinschliff.lm.rows_attention import rows_apart
from feinschliff.trainer.learner import HEAD, Learner
from feinschliff.trainer.method import METHODS
from tests.contract.trainer.test_adaptations import history, work
from tests.support.trainer import COLOURS, JOB, Workshop, rows, rows_for

OBJECTIVES: dict[str, Objective] = {
    "classify": Classify(),
    "several": Classify(multi_label=True),
    "regress": Regress(standardise=False),
}
PEFT_KINDS = ("lora", "dora", "ia3")

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def judged(objective: str, count: int) -> list[Record]:
    if objective == "several":
        return [
            Record(text=one.text, labels=sorted({COLOURS[k % 4], COLOURS[k % 3]} if k % 5 else set()), line=one.line)
            for k, one in enumerate(rows_for("pretrain", count))
        ]
    return rows_for(objective, count)


def encoder_for(base: Path, objective: str, records: Sequence[Record]) -> RowEncoder:
    chosen = OBJECTIVES[objective]
    return RowEncoder(Chat.of(load_tokenizer(base)), chosen, survey(records, chosen))


def theirs(base: Path, folder: Path, adaptation: str, facts: HeadFacts) -> Any:
    """Transformers' model for sequence classification with the saved weights, without any code of ours."""
    kind = {"classify": "single_label_classification", "regress": "regression"}[facts.kind]
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        folder if adaptation == "full" else base,
        num_labels=facts.outputs,
        problem_type="multi_label_classification" if facts.multi_label else kind,
        dtype=torch.float32,
    )
    model.score.load_state_dict({"weight": load_file(folder / HEAD_NAME)["score.weight"]})
    if adaptation == "last_layers":
        assert not model.load_state_dict(load_file(folder / "trained.safetensors"), strict=False).unexpected_keys
    if adaptation not in PEFT_KINDS:
        return model
    config = PeftConfig.from_pretrained(str(folder))
    config.task_type = None
    config.inference_mode = False
    adapted: Any = PeftModel.from_pretrained(model, str(folder), config=config, is_trainable=True)
    adapted.base_model.model.score.requires_grad_(True)
    return adapted


def padded(encoder: RowEncoder, records: Sequence[Record]) -> dict[str, torch.Tensor]:
    facts = encoder.facts
    assert facts is not None
    texts = [row.token_ids[:-1] for row in encoder.encode(records)]
    width = max(len(text) for text in texts)
    targets = heads.targets_of([row.targets for row in encoder.encode(records)], facts)
    return {
        "input_ids": torch.tensor([text + [2] * (width - len(text)) for text in texts]),
        "attention_mask": torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts]),
        "labels": targets,
    }


@pytest.mark.parametrize("adaptation", ["lora", "dora", "full", "last_layers", "ia3"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradients_are_those_of_transformers_own_model(
    tmp_path: Path, tiny_model: Path, objective: str, adaptation: str
) -> None:
    records = judged(objective, 7)
    encoder, adapt = encoder_for(tiny_model, objective, records), ADAPTATIONS[adaptation]
    assert encoder.facts is not None
    one = Workshop(tmp_path / "job", tiny_model, train=records)
    one.recipe = {"adaptation": {"kind": adaptation, **({"train_head": False} if adaptation == "last_layers" else {})}}
    adapted = adapt.attach(load_model(tiny_model, precision="fp32"), one.runfile().recipe.adaptation, seed=3)
    learner = Learner(adapt, adapted, heads.fresh(encoder.facts, 64, seed=5))
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in learner.trained().values():
            weight.add_(torch.randn_like(weight), alpha=0.03)
    learner.save(tmp_path / "weights", base_model=f"file:{tiny_model}")
    method = METHODS[encoder.objective.kind]

    with rows_apart(learner.transformer):
        terms = method.loss(learner, method.collate(encoder.encode(records)), encoder.objective)
        (terms.loss_sum / terms.labels).backward()  # type: ignore[no-untyped-call]
    plain = theirs(tiny_model, tmp_path / "weights", adaptation, encoder.facts)
    loss = plain(**padded(encoder, records)).loss
    loss.backward()

    assert float(terms.loss_sum.detach() / terms.labels) == pytest.approx(float(loss.detach()), abs=1e-4)
    expected = {name: weight.grad for name, weight in plain.named_parameters()}
    found = learner.trained()
    score = next(grad for name, grad in expected.items() if "score" in name)
    torch.testing.assert_close(found.pop(HEAD).grad, score, rtol=1e-3, atol=1e-5)
    assert found
    for name, weight in found.items():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def classifier(folder: Path, base: Path, **recipe: object) -> Workshop:
    one = Workshop(folder, base, train=rows_for("classify", 18), validation=rows_for("classify", 8, first=50))
    one.recipe = {
        "objective": {"kind": "classify"},
        "optimisation": {"epochs": 10, "batch_size": 18, "learning_rate": 2e-2, "warmup_fraction": 0.1},
        "checkpointing": {"every_steps": 1000},
        **recipe,
    }
    return one


def result_of(one: Workshop) -> Result:
    assert one.result is not None
    return Result.model_validate(one.result.meta)


def test_a_classifier_leaves_its_classes_its_numbers_and_its_confusions(tmp_path: Path, tiny_model: Path) -> None:
    one = classifier(tmp_path / "job", tiny_model)
    work(one)
    fetch(one.store, f"{JOB}/result", tmp_path / "result")
    result = result_of(one)

    head = heads.load(tmp_path / "result")
    assert head.facts.classes == sorted(COLOURS)
    assert head.facts.rows_by_class == [4, 4, 5, 5]
    table = list(csv.reader(io.StringIO((tmp_path / "result/confusion.csv").read_text())))
    assert table[0] == ["class", *sorted(COLOURS)]
    counts = torch.tensor([[int(cell) for cell in line[1:]] for line in table[1:]])
    assert counts.sum() == 8
    assert result.metrics["validation_accuracy"] == pytest.approx(float(counts.diagonal().sum() / 8))
    assert 0 <= result.metrics["validation_macro_f1"] <= 1
    assert [len(probe.scores) for probe in result.golden_probes] == [4] * 5
    assert sum(torch.tensor(result.golden_probes[0].scores).exp()) == pytest.approx(1, abs=1e-4)
    assert not any(probe.token_ids for probe in result.golden_probes)


def test_a_head_alone_learns_and_leaves_the_base_as_it_is(tmp_path: Path, tiny_model: Path) -> None:
    calm, cut = (
        classifier(tmp_path / name, tiny_model, adaptation={"kind": "last_layers", "layers": 0})
        for name in ("calm", "cut")
    )
    expected = work(calm)
    assert expected is not None
    losses = [float(line["train_loss"]) for line in history(calm)]
    assert losses[-1] < losses[0] - 0.1

    work(cut, until_step=4)
    resumed = work(cut, attempt=2)
    assert resumed is not None
    assert resumed.files == expected.files
    fetch(calm.store, f"{JOB}/result", tmp_path / "result")
    assert load_file(tmp_path / "result/trained.safetensors") == {}
    kept = {Path(key).name for key in cut.store.list(f"{JOB}/checkpoints")}
    assert kept >= {"head.safetensors", "head.json", "adaptation.json"}


def test_a_number_is_learned_in_the_unit_of_the_data(tmp_path: Path, tiny_model: Path) -> None:
    one = Workshop(
        tmp_path / "job", tiny_model, train=rows_for("regress", 18), validation=rows_for("regress", 8, first=50)
    )
    one.recipe = {**classifier(tmp_path / "other", tiny_model).recipe, "objective": {"kind": "regress"}}
    work(one)
    metrics = result_of(one).metrics
    fetch(one.store, f"{JOB}/result", tmp_path / "result")

    facts = heads.load(tmp_path / "result").facts
    numbers = [10.0 + 5 * (k % 4) for k in range(18)]
    assert facts.mean == pytest.approx(sum(numbers) / 18)
    assert facts.deviation == pytest.approx(float(torch.tensor(numbers).std(correction=0)))
    assert "train_accuracy" not in metrics
    assert metrics["validation_rmse"] ** 2 / facts.deviation**2 == pytest.approx(metrics["validation_loss"], rel=1e-4)
    assert 0 < metrics["validation_mae"] <= metrics["validation_rmse"]
    assert all(5 < probe.scores[0] < 35 for probe in result_of(one).golden_probes)
    assert all(line["train_accuracy"] == "" for line in history(one))


def test_conversations_are_classified_by_their_last_answer(tmp_path: Path, tiny_model: Path) -> None:
    one = classifier(tmp_path / "job", tiny_model)
    talks = Workshop(tmp_path / "talks", tiny_model, train=rows(18), validation=rows(8, first=50))
    talks.recipe = one.recipe
    work(talks)
    fetch(talks.store, f"{JOB}/result", tmp_path / "result")

    head = heads.load(tmp_path / "result")
    assert head.facts.classes == sorted(COLOURS)
    assert head.facts.as_chat
    chat = Chat.of(load_tokenizer(tiny_model))
    encoder = RowEncoder(chat, Classify(), head.facts)
    record = rows(1)[0]
    assert encoder.encode([record])[0].token_ids[:-1] == chat.prompt_ids(record.messages[:1])
    assert encoder.text_ids(record.messages[0].content or "") == chat.prompt_ids(record.messages[:1])


def test_several_tasks_are_told_apart_in_the_numbers(tmp_path: Path, tiny_model: Path) -> None:
    one = classifier(tmp_path / "job", tiny_model)
    runfile = one.runfile()
    parts = [part.model_copy(update={"task": name}) for part, name in zip(runfile.train * 2, ("a", "b"), strict=True)]
    tests = [part.model_copy(update={"task": "b"}) for part in runfile.validation]
    one.runfile = lambda attempt=1: runfile.model_copy(update={"train": parts, "validation": tests})  # type: ignore[method-assign]
    posted = work_and_listen(one)

    train = next(report for report in posted if report.phase == "train")
    assert train.values["loss"] == pytest.approx((train.values["loss/a"] + train.values["loss/b"]) / 2, abs=0.2)
    assert {"accuracy/a", "accuracy/b"} <= set(train.values)
    validation = next(report for report in posted if report.phase == "validation")
    assert validation.values["loss/b"] == pytest.approx(validation.values["loss"])
    assert "loss/a" not in validation.values


def work_and_listen(one: Workshop) -> list[Metrics]:
    from tests.contract.trainer import test_adaptations

    posted: list[Metrics] = []

    class Listening(test_adaptations.StoppingAt):
        def post(self, report, *, time=None):  # type: ignore[no-untyped-def]
            super().post(report, time=time)
            if isinstance(report, Metrics):
                posted.append(report)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_adaptations, "StoppingAt", Listening)
        work(one)
    return posted


def test_a_head_is_trained_on_with_its_classes(tmp_path: Path, tiny_model: Path) -> None:
    first = classifier(tmp_path / "first", tiny_model)
    work(first)
    fetch(first.store, f"{JOB}/result", tmp_path / "result")
    files = {path.name: path for path in (tmp_path / "result").iterdir() if path.name != "manifest.json"}

    def continued(name: str, **objective: object) -> Workshop:
        one = classifier(tmp_path / name, tiny_model, objective={"kind": "classify", **objective})
        one.initial_adapter_prefix = "projects/default/version"
        commit(one.store, one.initial_adapter_prefix, files, {}, kind="result")
        work(one)
        return one

    same, other = continued("same"), continued("other", labels=[*sorted(COLOURS, reverse=True), "none"])
    assert float(history(same)[0]["train_loss"]) < float(history(first)[0]["train_loss"]) - 0.3
    assert float(history(other)[0]["train_loss"]) > float(history(same)[0]["train_loss"]) + 0.1
    fetch(other.store, f"{JOB}/result", tmp_path / "others")
    assert heads.load(tmp_path / "others").facts.classes == ["refund", "order", "invoice", "delivery", "none"]


def test_last_layers_that_trained_the_vocabularys_head_get_no_other(tmp_path: Path, tiny_model: Path) -> None:
    first = Workshop(tmp_path / "first", tiny_model, train=rows(8))
    first.recipe = {"adaptation": {"kind": "last_layers"}, "optimisation": {"epochs": 1}}
    work(first)
    fetch(first.store, f"{JOB}/result", tmp_path / "result")
    files = {path.name: path for path in (tmp_path / "result").iterdir() if path.name != "manifest.json"}

    for layers in (0, 2):
        adaptation = {"kind": "last_layers", "layers": layers}
        one = classifier(tmp_path / f"second-{layers}", tiny_model, adaptation=adaptation)
        one.initial_adapter_prefix = "projects/default/version"
        commit(one.store, one.initial_adapter_prefix, files, {}, kind="result")
        with pytest.raises(WrongState) as refused:
            work(one)
        assert refused.value.reason == "ADAPTATION_DIFFERS"


def test_a_class_that_the_head_does_not_have_is_refused_by_line(tmp_path: Path, tiny_model: Path) -> None:
    one = Workshop(tmp_path / "job", tiny_model, train=rows_for("classify", 18))
    one.recipe = {"objective": {"kind": "classify", "labels": ["order", "refund", "invoice"]}}

    with pytest.raises(Invalid, match="Line 4 of") as refused:
        work(one)

    assert refused.value.reason == "LABEL_UNKNOWN"
    assert refused.value.metadata["line"] == "4"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("failpoint", ["step.after=kill@5", "checkpoint.after_commit=kill@2"])
def test_a_killed_classifier_ends_as_an_undisturbed_one(tmp_path: Path, tiny_model: Path, failpoint: str) -> None:
    often = {"validation": {"every_steps": 2}, "checkpointing": {"every_steps": 3}}
    calm, killed = (classifier(tmp_path / name, tiny_model, **often) for name in ("calm", "killed"))
    expected = calm.run()
    assert expected is not None

    killed.run(failpoints=failpoint, expect=-signal.SIGKILL)
    resumed = killed.run(attempt=2)

    assert resumed is not None
    assert resumed.files == expected.files
    assert {"head.safetensors", "head.json", "confusion.csv"} <= set(expected.files)
    assert result_of(killed).metrics == result_of(calm).metrics


@pytest.mark.timeout(600)
def test_two_processes_find_the_numbers_of_one(tmp_path: Path, tiny_model: Path) -> None:
    pace = {"epochs": 3, "batch_size": 6, "learning_rate": 5e-3}
    alone, both = (
        classifier(tmp_path / f"job-{count}", tiny_model, optimisation=pace, processes_per_node=count)
        for count in (1, 2)
    )
    alone.run()
    both.run()

    for one, other in zip(history(alone), history(both), strict=True):
        assert float(other["train_loss"]) == pytest.approx(float(one["train_loss"]), abs=1e-4)
    confusions = [one.store.get_bytes(f"{JOB}/result/confusion.csv") for one in (alone, both)]
    assert confusions[0] == confusions[1]
    assert result_of(both).metrics == pytest.approx(result_of(alone).metrics, abs=1e-4)
