"""Which settings the chart's values take, and which the chart decides itself and why."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from feinschliff.evaluation.settings import EvaluationSettings
from feinschliff.gateway.settings import GatewaySettings
from feinschliff.inference.settings import InferenceSettings
from feinschliff.ingestion.settings import IngestionSettings
from feinschliff.kit.settings import ENV_PREFIX, Settings
from feinschliff.registry.settings import RegistrySettings
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.training.settings import TrainingSettings

ROOMS: Mapping[str, type[Settings]] = {
    "gateway": GatewaySettings,
    "ingestion": IngestionSettings,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
    "registry": RegistrySettings,
    "inference": InferenceSettings,
}
PROGRAMS: Mapping[str, type[Settings]] = {**ROOMS, "trainer": TrainerSettings}
ADDRESSED = tuple(room for room in ROOMS if room != "gateway")

SET: Mapping[str, str] = {
    "home": "the one folder that may be written",
    "bind_host": "value bindHost: one choice for all pods",
    "insecure_bind": "network policies or certificates guard the ports",
    "probe_port": "probes ask it",
    "drain_seconds": "",  # may be said as well; set always, because the pod's termination time follows from it
    "grace_seconds": "",
    **{f"{room}_port": "Services lead to it" for room in ROOMS},
    **{f"{room}_metrics_port": "Services lead to it" for room in ROOMS},
    **{f"{room}_address": "follows from the names of the Services" for room in ADDRESSED},
}
"""What every release sets, on the rooms that have it; a reason: the values cannot say it."""

SET_WHERE_NEEDED: Mapping[str, str] = {
    "database_url": "a Secret holds it: values database, postgresql",
    "s3_endpoint": "values s3, minio",
    "s3_bucket": "value s3.bucket",
    "s3_region": "value s3.region",
    "s3_access_key": "a Secret holds it: values s3, minio",
    "s3_secret_key": "a Secret holds it: values s3, minio",
    "s3_ca": "value s3.ca",
    "tls_certificate": "value tls",
    "tls_key": "value tls",
    "tls_ca": "value tls",
    "tls_client_certificates": "value tls.clientCertificates",
    "gateway_api_keys": "a Secret holds them: value gateway.apiKeys",
    "evaluation_judges": "a Secret holds them: value evaluation.graders",
    "evaluation_grader_headers": "a Secret holds them: value evaluation.graders",
    "training_runner": "value training.runner",
    "training_namespace": "the release's own: its Role reaches no other",
    "training_profiles": "value training.profiles",
}
WITHHELD: Mapping[str, str] = {
    "failpoints": "faults on purpose are for tests",
    "gateway_bind_host": "value bindHost",
    "training_workloads": "below the home, the one folder that may be written",
    "inference_cache": "below the home, the one folder that may be written",
    "inference_replica_id": "the pod's name",
    "trainer_cache": "below the home, the one folder that may be written",
    "attempt": "of one attempt; the training service says it",
    "attempt_token": "of one attempt; the training service says it",
}
OWNED: Mapping[str, str] = {name: why for name, why in {**SET, **SET_WHERE_NEEDED, **WITHHELD}.items() if why}


def shared() -> list[str]:
    """The shared settings that values may say."""
    return [name for name in Settings.model_fields if name not in OWNED]


def own(program: str) -> list[str]:
    """The settings of one program, beside the shared ones, that values may say."""
    declared = inspect.get_annotations(PROGRAMS[program])
    return [name for name in PROGRAMS[program].model_fields if name in declared and name not in OWNED]


def unknown() -> Iterator[str]:
    """Names in the lists above that no class has any more."""
    known = {name for program in PROGRAMS.values() for name in program.model_fields}
    yield from (name for name in (*SET, *SET_WHERE_NEEDED, *WITHHELD) if name not in known)


def property_of(settings: type[Settings], name: str) -> dict[str, Any]:
    """The JSON schema of one setting: type, bounds, choices, and what it does."""
    found = dict(settings.model_json_schema()["properties"][name])
    for key in ("title", "default", "format", "writeOnly"):
        found.pop(key, None)
    return found


def variables() -> set[str]:
    """Every environment variable that a program of this version reads."""
    from feinschliff.cli.settings import MigrateSettings

    classes: tuple[type[Settings], ...] = (*PROGRAMS.values(), MigrateSettings)
    return {f"{ENV_PREFIX}{name.upper()}" for settings in classes for name in settings.model_fields}
