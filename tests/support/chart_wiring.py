"""How the parts of the chart hang together: selectors, ports, references, settings, rights, and who may call whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from tests.support.chart_objects import (
    Manifest,
    Manifests,
    Pod,
    environment,
    matches,
    named,
    of_kind,
    pods,
    release_of,
    trainer_labels,
    variable_names,
    where,
)
from tests.support.chart_settings import variables

CHANGING = ("app.kubernetes.io/version", "helm.sh/chart", "pod-template-hash")
WATCHED = frozenset({"create", "get", "list", "watch", "patch", "delete"})
RIGHTS: Mapping[tuple[str, str], frozenset[str]] = {
    ("batch", "jobs"): WATCHED,
    ("", "pods"): frozenset({"get", "list", "watch"}),
    ("", "pods/log"): frozenset({"get"}),
    ("", "events"): frozenset({"get", "list", "watch"}),
    ("", "secrets"): frozenset({"create"}),
}
RIGHTS_OF_NODES: Mapping[tuple[str, str], frozenset[str]] = {
    ("", "services"): frozenset({"create", "delete"}),
    ("jobset.x-k8s.io", "jobsets"): WATCHED,
}


def selecting(manifests: Manifests) -> Iterator[str]:
    """Every selector finds a pod, and nothing in it changes with a version."""
    everyone = [pod.labels for pod in pods(manifests)] + [trainer_labels(release_of(manifests))]
    for one in manifests:
        for selector in _selectors(one):
            yield from (f"{where(one)}: selects by {key}" for key in CHANGING if key in selector)
            own = [pod.labels for pod in pods([one])] if one["kind"] in ("Deployment", "StatefulSet") else everyone
            if not selector or not any(matches(selector, labels) for labels in own):
                yield f"{where(one)}: selects no pod"


def _selectors(one: Manifest) -> Iterator[dict[str, str]]:
    spec = one.get("spec", {})
    match one["kind"]:
        case "Service":
            yield spec["selector"]
        case "Deployment" | "StatefulSet" | "PodDisruptionBudget":
            yield spec["selector"]["matchLabels"]
        case "NetworkPolicy":
            yield spec["podSelector"].get("matchLabels", {})
    for pod in pods([one]):
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            yield constraint["labelSelector"]["matchLabels"]


def ported(manifests: Manifests) -> Iterator[str]:
    """A Service's port leads to one that its pods have, under the same number."""
    for one in of_kind(manifests, "Service"):
        for pod in pods(manifests):
            if not matches(one["spec"]["selector"], pod.labels):
                continue
            for port in one["spec"]["ports"]:
                if pod.ports.get(port.get("targetPort", port["port"])) != port["port"]:
                    yield f"{where(one)}: port {port['name']} {port['port']} is none of {pod.where}"


def known_settings(manifests: Manifests) -> Iterator[str]:
    """No variable is set that nothing reads."""
    known = variables()
    for pod in pods(manifests):
        ours = {name for name in variable_names(pod, manifests) if name.startswith("FEINSCHLIFF_")}
        yield from (f"{pod.where}: {name} is no setting" for name in sorted(ours - known))


def referenced(manifests: Manifests) -> Iterator[str]:
    """What is named is made here, by cert-manager for us, or given by the owner."""
    made = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    made |= {("Secret", one["spec"]["secretName"]) for one in of_kind(manifests, "Certificate")}
    for one in manifests:
        for kind, name in named(one):
            if (kind, name) not in made and not name.startswith(GIVEN):
                yield f"{where(one)}: {kind}/{name} does not exist"


GIVEN = ("given-", "default")
"""How Secrets and accounts that the owner brings are named in the sets of values."""


