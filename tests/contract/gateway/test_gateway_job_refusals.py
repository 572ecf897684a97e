"""What a wrong fine-tuning request is answered with."""

from __future__ import annotations

from typing import Any

import openai as sdk
import pytest
from openai import OpenAI

from tests.contract.gateway.jobs import file, job


@pytest.mark.parametrize("job_id", ["ftjob-nothing", "nonsense", "ftjob-UPPER"])
def test_an_unknown_job_is_404_on_every_route(openai: OpenAI, job_id: str) -> None:
    jobs = openai.fine_tuning.jobs
    for ask in (jobs.retrieve, jobs.cancel, jobs.list_events, jobs.checkpoints.list):
        with pytest.raises(sdk.NotFoundError) as caught:
            ask(job_id)
        assert (caught.value.code, caught.value.param) == ("fine_tune_not_found", "fine_tune_id")


@pytest.mark.parametrize("after", ["ftjob-nothing", "ftevent-x-1-0", "x"])
def test_an_unknown_cursor_is_refused_and_never_page_one(openai: OpenAI, after: str) -> None:
    made = job(openai)
    lists = (
        lambda: openai.files.list(after=after),
        lambda: openai.fine_tuning.jobs.list(after=after),
        lambda: openai.fine_tuning.jobs.list_events(made.id, after=after),
        lambda: openai.fine_tuning.jobs.checkpoints.list(made.id, after=after),
    )
    for ask in lists:
        with pytest.raises(sdk.BadRequestError) as caught:
            ask()
        assert (caught.value.code, caught.value.param) == ("invalid_value", "after")


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        (0, "integer_below_min_value"),
        (-3, "integer_below_min_value"),
        (10**9, "integer_above_max_value"),
        ("x", "invalid_type"),
    ],
)
def test_a_limit_out_of_range_is_refused(openai: OpenAI, limit: Any, code: str) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.fine_tuning.jobs.list(limit=limit)
    assert (caught.value.code, caught.value.param) == (code, "limit")


HYPER = "method.supervised.hyperparameters"


@pytest.mark.parametrize(
    ("wanted", "code", "param"),
    [
        ({"training_file": "file-nothing"}, "invalid_value", "training_file"),
        ({"training_file": "nonsense"}, "invalid_value", "training_file"),
        ({"training_file": 3}, "invalid_type", "training_file"),
        ({"validation_file": "file-nothing"}, "invalid_value", "validation_file"),
        ({"model": "gpt-4o"}, "model_not_found", "model"),
        ({"model": "ft:smollm2-135m-instruct:default::nothing"}, "model_not_found", "model"),
        ({"model": "pypi:nothing"}, "model_not_found", "model"),
        ({"model": ""}, "string_below_min_length", "model"),
        ({"suffix": "x" * 65}, "string_above_max_length", "suffix"),
        ({"suffix": ""}, "string_below_min_length", "suffix"),
        ({"seed": -1}, "integer_below_min_value", "seed"),
        ({"seed": 2**31}, "integer_above_max_value", "seed"),
        ({"seed": "7"}, "invalid_type", "seed"),
        ({"seed": True}, "invalid_type", "seed"),
        ({"metadata": {"k" * 65: "v"}}, "string_above_max_length", "metadata.{}".format("k" * 65)),
        ({"metadata": {"k": "v" * 513}}, "string_above_max_length", "metadata.k"),
        ({"metadata": {"k": 3}}, "invalid_type", "metadata.k"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "object_above_max_properties", "metadata"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "unsupported_parameter", "integrations"),
        ({"method": {"type": "dpo"}}, "unsupported_parameter", "method.type"),
        ({"method": {"type": "reinforcement", "reinforcement": {}}}, "unsupported_parameter", "method.type"),
        ({"method": {"type": "nonsense"}}, "invalid_value", "method.type"),
        ({"method": {}}, "missing_required_parameter", "method.type"),
        ({"method": {"type": "supervised", "dpo": {}}}, "invalid_value", "method.dpo"),
        ({"hyperparameters": {"n_epochs": 0}}, "integer_below_min_value", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 51}}, "integer_above_max_value", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 1.5}}, "invalid_type", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": "many"}}, "invalid_type", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 257}}, "integer_above_max_value", "hyperparameters.batch_size"),
        (
            {"hyperparameters": {"learning_rate_multiplier": -1}},
            "decimal_below_min_value",
            "hyperparameters.learning_rate_multiplier",
        ),
        (
            {"method": {"type": "supervised", "supervised": {"hyperparameters": {"learning_rate_multiplier": 0}}}},
            "decimal_below_min_value",
            f"{HYPER}.learning_rate_multiplier",
        ),
        ({"hyperparameters": {"beta": 1}}, "unknown_parameter", "hyperparameters.beta"),
        ({"extra_body": {"nonsense": 1}}, "unknown_parameter", "nonsense"),
    ],
)
def test_a_wrong_job_is_refused_with_code_and_param(
    openai: OpenAI, wanted: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        job(openai, **wanted)
    assert (caught.value.code, caught.value.param) == (code, param), caught.value.message
    assert openai.fine_tuning.jobs.list().data == []


def test_what_the_service_refuses_is_told_by_the_callers_own_names(openai: OpenAI) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        job(openai, hyperparameters={"learning_rate_multiplier": 4000})
    assert (caught.value.code, caught.value.param) == ("invalid_value", "hyperparameters.learning_rate_multiplier")
    wanted = {"type": "supervised", "supervised": {"hyperparameters": {"learning_rate_multiplier": 4000}}}
    with pytest.raises(sdk.BadRequestError) as caught:
        job(openai, method=wanted)
    assert caught.value.param == f"{HYPER}.learning_rate_multiplier"


def test_training_and_validation_may_not_be_one_file(openai: OpenAI) -> None:
    data = file(openai)
    with pytest.raises(sdk.BadRequestError) as caught:
        job(openai, training_file=data, validation_file=data)
    assert caught.value.param == "validation_file"


def test_missing_parameters_are_named_together(openai: OpenAI) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.post("/fine_tuning/jobs", body={}, cast_to=object)
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "model")
    assert "'model'" in caught.value.message
    assert "'training_file'" in caught.value.message
