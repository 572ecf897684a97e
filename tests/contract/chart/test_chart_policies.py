"""Every policy is kept by every set of values, and rings where it is broken."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import chart_policies, chart_wiring
from tests.support.helm import SETS, Manifest, find, render

POLICIES = {**chart_policies.POLICIES, **chart_wiring.POLICIES}
Break = Callable[[list[Manifest]], None]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_set_keeps_the_policy(name: str, policy: str) -> None:
    assert [*POLICIES[policy](render(name=name))] == []


def _pod(manifests: list[Manifest], name: str = "-training") -> Any:
    return find(manifests, "Deployment", name)["spec"]["template"]["spec"]


def _container(manifests: list[Manifest], name: str = "-training") -> Any:
    return _pod(manifests, name)["containers"][0]


def _policy(manifests: list[Manifest], name: str) -> Any:
    return find(manifests, "NetworkPolicy", name)["spec"]


def _role(manifests: list[Manifest]) -> Any:
    return find(manifests, "Role")["rules"]


BREAKS: dict[str, tuple[str, Break, str]] = {
    "root": ("restricted", lambda ms: _pod(ms)["securityContext"].pop("runAsNonRoot"), "may run as root"),
    "uid 0": ("restricted", lambda ms: _pod(ms)["securityContext"].update(runAsUser=0), "may run as root"),
    "seccomp": ("restricted", lambda ms: _pod(ms)["securityContext"].pop("seccompProfile"), "seccomp"),
    "host": ("restricted", lambda ms: _pod(ms).update(hostNetwork=True), "hostNetwork"),
    "host path": ("restricted", lambda ms: _pod(ms)["volumes"].append({"name": "x", "hostPath": {}}), "volume x"),
    "escalation": ("restricted", lambda ms: _container(ms)["securityContext"].pop("allowPrivilegeEscalation"), "gain"),
    "capabilities": ("restricted", lambda ms: _container(ms)["securityContext"].pop("capabilities"), "capabilities"),
    "root file system": (
        "restricted",
        lambda ms: _pod(ms)["initContainers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
        "migrate: may write",
    ),
    "host port": ("restricted", lambda ms: _container(ms)["ports"][0].update(hostPort=1), "port of its node"),
    "limits": ("bounded", lambda ms: _container(ms)["resources"]["limits"].pop("memory"), "no limits of memory"),
    "requests": ("bounded", lambda ms: _pod(ms)["initContainers"][0].pop("resources"), "no requests of cpu"),
    "folder": ("bounded", lambda ms: _pod(ms)["volumes"][0].update(emptyDir={}), "has no limit"),
    "probe": ("probed", lambda ms: _container(ms).pop("livenessProbe"), "no livenessProbe"),
    "probe port": ("probed", lambda ms: _container(ms)["readinessProbe"]["grpc"].update(port=1), "which it has not"),
    "probe by TLS": ("probed", lambda ms: _container(ms)["readinessProbe"]["grpc"].update(port=50052), "instead of"),
    "grace": ("patient", lambda ms: _pod(ms).update(terminationGracePeriodSeconds=25), "drain and grace take 25"),
    "secret map": (
        "discreet",
        lambda ms: find(ms, "ConfigMap", "-training")["data"].update(FEINSCHLIFF_S3_SECRET_KEY="x"),
        "is a secret",
    ),
    "secret variable": (
        "discreet",
        lambda ms: _container(ms)["env"].append({"name": "A_PASSWORD", "value": "x"}),
        "in plain sight",
    ),
    "repeated secret": (
        "discreet",
        lambda ms: ms.append({"kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "aHR0cDovL2NoZWNrLWZlaW4="}}),
        "repeats what a Secret holds",
    ),
    "latest": ("pinned", lambda ms: _container(ms).update(image="a/b:latest"), "names no version"),
    "no tag": ("pinned", lambda ms: _container(ms).update(image="a/b"), "names no version"),
    "token": ("tokenless", lambda ms: _pod(ms, "-registry").update(automountServiceAccountToken=True), "has a token"),
    "no token": ("tokenless", lambda ms: _pod(ms).update(automountServiceAccountToken=False), "lacks its token"),
    "account's token": (
        "tokenless",
        lambda ms: find(ms, "ServiceAccount", "-training").pop("automountServiceAccountToken"),
        "every pod",
    ),
    "service links": ("tokenless", lambda ms: _pod(ms).pop("enableServiceLinks"), "would set its settings"),
    "label": (
        "labelled",
        lambda ms: find(ms, "Service", "-minio")["metadata"]["labels"].update({"a b": "c"}),
        "label a b is not valid",
    ),
    "no label": ("labelled", lambda ms: find(ms, "Role")["metadata"].pop("labels"), "is missing"),
    "name": ("labelled", lambda ms: find(ms, "Role")["metadata"].update(name="x" * 64), "is no name"),
    "port name": ("labelled", lambda ms: _container(ms)["ports"][0].update(name="x" * 16), "too long"),
    "selector": (
        "selecting",
        lambda ms: find(ms, "Service", "-minio")["spec"]["selector"].update({"a": "b"}),
        "selects no pod",
    ),
    "version in selector": (
        "selecting",
        lambda ms: find(ms, "Service", "-minio")["spec"]["selector"].update({"helm.sh/chart": "x"}),
        "selects by helm.sh/chart",
    ),
    "service port": (
        "ported",
        lambda ms: find(ms, "Service", "-minio")["spec"]["ports"][0].update(port=9001),
        "port s3 9001 is none",
    ),
    "setting": (
        "known_settings",
        lambda ms: find(ms, "ConfigMap", "-training")["data"].update(FEINSCHLIFF_TRAINING_SLOT="1"),
        "FEINSCHLIFF_TRAINING_SLOT is no setting",
    ),
    "reference": ("referenced", lambda ms: ms.remove(find(ms, "ConfigMap", "-profiles")), "does not exist"),
    "account": ("referenced", lambda ms: ms.remove(find(ms, "ServiceAccount", "-gateway")), "does not exist"),
    "right": ("least", lambda ms: _role(ms)[4]["verbs"].append("get"), "other rights"),
    "star": ("least", lambda ms: _role(ms).append({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}), "other"),
    "subject": ("least", lambda ms: find(ms, "RoleBinding")["subjects"][0].update(name="x"), "to others"),
    "unguarded": ("guarded", lambda ms: ms.remove(find(ms, "NetworkPolicy", "-registry")), "0 policies"),
    "one direction": ("guarded", lambda ms: _policy(ms, "-minio").update(policyTypes=["Ingress"]), "1 policies"),
    "open to all": ("guarded", lambda ms: _policy(ms, "-minio")["ingress"][0].pop("from"), "everyone may reach [9000]"),
    "no such peer": (
        "guarded",
        lambda ms: _policy(ms, "-minio")["ingress"][0]["from"].append({"podSelector": {"matchLabels": {"a": "b"}}}),
        "there is no pod",
    ),
    "no such port": (
        "guarded",
        lambda ms: _policy(ms, "-minio")["ingress"][0]["ports"][0].update(port=1),
        "nobody listens on 1",
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_manifest_is_found(broken: str) -> None:
    policy, change, words = BREAKS[broken]
    manifests = copy.deepcopy(render(name="minimal"))
    change(manifests)
    assert any(words in found for found in POLICIES[policy](manifests))


def test_every_policy_is_seen_to_ring() -> None:
    assert {policy for policy, _, _ in BREAKS.values()} == POLICIES.keys()