def least(manifests: Manifests) -> Iterator[str]:
    """The rights of training are those of the table, whole; nothing else has any."""
    for one in of_kind(manifests, "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"):
        yield f"{where(one)}: reaches beyond the namespace"
    for one in of_kind(manifests, "Role"):
        rights = {
            (group, resource): frozenset(rule["verbs"])
            for rule in one["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
        if rights not in (dict(RIGHTS), {**RIGHTS, **RIGHTS_OF_NODES}):
            yield f"{where(one)}: has other rights than the table: {sorted(rights)}"
    for one in of_kind(manifests, "RoleBinding"):
        accounts = {pod.spec.get("serviceAccountName") for pod in pods(manifests) if _makes_jobs(pod, manifests)}
        if {subject["name"] for subject in one["subjects"]} != accounts:
            yield f"{where(one)}: gives the rights to others than the pod that makes Jobs"


def guarded(manifests: Manifests) -> Iterator[str]:
    """Where there are policies, each pod is under one for both directions, and each port that one opens exists."""
    policies = of_kind(manifests, "NetworkPolicy")
    if not policies:
        return
    trainer = Pod({"kind": "Job", "metadata": {"name": "trainer"}}, trainer_labels(release_of(manifests)), NO_PORTS)
    trains = any(_makes_jobs(pod, manifests) for pod in pods(manifests))
    everyone = [*pods(manifests), *([trainer] if trains else [])]
    for pod in everyone:
        over = [one for one in policies if matches(one["spec"]["podSelector"]["matchLabels"], pod.labels)]
        if len(over) != 1 or set(over[0]["spec"]["policyTypes"]) != {"Ingress", "Egress"}:
            yield f"{pod.where}: {len(over)} policies are about it"
    for one in policies:
        yield from _peers(one, everyone)


NO_PORTS: Manifest = {"containers": []}
GATEWAY_PORT = 8080  # the one door that asks for a key


def _peers(policy: Manifest, everyone: list[Pod]) -> Iterator[str]:
    subject = [pod for pod in everyone if matches(policy["spec"]["podSelector"]["matchLabels"], pod.labels)]
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for rule in policy["spec"].get(direction, []):
            ports = [port["port"] for port in rule.get("ports", [])]
            if direction == "ingress" and not rule.get(side) and ports != [GATEWAY_PORT]:
                yield f"{where(policy)}: everyone may reach {ports or 'every port'}"
            for peer in rule.get(side) or []:
                if "podSelector" not in peer or "namespaceSelector" in peer:
                    continue
                found = [pod for pod in everyone if matches(peer["podSelector"]["matchLabels"], pod.labels)]
                if not found:
                    yield f"{where(policy)}: {direction}: there is no pod {peer['podSelector']['matchLabels']}"
                targets = subject if direction == "ingress" else found
                missing = [port for port in ports for pod in targets if port not in pod.ports]
                yield from (f"{where(policy)}: {direction}: nobody listens on {port}" for port in missing)


def allowed(manifests: Manifests) -> set[tuple[str, str]]:
    """(caller, room) for every room's port that the policies of both let through; by component and port."""
    policies = of_kind(manifests, "NetworkPolicy")
    everyone = pods(manifests)
    reached = set()
    for caller in everyone:
        for room in everyone:
            for port in set(room.ports.values()):
                out = _lets(policies, "egress", "to", caller, room, port)
                if out and _lets(policies, "ingress", "from", room, caller, port):
                    reached.add((caller.component, _port_name(room, port)))
    return reached


def _lets(policies: list[Manifest], direction: str, side: str, subject: Pod, other: Pod, port: int) -> bool:
    for policy in policies:
        if not matches(policy["spec"]["podSelector"]["matchLabels"], subject.labels):
            continue
        for rule in policy["spec"].get(direction, []):
            peers = [peer["podSelector"]["matchLabels"] for peer in rule.get(side) or [] if "podSelector" in peer]
            open_to = not rule.get(side) or any(matches(peer, other.labels) for peer in peers)
            if open_to and port in [one["port"] for one in rule.get("ports", [])]:
                return True
    return False


def _port_name(pod: Pod, port: int) -> str:
    return next(str(name) for name, number in pod.ports.items() if number == port and isinstance(name, str))


def _makes_jobs(pod: Pod, manifests: Manifests) -> bool:
    return environment(pod, manifests).get("FEINSCHLIFF_TRAINING_RUNNER") == "kubernetes"


POLICIES: Mapping[str, Callable[[Manifests], Iterator[str]]] = {
    "selecting": selecting,
    "ported": ported,
    "known_settings": known_settings,
    "referenced": referenced,
    "least": least,
    "guarded": guarded,
}
