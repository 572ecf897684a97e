"""What happens to pods on real nodes."""

from __future__ import annotations

from typing import Any

from tests.support.cluster.cluster import Cluster
from tests.support.cluster.store import stamp

Object = dict[str, Any]


def out_of_memory(cluster: Cluster, job: str) -> None:
    cluster.kubelet.kill(_first(cluster, job)["metadata"]["uid"], "OOMKilled")


def evict(cluster: Cluster, job: str, message: str) -> None:
    """The node runs short of something and throws the pod out; its containers' ends are not told."""
    pod = _first(cluster, job)
    with cluster.store.changed:
        _disrupt(cluster, pod, "TerminationByKubelet", message)
        cluster.kubelet.abandon(pod["metadata"]["uid"])

        def change(made: Object) -> None:
            made["status"] |= {"phase": "Failed", "reason": "Evicted", "message": message}
            made["status"].pop("containerStatuses", None)

        cluster.store.update("pods", pod["metadata"]["name"], change)


def shut_down(cluster: Cluster, job: str) -> None:
    """The node is turned off in good order."""
    pod = _first(cluster, job)
    with cluster.store.changed:
        message = "Pod was terminated in response to imminent node shutdown."
        _disrupt(cluster, pod, "TerminationByKubelet", message)
        cluster.kubelet.abandon(pod["metadata"]["uid"])

        def change(made: Object) -> None:
            made["status"] |= {"phase": "Failed", "reason": "Terminated", "message": message}
            made["status"].pop("containerStatuses", None)

        cluster.store.update("pods", pod["metadata"]["name"], change)


def drain(cluster: Cluster, job: str, reason: str = "EvictionByEvictionAPI") -> None:
    """Its pod has to leave, with its grace."""
    pod = _first(cluster, job)
    with cluster.store.changed:
        _disrupt(cluster, pod, reason, "Eviction API: evicting")
        cluster.store.delete("pods", pod["metadata"]["name"])


def lose_node(cluster: Cluster, job: str, *, seconds_ago: float = 0) -> None:
    """The node is silent; the pod should have left `seconds_ago` and nobody knows whether it did."""
    pod = _first(cluster, job)
    with cluster.store.changed:
        cluster.kubelet.ignored.add(pod["metadata"]["uid"])
        _disrupt(cluster, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
        cluster.store.delete("pods", pod["metadata"]["name"])
        name = pod["metadata"]["name"]
        cluster.store.update("pods", name, lambda made: made["metadata"].update(deletionTimestamp=stamp(-seconds_ago)))


def remove_node(cluster: Cluster, job: str) -> None:
    """The node's object is deleted, and with it goes what ran there."""
    pod = _first(cluster, job)
    with cluster.store.changed:
        cluster.kubelet.ignored.add(pod["metadata"]["uid"])
        _disrupt(cluster, pod, "DeletionByPodGC", "PodGC: node no longer exists")
        name = pod["metadata"]["name"]
        cluster.store.update("pods", name, lambda made: made["status"].update(phase="Failed"))
        cluster.store.delete("pods", name, grace=0)


def delete_pod(cluster: Cluster, job: str) -> None:
    """Somebody's kubectl."""
    cluster.store.delete("pods", _first(cluster, job)["metadata"]["name"])


def _first(cluster: Cluster, job: str) -> Object:
    """The first one, where a Job has several."""
    return cluster.pods(job)[0]


def _disrupt(cluster: Cluster, pod: Object, reason: str, message: str) -> None:
    one = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": stamp(),
    }
    name = pod["metadata"]["name"]
    cluster.store.update("pods", name, lambda made: made["status"].setdefault("conditions", []).append(one))
