"""Every rule of the table has what a real cluster says for it, and no rule hides another."""

from __future__ import annotations

import pytest

from feinschliff.workloads.troubles import ENDS, MESSAGE_CHARS_MAX, REASONS, VANISHED, WAITS, Sign, Source, diagnose

SAID: list[tuple[Source, str, str, str, bool, bool]] = [  # source, reason, message -> trouble, retryable, blameless
    (Source.ENDED, "OOMKilled", "", "WORKLOAD_OUT_OF_MEMORY", False, False),
    (
        Source.ENDED, "StartError",
        'failed to create containerd task: exec: "python": executable file not found in $PATH',
        "WORKLOAD_COMMAND_UNUSABLE", False, False,
    ),
    (
        Source.JOB, "DeadlineExceeded", "Job was active longer than specified deadline",
        "WORKLOAD_DEADLINE_EXCEEDED", False, False,
    ),
    (
        Source.POD, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline",
        "WORKLOAD_DEADLINE_EXCEEDED", False, False,
    ),
    (
        Source.POD, "Evicted", "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
        "WORKLOAD_SCRATCH_FULL", False, False,
    ),
    (
        Source.POD, "Evicted", 'Usage of EmptyDir volume "scratch" exceeds the limit "20Gi". ',
        "WORKLOAD_SCRATCH_FULL", False, False,
    ),
    (
        Source.POD, "Evicted", 'Container trainer exceeded its local ephemeral storage limit "1Gi". ',
        "WORKLOAD_SCRATCH_FULL", False, False,
    ),
    (
        Source.POD, "Evicted",
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 92Mi. Container trainer was using "
        "5Gi, request is 1Gi, has larger consumption of memory. ",
        "WORKLOAD_EVICTED", True, False,
    ),
    (
        Source.POD, "Evicted", "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi. ",
        "WORKLOAD_EVICTED", True, False,
    ),
    (Source.POD, "Evicted", "The node had condition: [DiskPressure]. ", "WORKLOAD_EVICTED", True, False),
    (
        Source.POD, "Terminated", "Pod was terminated in response to imminent node shutdown.",
        "WORKLOAD_NODE_SHUTDOWN", True, True,
    ),
    (Source.POD, "NodeLost", "Node node-1 which was running pod one is unresponsive", "WORKLOAD_NODE_LOST", True, True),
    (Source.POD, "OutOfcpu", "Node didn't have enough resource: cpu", "WORKLOAD_NODE_LOST", True, True),
    (
        Source.DISRUPTION, "PreemptionByScheduler", "default-scheduler: preempting for a higher priority pod",
        "WORKLOAD_PREEMPTED", True, True,
    ),
    (Source.DISRUPTION, "EvictionByEvictionAPI", "Eviction API: evicting", "WORKLOAD_DRAINED", True, True),
    (
        Source.DISRUPTION, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint",
        "WORKLOAD_NODE_LOST", True, True,
    ),
    (Source.DISRUPTION, "DeletionByPodGC", "PodGC: node no longer exists", "WORKLOAD_NODE_LOST", True, True),
    (Source.DISRUPTION, "TerminationByKubelet", "", "WORKLOAD_NODE_SHUTDOWN", True, True),
    (Source.DISRUPTION, "SomethingNew", "", "WORKLOAD_DISRUPTED", True, True),
    (
        Source.JOB, "PodFailurePolicy",
        "Pod training/one-abc has condition DisruptionTarget matching FailJob rule at index 1",
        "WORKLOAD_DISRUPTED", True, True,
    ),
    (Source.SILENT, "NodeSilent", "node node-1", "WORKLOAD_NODE_LOST", True, True),
    (
        Source.WAITING, "InvalidImageName", 'Failed to apply default image tag "a:b:c": invalid reference format',
        "WORKLOAD_IMAGE_NAME_INVALID", False, False,
    ),
    (
        Source.WAITING, "ErrImageNeverPull", 'Container image "x:1" is not present with pull policy of Never',
        "WORKLOAD_IMAGE_PULL_FAILED", False, False,
    ),
    (
        Source.WAITING, "ErrImagePull",
        "failed to authorize: failed to fetch anonymous token: unexpected status: 401 Unauthorized",
        "WORKLOAD_IMAGE_PULL_FAILED", False, False,
    ),
    (
        Source.WAITING, "ErrImagePull",
        'rpc error: code = NotFound desc = failed to resolve reference "docker.io/library/x:1": not found',
        "WORKLOAD_IMAGE_PULL_FAILED", False, False,
    ),
    (Source.WAITING, "ImagePullBackOff", 'Back-off pulling image "x:1"', "WORKLOAD_IMAGE_PULL_FAILED", True, False),
    (
        Source.WAITING, "ErrImagePull", 'dial tcp: lookup registry.example: no such host',
        "WORKLOAD_IMAGE_PULL_FAILED", True, False,
    ),
    (
        Source.WAITING, "CreateContainerConfigError", 'secret "one-a1b2c3" not found',
        "WORKLOAD_SETTINGS_MISSING", True, False,
    ),
    (
        Source.WAITING, "CreateContainerConfigError", "container has runAsNonRoot and image will run as root",
        "WORKLOAD_CONTAINER_REFUSED", False, False,
    ),
    (
        Source.WAITING, "CreateContainerError", "context deadline exceeded", "WORKLOAD_CONTAINER_REFUSED", True, False,
    ),
    (Source.WAITING, "RunContainerError", "", "WORKLOAD_CONTAINER_REFUSED", True, False),
    (Source.QUEUE, "Suspended", "Job suspended", "WORKLOAD_QUEUED", True, False),
    (Source.PLACING, "SchedulingGated", "Scheduling is blocked", "WORKLOAD_QUEUED", True, False),
    (
        Source.PLACING, "Unschedulable",
        'persistentvolumeclaim "models" not found. not found', "WORKLOAD_UNSCHEDULABLE", True, False,
    ),
    (
        Source.PLACING, "Unschedulable",
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes",
        "WORKLOAD_UNSCHEDULABLE", True, False,
    ),
    (
        Source.PLACING, "Unschedulable",
        "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient memory.",
        "WORKLOAD_UNSCHEDULABLE", True, False,
    ),
    (
        Source.PLACING, "Unschedulable",
        "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: gpu}.",
        "WORKLOAD_UNSCHEDULABLE", True, False,
    ),
    (
        Source.PLACING, "Unschedulable",
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
        "WORKLOAD_UNSCHEDULABLE", True, False,
    ),
    (Source.PLACING, "Unschedulable", "no nodes available to schedule pods", "WORKLOAD_UNSCHEDULABLE", True, False),
    (
        Source.EVENT, "FailedCreate",
        'Error creating: pods "one-x" is forbidden: exceeded quota: compute, requested: cpu=4, used: cpu=8',
        "WORKLOAD_QUOTA_EXCEEDED", True, False,
    ),
    (
        Source.EVENT, "FailedCreate",
        'Error creating: pods "one-x" is forbidden: failed quota: compute: must specify limits.memory for: trainer',
        "WORKLOAD_QUOTA_EXCEEDED", False, False,
    ),
    (
        Source.EVENT, "FailedCreate",
        'Error creating: pods "one-x" is forbidden: pod rejected: RuntimeClass "gvisor" not found',
        "WORKLOAD_RUNTIME_CLASS_MISSING", False, False,
    ),
    (
        Source.EVENT, "FailedCreatePodSandBox",
        'Failed to create pod sandbox: rpc error: no runtime for "gvisor" is configured',
        "WORKLOAD_RUNTIME_CLASS_MISSING", True, False,
    ),
    (
        Source.EVENT, "FailedCreate",
        'Error creating: pods "one-x" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes',
        "WORKLOAD_ADMISSION_REFUSED", False, False,
    ),
    (
        Source.EVENT, "FailedCreate",
        'Error creating: pods "one-x" is forbidden: no PriorityClass with name batch was found',
        "WORKLOAD_ADMISSION_REFUSED", False, False,
    ),
    (
        Source.EVENT, "FailedCreate",
        'Error creating: admission webhook "policy.example" denied the request: no latest tags',
        "WORKLOAD_ADMISSION_REFUSED", False, False,
    ),
    (Source.EVENT, "FailedCreate", "Error creating: etcdserver: timed out", "WORKLOAD_NOT_STARTING", True, False),
    (
        Source.EVENT, "FailedMount", 'MountVolume.SetUp failed for volume "keys" : secret "keys" not found',
        "WORKLOAD_VOLUME_UNAVAILABLE", True, False,
    ),
    (
        Source.EVENT, "FailedCreatePodSandBox", 'plugin type="cni" failed (add): no addresses left',
        "WORKLOAD_NOT_STARTING", True, False,
    ),
    (Source.WAITING, "SomethingNew", "", "WORKLOAD_NOT_STARTING", True, False),
]  # fmt: skip


