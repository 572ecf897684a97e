"""The rules of jobs: how one comes to be, what may be asked of it, and what its attempts report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from feinschliff.artifacts.store import Store
from feinschliff.formats.recipe import DataSource, Recipe
from feinschliff.formats.runfile import DataPart
from feinschliff.formats.tasks import refuse_unsuited
from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.context import current_traceparent
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import (
    AlreadyExists,
    Conflict,
    FieldViolation,
    Invalid,
    NotFound,
    WrongState,
)
from feinschliff.kit.watch import Wake
from feinschliff.training import store
from feinschliff.training.architecture import Architecture
from feinschliff.training.auto import settled
from feinschliff.training.continued import VersionFacts, continued
from feinschliff.training.crews import placed
from feinschliff.training.fitting import refuse_empty, refuse_unfit
from feinschliff.training.life import FINAL, MOVES, State, Verb, asked
from feinschliff.training.outcomes import refuse_long_models
from feinschliff.training.store import LEDGER, Event, Job
from feinschliff.workloads.profiles import Profile, Profiles

PROJECT = "projects/{project}"
JOB = "projects/{project}/trainingJobs/{training_job}"
ATTEMPT = JOB + "/attempts/{attempt}"
DATASET_VERSION = "projects/{project}/datasets/{dataset}/versions/{version}"
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_WANTED = {Verb.CANCEL: "cancelled", Verb.PAUSE: "paused", Verb.RESUME: "resumed", Verb.RETRY: "retried"}


@dataclass(frozen=True)
class DatasetFacts:
    """What a job needs to know of a data set version."""

    name: str
    ready: bool
    sha256: str
    prefix: str
    rows_by_split: Mapping[str, int]
    format: str = ""  # of its rows: `chat`; empty: not known
    train_tokens: int = 0  # reckoned from those of all splits; 0: not counted


class Datasets(Protocol):
    def version(self, name: str) -> DatasetFacts: ...


class Models(Protocol):
    def version(self, name: str) -> VersionFacts: ...


@dataclass(frozen=True)
class Order:
    """What a caller asks for when it creates a job."""

    parent: str
    job_id: str
    recipe: Recipe
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    request_id: str
    body_digest: str


class Jobs:
    """Every method is one use case and one short transaction; all may be called from any thread."""

    def __init__(
        self,
        database: Database,
        artifacts: Store,
        datasets: Datasets,
        models: Models,
        check_base: Callable[[str], None],
        profiles: Profiles,
        *,
        clock: Clock,
        wake: Wake,
        new_id: Callable[[str], str] = names.new_id,
        look_into: Callable[[str], Architecture | None] = lambda uri: None,
        check_fit: Callable[[Job], None] = lambda job: None,
        check_trackers: Callable[[Recipe, Profile], None] = lambda recipe, profile: None,
    ) -> None:
        """
        Args:
            look_into: how a base is built, where that can be known from here.
            check_fit: refuses a job for which its profile never has the memory.
            check_trackers: refuses trackers that are not to be had here.
        """
        self._database = database
        self._artifacts = artifacts
        self._datasets = datasets
        self._models = models
        self._check_base = check_base
        self._profiles = profiles
        self._clock = clock
        self._wake = wake
        self._new_id = new_id
        self._look_into = look_into
        self._check_fit = check_fit
        self._check_trackers = check_trackers

    def create(self, order: Order, *, validate_only: bool = False) -> Job:
        """Checks everything that can be known before the job runs, then queues it.

        Raises:
            Invalid: RECIPE_INVALID, EXECUTION_PROFILE_UNKNOWN, BASE_UNKNOWN, DATASET_SPLIT_EMPTY, DATASET_FORMAT_UNFIT,
                REQUEST_ID_REUSED;
                NODES_TOO_MANY, PROCESSES_TOO_MANY, SHARING_UNSUITED, TASK_ADAPTERS_UNSUITED.
            NotFound: the data set or model version.
            WrongState: DATASET_NOT_READY, MEMORY_INSUFFICIENT, ADAPTATION_DIFFERS.
            AlreadyExists: JOB_EXISTS.
        """
        names.parse(PROJECT, order.parent, field="parent")
        profile = self._profile(order.recipe.execution_profile)
        self._check_trackers(order.recipe, profile)
        start = self._start(order.recipe)
        recipe = continued(order.recipe, start) if start else order.recipe
        refuse_unsuited(recipe)
        inputs = self._inputs(recipe, start)
        recipe = settled(placed(recipe, profile), inputs, self._look_into)
        now = self._clock.now()
        uid = self._new_id("ftjob-")
        name = names.build(JOB, project=order.parent.split("/")[1], training_job=order.job_id or uid)
        refuse_long_models(recipe, name)
        job = Job(
            name=name,
            parent=order.parent,
            uid=uid,
            recipe=recipe.model_copy(update={"execution_profile": profile.name}),
            profile=profile.name,
            inputs={
                **inputs,
                "tensorboard_uri": f"s3://{self._artifacts.bucket}/{name}/tensorboard",
                "traceparent": current_traceparent(),
            },
            labels=order.labels,
            annotations=order.annotations,
            created=now,
            updated=now,
            not_before=now,
            lease_until=NEVER,
        )
        if validate_only:
            return replace(job, name="")
        self._check_fit(job)
        with self._database.transaction() as session:
            scope = f"CreateTrainingJob {order.parent}"
            made = LEDGER.once(session, scope, order.request_id, order.body_digest, lambda: _insert(session, job))
            result = existing(session, made)
        self._wake.notify()
        return result

    def get(self, name: str) -> Job:
        """Raises NotFound JOB_NOT_FOUND."""
        names.parse(JOB, name)
        with self._database.reading() as session:
            return existing(session, name)

    def cancel(self, name: str, reason: str = "") -> Job:
        """Stops a job for good; asking twice changes nothing.

        Raises:
            WrongState: JOB_STATE_FORBIDS for a job that is over in another way.
        """
        return self._ask(Verb.CANCEL, name, note=f" Reason: {reason}" if reason else "")

    def pause(self, name: str) -> Job:
        """Saves a job whose attempt runs and frees its machine; one between two attempts is paused at once.

        Raises:
            WrongState: JOB_STATE_FORBIDS unless it is running.
        """
        return self._ask(Verb.PAUSE, name)

    def resume(self, name: str) -> Job:
        """Queues a paused job; it goes on from its last checkpoint.

        Raises:
            WrongState: JOB_STATE_FORBIDS unless it is paused.
        """
        return self._ask(Verb.RESUME, name, not_before=self._clock.now())

    def retry(self, name: str) -> Job:
        """Queues a failed or cancelled job; it goes on from its last checkpoint, with all its attempts before it again.

        Raises:
            WrongState: JOB_STATE_FORBIDS unless it failed or was cancelled.
        """
        now = self._clock.now()
        return self._ask(Verb.RETRY, name, not_before=now, failure=None, finished=None, barren_attempts=0)

    def delete(self, name: str, etag: str = "") -> None:
        """Removes a finished job, its events and its files.

        Raises:
            WrongState: JOB_STATE_FORBIDS while it is not over, JOB_IN_USE while a model version points to it.
            Conflict: ROW_CHANGED where the etag is not the job's.
        """
        names.parse(JOB, name)
        with self._database.transaction() as session:
            job = existing(session, name)
            _refuse_deletion(job, etag)
            store.save_job(session, job, updated=self._clock.now())  # whoever retries it now meets a Conflict
            store.delete_job(session, name)
        self._artifacts.delete_prefix(name)

    def _ask(self, verb: Verb, name: str, *, note: str = "", **changes: Any) -> Job:
        names.parse(JOB, name)
        with self._database.transaction() as session:
            job = existing(session, name)
            to = asked(verb, job.state, attempts=job.attempt)
            if to is None:
                raise forbids(job, _WANTED[verb])
            if to is not job.state:
                job = move(session, job, to, self._clock.now(), note=note, **changes)
        self._wake.notify()
        return job

    def _profile(self, name: str) -> Profile:
        try:
            return self._profiles.get(name)
        except Invalid as refusal:
            path = "training_job.recipe.execution_profile"
            refusal.fields = (FieldViolation(path, refusal.message, refusal.reason),)
            raise

    def _start(self, recipe: Recipe) -> VersionFacts | None:
        """The version that the job continues; None where it starts from a base, which is looked at."""
        if bool(recipe.base_model) == bool(recipe.from_model_version):
            message = "Name either base_model or from_model_version."
            fields = [FieldViolation("training_job.recipe.base_model", message, "RECIPE_INVALID")]
            raise Invalid("RECIPE_INVALID", message, fields=fields)
        if recipe.from_model_version:
            return self._models.version(recipe.from_model_version)
        self._check_base(recipe.base_model)
        return None

    def _inputs(self, recipe: Recipe, start: VersionFacts | None) -> dict[str, Any]:
        train, validation, facts = [], [], []
        for index, source in enumerate(recipe.data):
            path = f"training_job.recipe.data[{index}].dataset_version"
            facts.append(self._ready(source.dataset_version, path))
            train.append(_part(facts[-1], ["train"], source.weight, source.task_name))
            validation += self._validation_of(source, facts[-1], index, recipe)
            refuse_unfit(facts[-1].name, facts[-1].format, recipe.objective.kind, path)
            refuse_empty(facts[-1].name, facts[-1].rows_by_split, "train", path)
        return {
            "base_model": start.base_model if start else recipe.base_model,
            "base_digest": start.base_digest if start else "",
            "initial_adapter_prefix": start.adapter_prefix if start else "",
            "parent_version": start.name if start else "",
            "train": train,
            "validation": validation,
            "datasets": [
                {
                    "name": one.name,
                    "sha256": one.sha256,
                    "rows": one.rows_by_split.get("train", 0),
                    "weight": source.weight,
                    "tokens": one.train_tokens,
                }
                for one, source in zip(facts, recipe.data, strict=True)
            ],
        }

    def _validation_of(
        self, source: DataSource, facts: DatasetFacts, index: int, recipe: Recipe
    ) -> list[dict[str, Any]]:
        task = source.task_name
        if source.validation_dataset_version:
            path = f"training_job.recipe.data[{index}].validation_dataset_version"
            other = self._ready(source.validation_dataset_version, path)
            refuse_unfit(other.name, other.format, recipe.objective.kind, path)
            return [_part(other, [split for split, rows in sorted(other.rows_by_split.items()) if rows], 1.0, task)]
        return [_part(facts, ["validation"], 1.0, task)] if facts.rows_by_split.get("validation") else []

    def _ready(self, name: str, path: str) -> DatasetFacts:
        names.parse(DATASET_VERSION, name, field=path)
        facts = self._datasets.version(name)
        if not facts.ready:
            raise WrongState(
                "DATASET_NOT_READY",
                f"{name} is not ready; wait until its state is READY.",
                fields=[FieldViolation(path, "not ready", "DATASET_NOT_READY")],
                dataset_version=name,
            )
        return facts


def move(
    session: Session, job: Job, to: State, now: datetime, *, note: str = "", level: str = "info", **changes: Any
) -> Job:
    """One step of a job's life: its row and the event that tells of it, in one transaction.

    Raises:
        WrongState: JOB_STATE_FORBIDS.
        Conflict: ROW_CHANGED.
    """
    if to not in MOVES.get(job.state, frozenset()):
        raise forbids(job, to.value)
    failure = changes.get("failure")
    detail = {"kind": "state", "previous": job.state.value, "current": to.value}
    event = Event(
        key=f"state/{to.value}/{job.events + 1}",  # its own number: a job may come to the same state often
        time=now,
        message=f"The job is {to.value}.{note}",
        level=level,
        detail=detail | ({"failure": failure.model_dump()} if failure else {}),
    )
    if to in FINAL:
        changes |= {"finished": now}
    job = store.save_job(session, job, state=to, updated=now, **changes)
    return store.append_events(session, job, [event])[0]


def forbids(job: Job, wanted: str) -> WrongState:
    return WrongState(
        "JOB_STATE_FORBIDS",
        f"{job.name} is {job.state.value}; it cannot become {wanted}.",
        job=job.name,
        state=job.state.value,
        wanted=wanted,
    )


def _refuse_deletion(job: Job, etag: str) -> None:
    if etag and etag != str(job.version):
        raise Conflict("ROW_CHANGED", f"{job.name} changed since it was read; read it again.", job=job.name)
    if job.state not in FINAL:
        raise forbids(job, "deleted")
    if made := job.model_version or ", ".join(job.task_versions.values()):
        raise WrongState(
            "JOB_IN_USE",
            f"{made} {'was' if job.model_version else 'were'} made by this job; delete what it made first.",
            job=job.name,
            model_version=made,
        )


def _insert(session: Session, job: Job) -> str:
    if store.get_job(session, job.name) is not None:
        raise AlreadyExists("JOB_EXISTS", f"{job.name} exists; take another id, or none.", job=job.name)
    store.insert_job(session, job)
    created = Event(
        key="state/queued/1",
        time=job.created,
        message="The job was created and is queued.",
        detail={"kind": "state", "previous": "", "current": State.QUEUED.value},
    )
    store.append_events(session, job, [created])
    return job.name


def existing(session: Session, name: str) -> Job:
    job = store.get_job(session, name)
    if job is None:
        raise NotFound("JOB_NOT_FOUND", f"There is no job {name}.", job=name)
    return job


def _part(facts: DatasetFacts, splits: list[str], weight: float, task: str) -> dict[str, Any]:
    what = {"dataset_version": facts.name, "prefix": facts.prefix, "sha256": facts.sha256}
    return DataPart(**what, splits=splits, weight=weight, task=task).model_dump()
