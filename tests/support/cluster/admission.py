"""What the API makes of an object before it keeps it: schema, rules, defaults, quota, pod security."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import referencing
from kubernetes_validate.utils import schema_contents  # type: ignore[import-untyped]

from tests.support.cluster.store import KINDS, TRACKING, Refused, Store

Object = dict[str, Any]

SCHEMAS = "1.36"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_FIXED = ("completions", "selector", "template", "completionMode", "podFailurePolicy")


@dataclass
class Rules:
    """What this cluster does not allow, beside what is wrong everywhere.

    Args:
        quota: at most so many, by `pods`, `secrets` or `count/jobs.batch`.
        denied: verb and resource that the service account lacks.
        pods_refused: what admission says to every pod; empty: nothing.
    """

    quota: dict[str, int] = field(default_factory=dict)
    denied: set[tuple[str, str]] = field(default_factory=set)
    pods_refused: str = ""


def authorize(rules: Rules, verb: str, resource: str, namespace: str) -> None:
    if (verb, resource) not in rules.denied:
        return
    plural = resource.partition("/")[0]
    group = KINDS[plural][0].rpartition("/")[0] if plural in KINDS else ""
    raise Refused(
        403,
        "Forbidden",
        f'{resource} is forbidden: User "system:serviceaccount:{namespace}:training" cannot {verb} resource '
        f'"{resource}" in API group "{group.partition("/")[0]}" in the namespace "{namespace}"',
    )


def admit(store: Store, rules: Rules, kind: str, made: Object) -> None:
    """Completes a new object, or refuses it."""
    check_schema(kind, made)
    _check_names(kind, made)
    match kind:
        case "jobs":
            _check_job(made)
            _default_job(made)
        case "pods":
            _admit_pod(rules, made)
        case "secrets":
            data = made.setdefault("data", {})
            data |= {key: f"plain:{value}" for key, value in made.pop("stringData", {}).items()}
    _check_quota(store, rules, kind, made)


def check_update(kind: str, before: Object, after: Object) -> None:
    check_schema(kind, after)
    if kind == "jobs":
        for name in _FIXED:
            if before["spec"].get(name) != after["spec"].get(name):
                raise _invalid(kind, after, f"spec.{name}: Invalid value: field is immutable")
    if kind == "secrets" and before.get("immutable") and before.get("data") != after.get("data"):
        raise _invalid(kind, after, "data: Forbidden: field is immutable when `immutable` is set")


def check_schema(kind: str, made: Object) -> None:
    if kind == "jobsets":  # no schema is at hand; what it makes is checked when it is made
        return
    version, name = KINDS[kind]
    if (made.get("apiVersion"), made.get("kind")) != (version, name):
        raise Refused(400, "BadRequest", f"the object is a {made.get('kind')}, not a {name}")
    error = jsonschema.exceptions.best_match(_validator(kind).iter_errors(made))
    if error is not None:
        raise _invalid(kind, made, f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}")


@functools.cache
def _definitions() -> Any:
    folder = f"kubernetes-json-schema/v{SCHEMAS}.0-local-strict"
    return referencing.Resource.from_contents(schema_contents(f"{folder}/_definitions.json", SCHEMAS))


@functools.cache
def _validator(kind: str) -> Any:
    version, name = KINDS[kind]
    path = f"kubernetes-json-schema/v{SCHEMAS}.0-local-strict/{name.lower()}-{version.replace('/', '-')}.json"
    schema = schema_contents(path, SCHEMAS)
    registry: Any = _definitions() @ (referencing.Resource.from_contents(schema) @ referencing.Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


def _invalid(kind: str, made: Object, message: str) -> Refused:
    return Refused(422, "Invalid", f'{KINDS[kind][1]} "{made["metadata"].get("name")}" is invalid: {message}')


def _check_names(kind: str, made: Object) -> None:
    meta = made["metadata"]
    limit = 63 if kind in ("jobs", "services", "jobsets") else 253
    name = meta.get("name") or meta.get("generateName", "").rstrip("-")
    if not _NAME.fullmatch(name) or len(name) > limit or (kind == "services" and not name[0].isalpha()):
        raise _invalid(kind, made, f"metadata.name: Invalid value: {name!r}")
    template = made.get("spec", {}).get("template", {}).get("metadata", {}) if kind == "jobs" else {}
    for key, value in [*(meta.get("labels") or {}).items(), *template.get("labels", {}).items()]:
        if not _LABEL.fullmatch(value) or len(value) > 63 or len(key.rpartition("/")[2]) > 63:
            raise _invalid(kind, made, f"metadata.labels: Invalid value: {key}={value!r}")
    for reference in meta.get("ownerReferences", ()):
        if not reference.get("uid"):
            raise _invalid(kind, made, "metadata.ownerReferences.uid: Required value")


def _check_job(made: Object) -> None:
    spec = made["spec"]
    pod = spec["template"]["spec"]
    if pod.get("restartPolicy") not in ("Never", "OnFailure"):
        raise _invalid("jobs", made, "spec.template.spec.restartPolicy: Required value")
    mounted = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", ())}
    if missing := mounted - {volume["name"] for volume in pod.get("volumes", ())}:
        raise _invalid("jobs", made, f"spec.template.spec.containers[0].volumeMounts: Not found: {missing}")
    if "podFailurePolicy" in spec and pod["restartPolicy"] != "Never":
        raise _invalid("jobs", made, "spec.podFailurePolicy: only with restartPolicy Never")
    for rule in spec.get("podFailurePolicy", {}).get("rules", ()):
        codes = rule.get("onExitCodes", {})
        if codes.get("operator") == "In" and 0 in codes["values"]:
            raise _invalid("jobs", made, "spec.podFailurePolicy.rules: 0 must not be used with In")
        for condition in rule.get("onPodConditions", ()):
            if "status" not in condition:
                raise _invalid("jobs", made, "spec.podFailurePolicy.rules.onPodConditions.status: Required value")
    name = made["metadata"]["name"]
    if spec.get("completionMode") == "Indexed" and ("." in name or len(f"{name}-{spec['completions']}") > 63):
        raise _invalid("jobs", made, "metadata.name: an Indexed Job's pods need it as host name")


def _default_job(made: Object) -> None:
    """The selector and its labels come with the uid, see `label_job`."""
    spec = made["spec"]
    defaults: tuple[tuple[str, Any], ...] = (
        ("completions", 1),
        ("parallelism", 1),
        ("backoffLimit", 6),
        ("completionMode", "NonIndexed"),
        ("suspend", False),
        ("podReplacementPolicy", "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed"),
    )
    for name, value in defaults:
        spec.setdefault(name, value)
    pod = spec["template"]["spec"]
    pod_defaults: tuple[tuple[str, Any], ...] = (
        ("terminationGracePeriodSeconds", 30),
        ("dnsPolicy", "ClusterFirst"),
        ("schedulerName", "default-scheduler"),
        ("securityContext", {}),
    )
    for name, value in pod_defaults:
        pod.setdefault(name, value)
    made["status"] = {}


def label_job(made: Object) -> None:
    meta = made["metadata"]
    labels = {
        "batch.kubernetes.io/controller-uid": meta["uid"],
        "batch.kubernetes.io/job-name": meta["name"],
        "controller-uid": meta["uid"],
        "job-name": meta["name"],
    }
    template = made["spec"]["template"].setdefault("metadata", {})
    template["labels"] = {**(template.get("labels") or {}), **labels}
    own = {key: value for key, value in labels.items() if key.endswith("io/controller-uid")}
    made["spec"]["selector"] = {"matchLabels": own}
    meta.setdefault("labels", {})


def _admit_pod(rules: Rules, made: Object) -> None:
    if rules.pods_refused:
        raise Refused(403, "Forbidden", rules.pods_refused)
    made["metadata"].setdefault("finalizers", [TRACKING])
    made["status"] = {"phase": "Pending"}
    if wrong := list(_unrestricted(made["spec"])):
        name = made["metadata"].get("name", made["metadata"].get("generateName"))
        message = f'pods "{name}" is forbidden: violates PodSecurity "restricted:latest": {", ".join(wrong)}'
        raise Refused(403, "Forbidden", message)


def _unrestricted(spec: Object) -> Any:
    whole = spec.get("securityContext") or {}
    if whole.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "seccompProfile"
    if not whole.get("runAsNonRoot"):
        yield "runAsNonRoot != true"
    for container in spec["containers"]:
        own = container.get("securityContext") or {}
        if own.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation != false"
        if "ALL" not in own.get("capabilities", {}).get("drop", ()):
            yield "unrestricted capabilities"
    if any("hostPath" in volume for volume in spec.get("volumes", ())):
        yield "restricted volume types"


def _check_quota(store: Store, rules: Rules, kind: str, made: Object) -> None:
    counted = "count/jobs.batch" if kind == "jobs" else kind
    limit = rules.quota.get(counted)
    used = len(store.all(kind))
    if limit is not None and used >= limit:
        name = made["metadata"].get("name", made["metadata"].get("generateName"))
        resource = "jobs.batch" if kind == "jobs" else kind
        raise Refused(
            403,
            "Forbidden",
            f'{resource} "{name}" is forbidden: exceeded quota: compute, requested: {counted}=1, '
            f"used: {counted}={used}, limited: {counted}={limit}",
        )