@pytest.mark.parametrize(("source", "reason", "message", "trouble", "retryable", "blameless"), SAID)
def test_what_a_cluster_says_is_understood(
    source: Source, reason: str, message: str, trouble: str, retryable: bool, blameless: bool
) -> None:
    found = diagnose((*ENDS, *WAITS), [Sign(source, reason, message)])

    assert found is not None
    assert (found.reason, found.retryable, found.blameless) == (trouble, retryable, blameless)
    assert message[:100].strip() in found.message


def test_every_rule_is_the_answer_to_something() -> None:
    signs = [Sign(source, reason, message) for source, reason, message, *_ in SAID]
    for rules in (ENDS, WAITS):
        used = {next((number for number, rule in enumerate(rules) if rule.matches(sign)), None) for sign in signs}
        assert used >= set(range(len(rules)))


def test_every_reason_has_its_row() -> None:
    assert {row[3] for row in SAID} | {VANISHED} == REASONS


def test_every_reason_begins_alike_and_helps() -> None:
    for rule in (*ENDS, *WAITS):
        assert rule.trouble.startswith("WORKLOAD_")
        assert rule.text.endswith(".")
        assert rule.advice or rule.retryable


def test_what_a_wait_may_last_is_said_but_for_queues() -> None:
    for rule in WAITS:
        assert (rule.patience_seconds is None) == (rule.trouble == "WORKLOAD_QUEUED"), rule.trouble


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing"])
def test_a_pod_that_is_being_made_is_no_trouble(reason: str) -> None:
    assert diagnose(WAITS, [Sign(Source.WAITING, reason)]) is None


def test_of_several_signs_the_gravest_counts() -> None:
    signs = [Sign(Source.DISRUPTION, "EvictionByEvictionAPI"), Sign(Source.ENDED, "OOMKilled")]

    found = diagnose(ENDS, signs)

    assert found is not None
    assert found.reason == "WORKLOAD_OUT_OF_MEMORY"


def test_a_message_of_any_length_is_cut() -> None:
    found = diagnose(WAITS, [Sign(Source.WAITING, "ErrImagePull", "x" * 5000)])

    assert found is not None
    assert len(found.message) == MESSAGE_CHARS_MAX
