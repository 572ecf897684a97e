"""The rules of models and their versions: made once, never changed, kept as long as something needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from feinschliff.kit import names
from feinschliff.kit.clock import Clock
from feinschliff.kit.db import Database, Session
from feinschliff.kit.errors import AlreadyExists, Conflict, FieldViolation, Invalid, NotFound, WrongState
from feinschliff.kit.metrics import Metrics
from feinschliff.registry import lineage, store
from feinschliff.registry.protection import check_model
from feinschliff.registry.store import LEDGER, Alias, Edge, Model, Version

PROJECT = "projects/{project}"
MODEL = "projects/{project}/models/{model}"
VERSION = MODEL + "/versions/{version}"
BY_ALIAS = MODEL + "@{alias}"
READY, DEPRECATED = "ready", "deprecated"


@dataclass(frozen=True)
class ModelView:
    """A model with what follows from its versions."""

    model: Model
    latest_version: str
    version_count: int


@dataclass(frozen=True)
class VersionView:
    """A version with the aliases that point to it."""

    version: Version
    aliases: Sequence[str]


@dataclass(frozen=True)
class Draft:
    """A version before it has a name."""

    kind: str
    base_model: str
    base_digest: str
    adapter_uri: str
    adapter_sha256: str
    adapter_digest: str
    training_job: str
    parent_version: str
    public_name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    datasets: Sequence[Mapping[str, str]]
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """What makes a create safe to repeat."""

    request_id: str
    body_digest: str


class Models:
    """Every method is one use case and one short transaction; all may be called from any thread."""

    def __init__(
        self, database: Database, check_artifact: Callable[[str, str], None], metrics: Metrics, *, clock: Clock
    ) -> None:
        self._database = database
        self._check_artifact = check_artifact
        self._metrics = metrics
        self._clock = clock

    def create(self, parent: str, model_id: str, draft: Model, asked: Asked) -> ModelView:
        """Raises AlreadyExists MODEL_EXISTS, and Invalid as `protection.check_model`."""
        project = names.parse(PROJECT, parent, field="parent")["project"]
        check_model(parent, list(draft.protected_aliases), draft.alias_gates)
        name = names.build(MODEL, project=project, model=model_id or names.new_id("model-"))
        with self._database.transaction() as session:
            scope = f"CreateModel {parent}"
            made = LEDGER.once(
                session, scope, asked.request_id, asked.body_digest, lambda: self._insert(session, name, draft)
            )
            view = _view(session, _model(session, made))
            self._count(session)
        return view

    def get(self, name: str) -> ModelView:
        """Raises NotFound MODEL_NOT_FOUND."""
        names.parse(MODEL, name)
        with self._database.reading() as session:
            return _view(session, _model(session, name))

    def update(self, name: str, changes: Mapping[str, object], etag: str) -> ModelView:
        """Raises Conflict ROW_CHANGED where the etag is not the model's, and Invalid as `protection.check_model`."""
        names.parse(MODEL, name, field="model.name")
        with self._database.transaction() as session:
            model = _model(session, name)
            check_etag(etag, model.version, name)
            model = store.save(session, model, **changes, updated=self._clock.now())
            if {"protected_aliases", "alias_gates"} & changes.keys():
                check_model(model.parent, list(model.protected_aliases), model.alias_gates)
            return _view(session, model)

    def delete(self, name: str, etag: str) -> None:
        """Raises WrongState MODEL_IN_USE while it has versions."""
        names.parse(MODEL, name)
        with self._database.transaction() as session:
            model = _model(session, name)
            check_etag(etag, model.version, name)
            count = store.versions_of(session, name)
            if count:
                message = f"{name} has {count} versions; delete them first."
                raise WrongState("MODEL_IN_USE", message, model=name, versions=count)
            store.delete(session, model)
            self._count(session)

    def create_version(
        self, model_name: str, draft: Draft, asked: Asked, *, create_model: bool, parents: Sequence[str] = ()
    ) -> VersionView:
        """Registers what a job made, or what several versions, `parents`, became; its files must be committed.

        Raises:
            NotFound: MODEL_NOT_FOUND, unless `create_model`; ARTIFACT_NOT_FOUND, MODEL_VERSION_NOT_FOUND of a parent.
            Invalid: DIGEST_MISMATCH, DIGEST_MALFORMED, REQUEST_ID_REUSED.
            AlreadyExists: PUBLIC_NAME_TAKEN.
        """
        ids = names.parse(MODEL, model_name, field="parent")
        _check_digest(draft.base_digest, "model_version.base_digest")
        self._check_artifact(draft.adapter_uri, draft.adapter_sha256)
        project = f"projects/{ids['project']}"
        with self._database.transaction() as session:
            scope = f"CreateModelVersion {model_name}"

            def make() -> str:
                if create_model and store.find(session, Model, model_name) is None:
                    now = self._clock.now()
                    self._insert(session, model_name, Model(model_name, project, now, now))
                combined = [_version(session, parent).name for parent in parents]
                return self._register(session, project, model_name, draft, combined)

            made = LEDGER.once(session, scope, asked.request_id, asked.body_digest, make)
            version = _version(session, made)
            view = VersionView(version, store.aliases_of(session, made))
            self._count(session)
        return view

    def version(self, name: str) -> VersionView:
        """The version of this name, or the one that `projects/{p}/models/{m}@{alias}` points to at this moment.

        Raises:
            NotFound: MODEL_VERSION_NOT_FOUND, ALIAS_NOT_FOUND.
        """
        with self._database.reading() as session:
            if names.matches(BY_ALIAS, name):
                alias = store.find(session, Alias, name.replace("@", "/aliases/"))
                if alias is None:
                    raise NotFound("ALIAS_NOT_FOUND", f"There is no alias {name}.", alias=name)
                name = alias.model_version
            names.parse(VERSION, name)
            return VersionView(_version(session, name), store.aliases_of(session, name))

    def deprecate(self, name: str, reason: str, etag: str) -> VersionView:
        names.parse(VERSION, name)
        with self._database.transaction() as session:
            version = _version(session, name)
            check_etag(etag, version.version, name)
            version = store.save(session, version, state=DEPRECATED, deprecation_reason=reason)
            return VersionView(version, store.aliases_of(session, name))

    def delete_version(self, name: str, etag: str) -> None:
        """Raises WrongState MODEL_VERSION_IN_USE while an alias points to it or another version continues it."""
        names.parse(VERSION, name)
        with self._database.transaction() as session:
            version = _version(session, name)
            check_etag(etag, version.version, name)
            users = [edge.target for edge in store.edges_at(session, [name], up=False, down=True)]
            if users:
                message = f"{name} is used by {', '.join(users[:5])}; remove those first."
                raise WrongState("MODEL_VERSION_IN_USE", message, model_version=name, users=", ".join(users[:5]))
            store.delete(session, version)
            self._count(session)

    def count(self) -> None:
        """Shows how many there are; other copies of the room make and delete them too."""
        with self._database.reading() as session:
            self._count(session)

    def _insert(self, session: Session, name: str, draft: Model) -> str:
        if store.find(session, Model, name) is not None:
            raise AlreadyExists("MODEL_EXISTS", f"{name} exists; take another id.", model=name)
        now = self._clock.now()
        store.insert(session, replace(draft, name=name, parent=name.split("/models/")[0], created=now, updated=now))
        return name

    def _register(self, session: Session, project: str, model_name: str, draft: Draft, parents: Sequence[str]) -> str:
        if draft.public_name and store.public_name_taken(session, project, draft.public_name):
            message = f"The public name {draft.public_name} belongs to another version."
            raise AlreadyExists("PUBLIC_NAME_TAKEN", message, public_name=draft.public_name)
        model = _model(session, model_name)
        model = store.save(session, model, versions_made=model.versions_made + 1, updated=self._clock.now())
        name = f"{model_name}/versions/{model.versions_made}"
        version = Version(
            name=name,
            model=model_name,
            project=project,
            number=model.versions_made,
            state=READY,
            created=self._clock.now(),
            **{key: getattr(draft, key) for key in Draft.__dataclass_fields__ if key != "adapter_sha256"},
        )
        store.insert(session, version)
        store.put_edges(session, _edges(version))
        store.put_edges(session, [Edge(parent, name, lineage.COMBINED_INTO) for parent in parents])
        self._metrics.counter("feinschliff_registry_versions_registered_total").inc()
        return name

    def _count(self, session: Session) -> None:
        counts = store.count_versions(session)
        for state in (READY, DEPRECATED):
            self._metrics.gauge("feinschliff_registry_versions").labels(state).set(counts.get(state, 0))
        self._metrics.gauge("feinschliff_registry_models").set(store.count_models(session))


