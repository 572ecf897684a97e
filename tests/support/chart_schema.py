"""Writes charts/feinschliff/values.schema.json: `python -m tests.support.chart_schema`.

What the chart itself takes stands here by hand; settings come from their classes, execution profiles from theirs.
"""

from __future__ import annotations

import json
from typing import Any

from feinschliff.kit.settings import Settings
from feinschliff.workloads.profiles import Profile
from tests.support.chart_settings import PROGRAMS, ROOMS, own, property_of, shared
from tests.support.helm import CHART

PATH = CHART / "values.schema.json"
Schema = dict[str, Any]

BOOL: Schema = {"type": "boolean"}
TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "pattern": r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$"}
QUANTITY: Schema = {"type": ["string", "number"], "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
HOST_PATTERN = r"^([a-z0-9*]([-a-z0-9.]{0,251}[a-z0-9])?)?$"
HOST: Schema = {"type": "string", "pattern": HOST_PATTERN}
CIDR: Schema = {"type": "string", "pattern": r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"}
DIGEST: Schema = {"type": "string", "pattern": r"^(sha256:[0-9a-f]{64})?$"}
TAG: Schema = {"type": "string", "pattern": r"^([\w][\w.-]{0,127})?$", "not": {"const": "latest"}}
DURATION: Schema = {"type": "string", "pattern": r"^[0-9]+(h|m|s)$"}
KEY: Schema = {"type": "string", "pattern": r"^[-._a-zA-Z0-9]+$"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
# Kubernetes' own words; the API server holds them to its schema.
OBJECT: Schema = {"type": "object"}
OBJECTS: Schema = {"type": "array", "items": OBJECT}


def fields(**properties: Schema) -> Schema:
    """An object with these keys and no other."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def whole(minimum: int, maximum: int = 2**31 - 1) -> Schema:
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


def listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def one_of(*choices: str) -> Schema:
    return {"enum": [*choices]}


def quantities() -> Schema:
    return {"type": "object", "additionalProperties": QUANTITY}


RESOURCES = fields(requests=quantities(), limits=quantities())
RESOURCE: Schema = {"$ref": "#/definitions/resources"}
PLACEMENT = {"nodeSelector": TEXTS, "tolerations": OBJECTS, "affinity": OBJECT, "priorityClassName": NAME}
POD = {
    "autoscaling": fields(
        enabled=BOOL, minReplicas=whole(1, 1000), maxReplicas=whole(1, 1000), cpuPercent=whole(1, 1000)
    ),
    "disruptionBudget": fields(
        enabled=BOOL, maxUnavailable={"type": ["integer", "string"], "pattern": "^[0-9]{1,3}%$", "minimum": 0}
    ),
    "serviceAccount": fields(create=BOOL, name=NAME, annotations=TEXTS),
    "service": fields(type=one_of("ClusterIP", "NodePort", "LoadBalancer"), annotations=TEXTS),
    "topologySpread": BOOL,
    "strategy": OBJECT,
    **PLACEMENT,
    "runtimeClassName": NAME,
    "podLabels": TEXTS,
    "podAnnotations": TEXTS,
    "extraEnv": OBJECTS,
    "extraVolumes": OBJECTS,
    "extraVolumeMounts": OBJECTS,
}
IMAGE = fields(registry=TEXT, repository=TEXT, tag=TAG, digest=DIGEST)
PERSISTENCE = fields(enabled=BOOL, storageClass=NAME, size=QUANTITY, keep=BOOL)
SECRET_KEY = fields(existingSecret=NAME, key=KEY)
CERT_MANAGER = fields(
    enabled=BOOL,
    issuerRef=fields(name=NAME, kind=one_of("Issuer", "ClusterIssuer"), group=TEXT),
    duration=DURATION,
    renewBefore=DURATION,
)
INGRESS = fields(enabled=BOOL, className=NAME, host=HOST, annotations=TEXTS, tlsSecret=NAME)
ROUTE = fields(enabled=BOOL, parentRefs=OBJECTS, hostnames=listed(HOST), annotations=TEXTS)


def definitions() -> dict[str, Schema]:
    """What more than one pod takes."""
    return {**POD, "resources": RESOURCES, **{name: property_of(Settings, name) for name in shared()}}


def defined(*names: str) -> dict[str, Schema]:
    return {name: {"$ref": f"#/definitions/{name}"} for name in names}


def settings_of(program: str) -> Schema:
    """A program's own settings and the shared ones; a trainer gets those from the training service."""
    declared = {name: property_of(PROGRAMS[program], name) for name in own(program)}
    return fields(**{**({} if program == "trainer" else defined(*shared())), **declared})


def profile() -> Schema:
    """An execution profile without its name, which is its key, and whose image the chart knows."""
    found = Profile.model_json_schema()["properties"]
    drop = ("title", "default")
    kept = {
        name: {key: value for key, value in schema.items() if key not in drop}
        for name, schema in found.items()
        if name != "name"
    }
    return {**fields(**kept), "type": ["object", "null"]}


def room(name: str, **more: Schema) -> Schema:
    return fields(settings=settings_of(name), **pod(), **more)


def pod() -> dict[str, Schema]:
    return {"replicas": whole(0, 1000), "scratch": QUANTITY, **defined("resources", *POD)}


def rooms() -> dict[str, Schema]:
    training = {
        "runner": one_of("kubernetes", "process"),
        "defaultProfile": NAME,
        "currency": {"type": "string", "minLength": 1, "maxLength": 8},
        "profiles": {
            "type": "object",
            "patternProperties": {"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$": profile()},
            "additionalProperties": False,
        },
    }
    inference = {
        "gpu": fields(enabled=BOOL, count=whole(1, 64), resource=TEXT),
        "cache": fields(enabled=BOOL, existingClaim=NAME, storageClass=NAME, size=QUANTITY, keep=BOOL),
    }
    graders = {"graders": fields(existingSecret=NAME, judgesKey=TEXT, headersKey=TEXT)}
    more = {"gateway": {"apiKeys": SECRET_KEY}, "training": training, "inference": inference, "evaluation": graders}
    return {**{name: room(name, **more.get(name, {})) for name in ROOMS}, "control": fields(**pod())}


def servers() -> dict[str, Schema]:
    """Database and store: ours, and the owner's."""
    common = {
        "enabled": BOOL,
        "image": IMAGE,
        "existingSecret": NAME,
        "persistence": PERSISTENCE,
        "resources": RESOURCE,
        **PLACEMENT,
    }
    return {
        "postgresql": fields(maxConnections=whole(20, 10_000), **common),
        "minio": fields(**common),
        "database": fields(existingSecret=NAME, key=KEY, port=PORT),
        "s3": fields(
            endpoint={"type": "string", "pattern": r"^(https?://[^/\s]+)?$"},
            bucket={"type": "string", "pattern": r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"},
            region=TEXT,
            existingSecret=NAME,
            accessKeyKey=KEY,
            secretKeyKey=KEY,
            ca=SECRET_KEY,
        ),
        "migrations": fields(enabled=BOOL, waitSeconds=whole(0, 3600), resources=RESOURCE),
    }


def access() -> dict[str, Schema]:
    ports = listed(PORT)
    return {
        "tls": fields(
            enabled=BOOL, clientCertificates=BOOL, existingSecret=NAME, trainerSecret=NAME, certManager=CERT_MANAGER
        ),
        "ingress": fields(http=INGRESS, grpc=INGRESS),
        "gatewayApi": fields(http=ROUTE, grpc=ROUTE),
        "networkPolicy": fields(
            enabled=BOOL,
            clients=OBJECTS,
            gatewayClients=OBJECTS,
            scrapers=OBJECTS,
            apiServer=fields(cidrs=listed(CIDR), ports=ports),
            hub=fields(cidrs=listed(CIDR), ports=ports),
            trackers=OBJECTS,
            graders=OBJECTS,
            external=fields(cidrs=listed(CIDR)),
            dnsPorts=ports,
            tracesPort=PORT,
        ),
        "rbac": fields(create=BOOL),
        "priorityClasses": fields(create=BOOL),
    }


def monitoring() -> Schema:
    return fields(
        serviceMonitor=fields(enabled=BOOL, interval=DURATION, labels=TEXTS),
        rules=fields(enabled=BOOL, labels=TEXTS),
        dashboards=fields(enabled=BOOL, labels=TEXTS, annotations=TEXTS, folder=TEXT),
    )


def schema() -> Schema:
    image = fields(
        registry=TEXT,
        repository=TEXT,
        tag=TAG,
        cudaSuffix=TEXT,
        pullPolicy=one_of("Always", "IfNotPresent", "Never"),
        pullSecrets=listed(NAME),
        control=IMAGE,
        trainer=IMAGE,
        inference=IMAGE,
    )
    # A chart above this one may keep values of its own in `global`.
    above = {"type": "object", "properties": {"imageRegistry": TEXT}}
    values = fields(
        mode=one_of("services", "compact"),
        nameOverride=NAME,
        fullnameOverride=NAME,
        image=image,
        settings=fields(**defined(*shared())),
        bindHost={"type": "string", "minLength": 1},
        defaults=fields(**defined(*POD)),
        trainer=fields(settings=settings_of("trainer")),
        monitoring=monitoring(),
        test=fields(baseModel={"type": "string", "minLength": 1}, timeoutSeconds=whole(60, 86_400), resources=RESOURCE),
        **rooms(),
        **servers(),
        **access(),
    )
    values["properties"]["global"] = above
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the chart feinschliff"}
    return {**head, **values, "definitions": definitions()}


def page() -> str:
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(page(), "utf-8")
