"""The Job controller: makes pods, counts their ends, and says by conditions how the Job ended."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.support.cluster.store import TRACKING, Refused, parse, stamp

if TYPE_CHECKING:
    from tests.support.cluster.cluster import Cluster

Object = dict[str, Any]

INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class _Verdict:
    reason: str
    message: str


def sync_job(cluster: Cluster, job: Object) -> None:
    """One turn for one Job."""
    pods = cluster.store.owned("pods", job)
    if "deletionTimestamp" in job["metadata"] or _holds(job, "Complete") or _holds(job, "Failed"):
        _let_go(cluster, pods)
        _expire(cluster, job)
        return
    alive = [pod for pod in pods if _phase(pod) not in ("Succeeded", "Failed")]
    active = [pod for pod in alive if "deletionTimestamp" not in pod["metadata"]]
    verdict = _verdict(job, pods)
    if verdict is not None:
        _fail(cluster, job, verdict, alive, active)
        return
    done = job["status"].get("succeeded", 0)
    new = [pod for pod in pods if _phase(pod) == "Succeeded" and TRACKING in pod["metadata"].get("finalizers", ())]
    if new:
        indexes = {_index(pod) for pod in new} | set(_indexes(job))
        done += len(new)
        _change(cluster, job, lambda status: status.update(succeeded=done, completedIndexes=_written(indexes)))
        _let_go(cluster, new)
    if done >= job["spec"]["completions"]:
        _finish(cluster, job, "Complete", _Verdict("CompletionsReached", "Reached expected number of succeeded pods"))
        return
    if job["spec"]["suspend"]:
        for pod in active:
            cluster.store.delete("pods", pod["metadata"]["name"])
        _suspend(cluster, job, len(alive))
        return
    _resume(cluster, job)
    _create(cluster, job, active, alive)


def _verdict(job: Object, pods: list[Object]) -> _Verdict | None:
    if target := _holds(job, "FailureTarget"):
        return _Verdict(target["reason"], target["message"])
    started = job["status"].get("startTime")
    limit = job["spec"].get("activeDeadlineSeconds")
    if limit is not None and started and datetime.now(UTC) - parse(started) >= timedelta(seconds=limit):
        return _Verdict("DeadlineExceeded", "Job was active longer than specified deadline")
    failed = [pod for pod in pods if _phase(pod) == "Failed"]
    for pod in failed:
        if message := _policy(job, pod):
            return _Verdict("PodFailurePolicy", message)
    if len(failed) > job["spec"]["backoffLimit"]:
        return _Verdict("BackoffLimitExceeded", "Job has reached the specified backoff limit")
    return None


def _policy(job: Object, pod: Object) -> str:
    """What the first rule that fits says, if it ends the Job."""
    where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    for index, rule in enumerate(job["spec"].get("podFailurePolicy", {}).get("rules", ())):
        message = ""
        if codes := rule.get("onExitCodes"):
            for status in pod["status"].get("containerStatuses", ()):
                code = status["state"].get("terminated", {}).get("exitCode", 0)
                named = codes.get("containerName") in (None, status["name"])
                if named and code and (code in codes["values"]) == (codes["operator"] == "In"):
                    message = f"Container {status['name']} for pod {where} failed with exit code {code}"
        for wanted in rule.get("onPodConditions", ()):
            held = {one["type"]: one["status"] for one in pod["status"].get("conditions", ())}
            if held.get(wanted["type"]) == wanted["status"]:
                message = f"Pod {where} has condition {wanted['type']}"
        if message:
            action = rule["action"]
            return f"{message} matching {action} rule at index {index}" if action == "FailJob" else ""
    return ""


def _fail(cluster: Cluster, job: Object, verdict: _Verdict, alive: list[Object], active: list[Object]) -> None:
    """The pods go first; `Failed` comes when the last one is gone."""
    if not _holds(job, "FailureTarget"):
        _condition(cluster, job, "FailureTarget", verdict)
    for pod in active:
        cluster.store.delete("pods", pod["metadata"]["name"])
    if not alive:
        _finish(cluster, job, "Failed", verdict)
    else:
        _change(cluster, job, lambda status: status.update(active=0, terminating=len(alive)))


def _finish(cluster: Cluster, job: Object, kind: str, verdict: _Verdict) -> None:
    def change(status: Object) -> None:
        status.pop("active", None)
        status.pop("terminating", None)
        if kind == "Complete":
            status["completionTime"] = stamp()

    _change(cluster, job, change)
    _condition(cluster, job, kind, verdict)
    _let_go(cluster, cluster.store.owned("pods", job))


def _suspend(cluster: Cluster, job: Object, terminating: int) -> None:
    _change(cluster, job, lambda status: status.update(active=0, terminating=terminating))
    if not _holds(job, "Suspended"):
        _condition(cluster, job, "Suspended", _Verdict("JobSuspended", "Job suspended"))


def _resume(cluster: Cluster, job: Object) -> None:
    if _holds(job, "Suspended"):
        _condition(cluster, job, "Suspended", _Verdict("JobResumed", "Job resumed"), status="False")
    elif "startTime" in job["status"]:
        return
    _change(cluster, job, lambda status: status.update(startTime=stamp()))


def _create(cluster: Cluster, job: Object, active: list[Object], alive: list[Object]) -> None:
    spec = job["spec"]
    taken = {_index(pod) for pod in alive} | set(_indexes(job))
    free = [index for index in range(spec["completions"]) if index not in taken]
    room = min(spec["parallelism"], spec["completions"] - job["status"].get("succeeded", 0)) - len(alive)
    made = 0
    for _ in range(room):
        pod = _pod(job, free[made] if spec["completionMode"] == "Indexed" else None)
        try:
            cluster.create("pods", pod)
            made += 1
        except Refused as refused:
            cluster.warn("jobs", job, "FailedCreate", f"Error creating: {refused.message}")
            break
    terminating = len(alive) - len(active)
    _change(cluster, job, lambda status: status.update(active=len(active) + made, terminating=terminating))


def _pod(job: Object, index: int | None) -> Object:
    template = copy.deepcopy(job["spec"]["template"])
    meta, spec, name = template["metadata"], template["spec"], job["metadata"]["name"]
    meta["generateName"] = f"{name}-" if index is None else f"{name}-{index}-"
    meta["ownerReferences"] = [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": name,
            "uid": job["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    if index is not None:
        meta.setdefault("annotations", {})[INDEX] = str(index)
        meta["labels"][INDEX] = str(index)
        spec["hostname"] = f"{name}-{index}"
        for container in spec["containers"]:
            container.setdefault("env", []).append({"name": "JOB_COMPLETION_INDEX", "value": str(index)})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def _let_go(cluster: Cluster, pods: list[Object]) -> None:
    for pod in pods:
        if TRACKING in pod["metadata"].get("finalizers", ()):
            cluster.store.update("pods", pod["metadata"]["name"], lambda made: made["metadata"].pop("finalizers"))


def _expire(cluster: Cluster, job: Object) -> None:
    limit = job["spec"].get("ttlSecondsAfterFinished")
    ended = _holds(job, "Complete") or _holds(job, "Failed")
    if limit is None or not ended or "deletionTimestamp" in job["metadata"]:
        return
    if datetime.now(UTC) - parse(ended["lastTransitionTime"]) >= timedelta(seconds=limit):
        cluster.store.delete("jobs", job["metadata"]["name"], policy="Foreground")


def _change(cluster: Cluster, job: Object, change: Callable[[Object], None]) -> None:
    job["status"] = cluster.store.update("jobs", job["metadata"]["name"], lambda made: change(made["status"]))["status"]


def _condition(cluster: Cluster, job: Object, kind: str, verdict: _Verdict, *, status: str = "True") -> None:
    one = {
        "type": kind,
        "status": status,
        "reason": verdict.reason,
        "message": verdict.message,
        "lastProbeTime": stamp(),
        "lastTransitionTime": stamp(),
    }

    def change(made: Object) -> None:
        others = [other for other in made.get("conditions", ()) if other["type"] != kind]
        made["conditions"] = [*others, one]

    _change(cluster, job, change)


def _holds(job: Object, kind: str) -> Object:
    found = [one for one in job["status"].get("conditions", ()) if one["type"] == kind and one["status"] == "True"]
    return found[0] if found else {}


def _phase(pod: Object) -> str:
    return str(pod["status"].get("phase"))


def _index(pod: Object) -> int:
    return int(pod["metadata"].get("annotations", {}).get(INDEX, -1))


def _indexes(job: Object) -> list[int]:
    text = job["status"].get("completedIndexes", "")
    return [int(part) for part in text.split(",") if part]


def _written(indexes: set[int]) -> str:
    return ",".join(str(index) for index in sorted(indexes) if index >= 0)
