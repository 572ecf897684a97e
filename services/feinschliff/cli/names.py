"""Short names for people: `routing` for the newest version of a dataset, `intents@production` for a model's alias."""

from __future__ import annotations

import re
from dataclasses import dataclass

from feinschliff.artifacts.bases import DEFAULT_BASE, short_name
from feinschliff.cli.services import Services, refusals
from feinschliff.kit.errors import NotFound
from feinschliff.v1 import inference_pb2, ingestion_pb2, registry_pb2, training_pb2

_URI = re.compile(r"(hf|s3|file|pypi):.")
_VERSIONED = re.compile(r"(?P<resource>.+?)/(versions/)?(?P<version>[0-9]+)")


def expand(text: str, collection: str, project: str) -> str:
    """`{project}/{collection}/{text}`, or `text` where it is a whole name already."""
    return text if text.startswith("projects/") else f"projects/{project}/{collection}/{text}"


def versioned(text: str, collection: str, project: str) -> tuple[str, str]:
    """The resource and the number of the version, empty for the newest: `routing/3`, `routing`, or whole names."""
    match = _VERSIONED.fullmatch(text)
    resource = match["resource"] if match else text
    return expand(resource, collection, project), match["version"] if match else ""


def run_name(text: str, project: str) -> str:
    """`EVAL/RUN` as a whole name."""
    if text.startswith("projects/"):
        return text
    evaluation, _, run = text.partition("/")
    return f"projects/{project}/evals/{evaluation}/runs/{run.removeprefix('runs/')}"


def is_base_uri(text: str) -> bool:
    return _URI.match(text) is not None


def short(name: str) -> str:
    """The end of a name that this command line takes back: `routing/3`, `ftjob-x`, `exact/run-y`."""
    parts = name.split("/")
    if parts[0] != "projects" or len(parts) < 4:
        return name
    return "/".join(parts[3::2])


@dataclass(frozen=True)
class Names:
    """Names in one project; where the newest version is meant, the service is asked."""

    project: str
    services: Services

    @property
    def parent(self) -> str:
        return f"projects/{self.project}"

    def dataset_version(self, text: str) -> str:
        """Raises NotFound DATASET_EMPTY where the dataset has no version yet."""
        dataset, version = versioned(text, "datasets", self.project)
        if version:
            return f"{dataset}/versions/{version}"
        with refusals():
            found = self.services.datasets.GetDataset(ingestion_pb2.GetDatasetRequest(name=dataset))
        if not found.latest_version:
            command = f"feinschliff dataset push FILE --name {dataset.rsplit('/', 1)[-1]}"
            raise NotFound("DATASET_EMPTY", f"{dataset} has no version yet.", advice=[command], dataset=dataset)
        return found.latest_version

    def model_version(self, text: str) -> str:
        """A version, or an alias as `model@alias`.

        Raises:
            NotFound: MODEL_EMPTY where the model has no version yet, MODEL_UNKNOWN for an `ft:` name.
        """
        if text.startswith("ft:"):
            return self._by_public_name(text)
        if "@" in text:
            return expand(text, "models", self.project)
        model, version = versioned(text, "models", self.project)
        if version:
            return f"{model}/versions/{version}"
        with refusals():
            found = self.services.registry.GetModel(registry_pb2.GetModelRequest(name=model))
        if not found.latest_version:
            raise NotFound("MODEL_EMPTY", f"{model} has no version yet.", model=model)
        return found.latest_version

    def servable(self, text: str) -> str:
        """What a model is called when it is asked: a base URI, a deployment, a version or an alias.

        A bare word is the base of that name, else a model's newest version, else a deployment.
        """
        if is_base_uri(text) or "/deployments/" in text:
            return text
        if text == short_name(DEFAULT_BASE):
            return DEFAULT_BASE
        if text.startswith("deployments/"):
            return f"{self.parent}/{text}"
        try:
            return self.model_version(text)
        except NotFound as no_model:
            if "/" in text or "@" in text or ":" in text:
                raise
            deployment = expand(text, "deployments", self.project)
            try:
                with refusals():
                    self.services.deployments.GetDeployment(inference_pb2.GetDeploymentRequest(name=deployment))
            except NotFound:
                raise NotFound(
                    "MODEL_UNKNOWN",
                    f"{text!r} is no model and no deployment of {self.parent}, nor a base such as {DEFAULT_BASE}.",
                    advice=["see what there is: feinschliff models"],
                    model=text,
                ) from no_model
            return deployment

    def _by_public_name(self, text: str) -> str:
        """`ft:{base}:{project}:{suffix}:{id}`: the result of the job with that id."""
        parts = text.split(":")
        ids = (f"ftjob-{parts[4]}", parts[4]) if len(parts) == 5 and parts[4] else ()
        for job_id in ids:
            request = training_pb2.GetTrainingJobRequest(name=f"{self.parent}/trainingJobs/{job_id}")
            try:
                with refusals():
                    job = self.services.training.GetTrainingJob(request)
            except NotFound:
                continue
            if job.model_version:
                return job.model_version
        raise NotFound("MODEL_UNKNOWN", f"No model version of {self.parent} is called {text}.", model=text)
