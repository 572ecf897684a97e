"""Names: what the HTTP API calls a thing, and what the other services call it. Nothing is stored to map them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from feinschliff.kit import names

FILE_PREFIX, JOB_PREFIX, DEPLOYMENT_PREFIX = "file-", "ftjob-", "auto-"
EVENT_PREFIX, CHECKPOINT_PREFIX = "ftevent-", "ftckpt_"
RESULT_PREFIX = "file-result-"

DATASET_VERSION = "projects/{project}/datasets/{dataset}/versions/{version}"
JOB = "projects/{project}/trainingJobs/{job}"
MODEL_VERSION = "projects/{project}/models/{model}/versions/{version}"
MODEL_ALIAS = "projects/{project}/models/{model}@{alias}"
DEPLOYMENT = "projects/{project}/deployments/{deployment}"
COMPLETION = "projects/{project}/completions/{completion}"

_UNFIT = re.compile(r"[^a-z0-9]+")
_BASE_URI = re.compile(r"(hf|s3|file|pypi):.")
_STEP = re.compile(r"ckpt-step-([0-9]{1,18})")


@dataclass(frozen=True)
class TunedName:
    """`ft:{base}:{project}:{suffix}:{id}`, and `:ckpt-step-{n}` behind it for a checkpoint."""

    base: str
    project: str
    suffix: str
    id: str
    step: int | None = None

    def __str__(self) -> str:
        name = f"ft:{self.base}:{self.project}:{self.suffix}:{self.id}"
        return name if self.step is None else f"{name}:ckpt-step-{self.step}"

    @property
    def job_ids(self) -> tuple[str, str]:
        """The job that made it: by this door's own kind of id, or, where there is none, by the id as it stands."""
        return JOB_PREFIX + self.id, self.id

    @classmethod
    def parse(cls, text: str) -> TunedName | None:
        """The name's parts, or None where `text` is no name of a tuned model."""
        parts = text.split(":")
        if parts[0] != "ft" or len(parts) not in (5, 6):
            return None
        step = _STEP.fullmatch(parts[5]) if len(parts) == 6 else None
        if len(parts) == 6 and step is None:
            return None
        base, project, suffix, number = parts[1:5]
        return cls(base, project, suffix, number, int(step[1]) if step else None)


@dataclass(frozen=True)
class Bases:
    """Base models by their short names."""

    uris: Mapping[str, str]

    def uri_of(self, model: str) -> str | None:
        """The URI that a request's `model` names: by its short name, or as it stands; None if it is neither."""
        return self.uris.get(model) or (model if _BASE_URI.match(model) else None)

    def is_known(self, uri: str) -> bool:
        return uri in self.uris.values()

    def short(self, uri: str) -> str:
        """The short name; for a URI without one, the last part of its path in small letters and dashes."""
        known = next((name for name, known_uri in self.uris.items() if known_uri == uri), None)
        if known is not None:
            return known
        return slug(uri.partition("@")[0].rstrip("/").replace(":", "/").rpartition("/")[2]) or "base"


def slug(text: str) -> str:
    """Small letters and digits, everything else as single dashes; the form of a suffix in a model's name."""
    return _UNFIT.sub("-", text.lower()).strip("-")


def new_id(prefix: str, project: str, key: str = "") -> str:
    """A new id; a caller's idempotency `key` gives the same one again, so that a repeated create makes one thing."""
    if not key:
        return names.new_id(prefix)
    digest = hashlib.sha256(f"{prefix}\0{project}\0{key}".encode()).digest()
    return names.new_id(prefix, random_bytes=lambda size: digest[:size])


def seed_of(job_id: str) -> int:
    """The seed of a job whose caller names none: as random as the id, and the same when the create is repeated."""
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:4], "big") >> 1


def new_completion_id() -> str:
    return names.new_id("chatcmpl-")


def new_text_completion_id() -> str:
    return names.new_id("cmpl-")


def new_embedding_id() -> str:
    return names.new_id("embd-")


def new_moderation_id() -> str:
    return names.new_id("modr-")


def completion_name(project: str, completion_id: str) -> str:
    """What a chat completion is called in the log; empty where `completion_id` cannot be an id."""
    return _built(COMPLETION, project=project, completion=completion_id) or ""


def project_name(project: str) -> str:
    return f"projects/{project}"


def result_id(job_id: str) -> str:
    """The file of a job's numbers; it is made from them when it is read."""
    return RESULT_PREFIX + job_id


def job_of_result(file_id: str) -> str | None:
    """The job whose numbers a file holds; None for any other file."""
    return file_id.removeprefix(RESULT_PREFIX) if file_id.startswith(RESULT_PREFIX) else None


def dataset_version(project: str, file_id: str) -> str | None:
    """The dataset version that a file is; None where `file_id` cannot be one."""
    if not file_id.startswith(FILE_PREFIX) or file_id.startswith(RESULT_PREFIX):
        return None
    return _built(DATASET_VERSION, project=project, dataset=file_id, version=1)


def file_of(version_name: str) -> str:
    """The file that a dataset version is; versions that came in by other doors keep their own name."""
    if names.matches(DATASET_VERSION, version_name):
        parts = names.parse(DATASET_VERSION, version_name)
        if parts["dataset"].startswith(FILE_PREFIX) and parts["version"] == "1":
            return parts["dataset"]
    return version_name


def job_name(project: str, job_id: str) -> str | None:
    """The job's resource name; None where `job_id` cannot be an id."""
    return _built(JOB, project=project, job=job_id)


def public_id(job_id: str) -> str:
    """The job's part in the name of its model."""
    return job_id.removeprefix(JOB_PREFIX)


def last_part(name: str) -> str:
    return name.rpartition("/")[2]


def event_id(job_id: str, cursor: int, part: int) -> str:
    """An event of ours may be told as several of theirs: `part` counts them from 0."""
    return f"{EVENT_PREFIX}{public_id(job_id)}-{cursor}-{part}"


def event_cursor(job_id: str, text: str) -> int | None:
    """The cursor in an id that `event_id` made for this job; None for any other text."""
    job = re.escape(public_id(job_id))
    match = re.fullmatch(rf"{EVENT_PREFIX}{job}-([0-9]{{1,18}})-[0-9]{{1,3}}", text)
    return int(match[1]) if match else None


def checkpoint_id(job_id: str, step: int) -> str:
    return f"{CHECKPOINT_PREFIX}{public_id(job_id)}-{step}"


def is_resource_of(project: str, model: str) -> bool:
    """Whether `model` names a deployment, model version or alias of this project, as the other services do."""
    patterns = (MODEL_VERSION, MODEL_ALIAS, DEPLOYMENT)
    return model.startswith(f"projects/{project}/") and any(names.matches(pattern, model) for pattern in patterns)


def deployment_name(project: str, base_uri: str) -> str:
    """The deployment that the gateway makes for a base; the same base gives the same name."""
    return f"projects/{project}/deployments/{deployment_id(base_uri)}"


def deployment_id(base_uri: str) -> str:
    digest = hashlib.sha256(base_uri.encode()).hexdigest()[:8]
    return f"{DEPLOYMENT_PREFIX}{slug(base_uri)[:48].rstrip('-')}-{digest}"


def _built(pattern: str, **ids: str | int) -> str | None:
    name = pattern.format(**ids)
    return name if names.matches(pattern, name) else None
