"""The JobSet controller, as far as a set of one replicated Job goes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from tests.support.cluster.store import stamp

if TYPE_CHECKING:
    from tests.support.cluster.cluster import Cluster

Object = dict[str, Any]

_ENDS = {"Complete": "Completed", "Failed": "Failed"}


def sync_jobset(cluster: Cluster, jobset: Object) -> None:
    children = cluster.store.owned("jobs", jobset)
    if "deletionTimestamp" in jobset["metadata"]:
        return
    if not children:
        _create(cluster, jobset)
        return
    is_suspended = bool(jobset["spec"].get("suspend"))
    for child in children:
        if child["spec"]["suspend"] != is_suspended:
            name = child["metadata"]["name"]
            cluster.store.update("jobs", name, lambda made: made["spec"].update(suspend=is_suspended))
        for one in child["status"].get("conditions", ()):
            if one["type"] in _ENDS and one["status"] == "True":
                _condition(cluster, jobset, _ENDS[one["type"]])
    if is_suspended:
        _condition(cluster, jobset, "Suspended")


def _create(cluster: Cluster, jobset: Object) -> None:
    meta = jobset["metadata"]
    for wanted in jobset["spec"]["replicatedJobs"]:
        template = copy.deepcopy(wanted["template"])
        name = f"{meta['name']}-{wanted['name']}-0"
        owner = {"apiVersion": jobset["apiVersion"], "kind": "JobSet", "name": meta["name"], "uid": meta["uid"]}
        labels = {"jobset.sigs.k8s.io/jobset-name": meta["name"]}
        template["metadata"] |= {"name": name, "ownerReferences": [owner | {"controller": True}]}
        template["metadata"]["labels"] |= labels
        template["spec"]["template"]["metadata"]["labels"] |= labels
        template["spec"]["suspend"] = bool(jobset["spec"].get("suspend"))
        cluster.create("jobs", {"apiVersion": "batch/v1", "kind": "Job", **template})


def _condition(cluster: Cluster, jobset: Object, kind: str) -> None:
    def change(made: Object) -> None:
        held = made.setdefault("status", {}).setdefault("conditions", [])
        if not any(one["type"] == kind for one in held):
            held.append({"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": stamp()})

    cluster.store.update("jobsets", jobset["metadata"]["name"], change)
