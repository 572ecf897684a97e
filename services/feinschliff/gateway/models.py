"""Which model a request names: a base by its short name or URI, a tuned one, or a resource of the other services."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

import grpc
from pydantic import JsonValue

from feinschliff.gateway import ids
from feinschliff.gateway.clients import Clients
from feinschliff.gateway.errors import ApiError, answering, from_refusal, no_model
from feinschliff.gateway.jobs import JobView, State, seconds
from feinschliff.gateway.pages import SERVICE_PAGE_MAX
from feinschliff.kit import names
from feinschliff.kit.errors import NotFound, from_rpc_error
from feinschliff.v1 import registry_pb2, training_pb2

PROJECT_OWNER, BASE_OWNER = "project", "system"


@dataclass(frozen=True)
class Target:
    """What inference and training are asked for.

    Attributes:
        model: as inference takes it: model version, deployment, or base URI.
        base_uri: what must be loaded for it; empty where only inference knows.
        version: the model version; empty where a base or a deployment is meant.
        may_deploy: whether the gateway may make a deployment for it: never for a base that nobody here knows.
    """

    model: str
    base_uri: str = ""
    version: str = ""
    may_deploy: bool = False


class Models:
    """The models that a project's key can name."""

    def __init__(self, clients: Clients, bases: ids.Bases) -> None:
        self._clients = clients
        self._bases = bases

    async def resolve(self, project: str, model: str) -> Target:
        """Raises ApiError 404 model_not_found where the project has no such model."""
        tuned = ids.TunedName.parse(model)
        if tuned is not None:
            return await self._tuned(project, tuned, model)
        uri = self._bases.uri_of(model)
        if uri is not None:
            return Target(uri, uri, may_deploy=self._bases.is_known(uri))
        if not ids.is_resource_of(project, model):
            raise no_model(model)
        if names.matches(ids.DEPLOYMENT, model):
            return Target(model)
        version = await self._version(model, model)
        return _of_version(version)

    async def show(self, project: str, model: str) -> dict[str, JsonValue]:
        """The model object of one model."""
        if model in self._bases.uris or self._bases.is_known(model):
            return _object(model, 0, BASE_OWNER)
        target = await self.resolve(project, model)
        if not target.version:
            raise no_model(model)
        version = await self._version(target.version, model)
        return _object(model, seconds(version.create_time), project)

    async def all(self, project: str) -> list[dict[str, JsonValue]]:
        """Bases first, then the project's own, newest first."""
        bases = [_object(name, 0, BASE_OWNER) for name in self._bases.uris]
        return bases + [
            _object(self._public_name(project, version), seconds(version.create_time), project)
            for version in await self._versions(project)
        ]

    async def shown(self, project: str, served: Collection[str]) -> dict[str, str]:
        """The names under which this door shows models that other services name; what is gone keeps its own."""
        shown = {model: self._bases.short(model) if self._bases.is_known(model) else model for model in served}
        for model in served:
            if names.matches(ids.MODEL_VERSION, model) and ids.is_resource_of(project, model):
                with suppress(ApiError):
                    shown[model] = self._public_name(project, await self._version(model, model))
        return shown

    async def delete(self, project: str, model: str) -> None:
        """Removes a tuned model; its job stays readable.

        Raises:
            ApiError: 403 for a base, 404 for an unknown one, 409 while something still needs it.
        """
        if self._bases.uri_of(model) is not None:
            message = f"'{model}' is a base model; only tuned models can be deleted."
            raise ApiError(403, message, code="permission_denied", param="model")
        target = await self.resolve(project, model)
        if not target.version:
            raise no_model(model)
        with answering(missing=no_model(model)):
            await self._clients.registry.DeleteModelVersion(registry_pb2.DeleteModelVersionRequest(name=target.version))

    async def _tuned(self, project: str, name: ids.TunedName, asked: str) -> Target:
        job = await self._job_of(project, name) if name.project == project else None
        if job is None or job.state != State.STATE_SUCCEEDED or not job.model_version:
            raise no_model(asked)
        version = await self._version(job.model_version, asked)
        view = JobView(job, self._bases)
        whole = ids.TunedName(self._bases.short(version.base_model), project, name.suffix, name.id, name.step)
        if name not in (view.tuned(name.step), whole) or name.suffix != view.tuned().suffix:
            raise no_model(asked)
        if name.step is not None:
            await self._check_is_result(job, version, name)
        return _of_version(version)

    async def _job_of(self, project: str, name: ids.TunedName) -> training_pb2.TrainingJob | None:
        for job_id in name.job_ids:
            job_name = ids.job_name(project, job_id)
            if job_name is None:
                continue
            try:
                return await self._clients.training.GetTrainingJob(training_pb2.GetTrainingJobRequest(name=job_name))
            except grpc.RpcError as error:
                refusal = from_rpc_error(error)
                if not isinstance(refusal, NotFound):
                    raise from_refusal(refusal) from error
        return None

    async def _check_is_result(
        self, job: training_pb2.TrainingJob, version: registry_pb2.ModelVersion, name: ids.TunedName
    ) -> None:
        """A checkpoint answers where it is the job's result; another one is kept, but is no model of its own here."""
        checkpoint = f"{job.name}/checkpoints/{name.step}"
        if checkpoint in (version.checkpoint, job.best_checkpoint):
            return
        with answering(missing=no_model(str(name))):
            found = await self._clients.training.GetCheckpoint(training_pb2.GetCheckpointRequest(name=checkpoint))
        if found.last and not version.checkpoint and not job.best_checkpoint:
            return
        raise ApiError(
            400,
            f"The checkpoint '{name}' is kept, but this version serves only a job's result, which is"
            f" '{ids.TunedName(name.base, name.project, name.suffix, name.id)}'.",
            code="checkpoint_not_served",
            param="model",
        )

    async def _version(self, name: str, asked: str) -> registry_pb2.ModelVersion:
        with answering(missing=no_model(asked)):
            return await self._clients.registry.GetModelVersion(registry_pb2.GetModelVersionRequest(name=name))

    async def _versions(self, project: str) -> list[registry_pb2.ModelVersion]:
        found: list[registry_pb2.ModelVersion] = []
        parent = f"projects/{project}/models/-"
        request = registry_pb2.ListModelVersionsRequest(parent=parent, page_size=SERVICE_PAGE_MAX)
        while True:
            with answering():
                page = await self._clients.registry.ListModelVersions(request)
            found += page.model_versions
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def _public_name(self, project: str, version: registry_pb2.ModelVersion) -> str:
        job_id = ids.last_part(version.training_job)
        if not job_id or version.recipe.task_adapters == training_pb2.TrainingRecipe.TASK_ADAPTERS_SEPARATE:
            return version.name
        base, suffix = self._bases.short(version.base_model), ids.slug(version.recipe.suffix)
        return str(ids.TunedName(base, project, suffix, ids.public_id(job_id)))


def _of_version(version: registry_pb2.ModelVersion) -> Target:
    return Target(version.name, version.base_model, version.name, may_deploy=True)


def _object(model: str, created: int, owner: str) -> dict[str, JsonValue]:
    return {"id": model, "object": "model", "created": created, "owned_by": owner}