def check_etag(etag: str, version: int, name: str) -> None:
    """Refuses a write by someone who read an older state; an empty etag asks for no check."""
    if etag and etag != str(version):
        raise Conflict("ROW_CHANGED", f"{name} changed since it was read; read it again.", name=name)


def _edges(version: Version) -> list[Edge]:
    """What this version was made from."""
    maker = version.training_job or version.name
    edges = [Edge(version.base_model, maker, lineage.BASE_OF, version.base_digest)]
    edges += [Edge(one["name"], maker, lineage.TRAINED_ON, one["sha256"]) for one in version.datasets]
    if version.training_job:
        edges.append(Edge(version.training_job, version.name, lineage.PRODUCED))
    if version.parent_version:
        edges.append(Edge(version.parent_version, maker, lineage.CONTINUED_AS))
    return edges


def _view(session: Session, model: Model) -> ModelView:
    return ModelView(model, store.latest_version(session, model.name), store.versions_of(session, model.name))


def _model(session: Session, name: str) -> Model:
    model = store.find(session, Model, name)
    if model is None:
        raise NotFound("MODEL_NOT_FOUND", f"There is no model {name}.", model=name)
    return model


def _version(session: Session, name: str) -> Version:
    version = store.find(session, Version, name)
    if version is None:
        raise NotFound("MODEL_VERSION_NOT_FOUND", f"There is no model version {name}.", model_version=name)
    return version


def _check_digest(digest: str, field: str) -> None:
    head, _, tail = digest.partition(":")
    if head != "sha256" or len(tail) != 64 or set(tail) - set("0123456789abcdef"):
        message = f"{field} must be `sha256:` and 64 hex digits; it is {digest[:80]!r}."
        raise Invalid("DIGEST_MALFORMED", message, fields=[FieldViolation(field, message, "DIGEST_MALFORMED")])
