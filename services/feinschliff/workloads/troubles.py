"""Why a cluster does not start a workload, or ended it: an ordered table from what it says to what a person can do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum, auto

from feinschliff.workloads.status import Trouble

MESSAGE_CHARS_MAX = 1000
ADMISSION_PATIENCE_SECONDS = 60.0
CONFIG_PATIENCE_SECONDS = 120.0
PULL_PATIENCE_SECONDS = 600.0
PLACE_PATIENCE_SECONDS = 900.0
ROOM_PATIENCE_SECONDS = 3600.0


class Source(StrEnum):
    """Where the cluster said it."""

    JOB = auto()  # a condition of the Job
    QUEUE = auto()  # the Job is suspended, and not by us
    POD = auto()  # the pod's own reason
    DISRUPTION = auto()  # the pod's condition DisruptionTarget
    PLACING = auto()  # the pod's condition PodScheduled
    WAITING = auto()  # a container that has not begun
    ENDED = auto()  # a container that ended
    SILENT = auto()  # the pod should be gone and its node does not say so
    EVENT = auto()  # a warning about the Job or a pod of it


@dataclass(frozen=True, slots=True)
class Sign:
    """One thing that the cluster says about a workload, in its own words."""

    source: Source
    reason: str
    message: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A sign from `source` with this reason (the whole of it) and these words (anywhere, any case) means `trouble`."""

    trouble: str
    source: Source
    reason: str
    words: str = ""
    text: str = ""
    advice: tuple[str, ...] = ()
    retryable: bool = True
    blameless: bool = False
    patience_seconds: float | None = None

    def matches(self, sign: Sign) -> bool:
        return (
            sign.source is self.source
            and re.fullmatch(self.reason, sign.reason) is not None
            and re.search(self.words, sign.message, re.IGNORECASE) is not None
        )


_PULL = "ErrImagePull|ImagePullBackOff|ImageInspectError|RegistryUnavailable|SignatureValidationFailed"
_PROFILE = "The execution profile decides this; whoever runs the platform can change it."

ENDS: tuple[Rule, ...] = (  # of several that match, the first is the answer
    Rule(
        "WORKLOAD_OUT_OF_MEMORY", Source.ENDED, "OOMKilled",
        text="The attempt needed more memory than its execution profile gives.",
        advice=(
            "Take a larger execution profile, or train with a smaller batch, shorter sequences or a smaller model.",
            "Data loading and /dev/shm count as memory as well.",
        ),
        retryable=False,
    ),
    Rule(
        "WORKLOAD_COMMAND_UNUSABLE", Source.ENDED, "StartError|ContainerCannotRun",
        text="The image cannot run the trainer.",
        advice=("Use the trainer image of this release in the execution profile.",),
        retryable=False,
    ),
    Rule(
        "WORKLOAD_DEADLINE_EXCEEDED", Source.JOB, "DeadlineExceeded",
        text="The attempt ran longer than its time limit and was ended.",
        advice=("Raise the job's time limit, or train less.", "Its checkpoints are kept."),
        retryable=False,
    ),
    Rule(
        "WORKLOAD_DEADLINE_EXCEEDED", Source.POD, "DeadlineExceeded",
        text="The attempt ran longer than its time limit and was ended.",
        advice=("Raise the job's time limit, or train less.", "Its checkpoints are kept."),
        retryable=False,
    ),
    Rule(
        "WORKLOAD_SCRATCH_FULL", Source.POD, "Evicted", r"exceed\w* .*limit",
        text="The attempt wrote more files than its execution profile allows.",
        advice=("Raise `scratch` of the execution profile, or take one with more.",),
        retryable=False,
    ),
    Rule(
        "WORKLOAD_NODE_SHUTDOWN", Source.POD, "Terminated|NodeShutdown|Shutdown",
        text="The node was shut down.", blameless=True,
    ),
    Rule("WORKLOAD_NODE_LOST", Source.POD, "NodeLost|NodeAffinity|UnexpectedAdmissionError|OutOf.*",
         text="The node could not keep the pod.", blameless=True),
    Rule(
        "WORKLOAD_EVICTED", Source.POD, "Evicted", r"memory",
        text="The node ran out of memory and chose this attempt.",
        advice=("Let the execution profile request as much memory as the attempt needs.",),
    ),
    Rule(
        "WORKLOAD_EVICTED", Source.POD, "Evicted",
        text="The node ran out of disk or processes and chose this attempt.",
        advice=("Give the nodes more disk, or request `ephemeral-storage` in the execution profile.",),
    ),
    Rule("WORKLOAD_PREEMPTED", Source.DISRUPTION, "PreemptionBy.*|Preempted",
         text="Work of a higher priority took its place.", blameless=True),
    Rule("WORKLOAD_DRAINED", Source.DISRUPTION, "EvictionByEvictionAPI",
         text="Its node was emptied.", blameless=True),
    Rule("WORKLOAD_NODE_LOST", Source.DISRUPTION, "DeletionByTaintManager|DeletionByPodGC",
         text="Its node is gone.", blameless=True),
    Rule("WORKLOAD_NODE_SHUTDOWN", Source.DISRUPTION, "TerminationByKubelet",
         text="Its node had to end it.", blameless=True),
    Rule("WORKLOAD_DISRUPTED", Source.DISRUPTION, ".*", text="The cluster took its place away.", blameless=True),
    Rule("WORKLOAD_DISRUPTED", Source.JOB, "PodFailurePolicy", "condition DisruptionTarget",
         text="The cluster took its place away.", blameless=True),
    Rule(
        "WORKLOAD_NODE_LOST", Source.SILENT, ".*",
        text="Its node does not answer any more.",
        advice=("Look at the node; remove it from the cluster if it is gone for good.",),
        blameless=True,
    ),
)  # fmt: skip

WAITS: tuple[Rule, ...] = (
    Rule(
        "WORKLOAD_IMAGE_NAME_INVALID", Source.WAITING, "InvalidImageName",
        text="The image's name is none.",
        advice=("Mend `image` of the execution profile.",),
        retryable=False, patience_seconds=0.0,
    ),
    Rule(
        "WORKLOAD_IMAGE_PULL_FAILED", Source.WAITING, "ErrImageNeverPull",
        text="The image is not on the node and may not be fetched.",
        advice=("Load the image onto the nodes, or change `image_pull_policy` of the execution profile.",),
        retryable=False, patience_seconds=PULL_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_IMAGE_PULL_FAILED", Source.WAITING, _PULL,
        "unauthori[sz]ed|authentication|denied|forbidden|basic auth",
        text="The registry does not give the image to this cluster.",
        advice=("Name a pull secret for this registry in `image_pull_secrets` of the execution profile.",),
        retryable=False, patience_seconds=PULL_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_IMAGE_PULL_FAILED", Source.WAITING, _PULL, "not found|manifest unknown|does not exist",
        text="The registry has no such image.",
        advice=("Mend `image` of the execution profile, or push the image.",),
        retryable=False, patience_seconds=PULL_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_IMAGE_PULL_FAILED", Source.WAITING, _PULL,
        text="The image cannot be fetched.",
        advice=("See that the nodes reach the registry and have disk left.",),
        patience_seconds=PULL_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_SETTINGS_MISSING", Source.WAITING, "CreateContainerConfigError", "secret|configmap",
        text="The attempt's secret settings are missing: the service ended while it started the attempt.",
        advice=("Another attempt gets its own; if it comes back, see whether something deletes Secrets here.",),
        patience_seconds=CONFIG_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_CONTAINER_REFUSED", Source.WAITING, "CreateContainerConfigError", "runAsNonRoot|non-root|numeric",
        text="The image wants to run as root.",
        advice=("Use the trainer image of this release in the execution profile.",),
        retryable=False, patience_seconds=0.0,
    ),
    Rule(
        "WORKLOAD_CONTAINER_REFUSED", Source.WAITING,
        "CreateContainerConfigError|CreateContainerError|RunContainerError|PreCreateHookError|PreStartHookError",
        text="The node cannot make the container.",
        advice=("Read the message; it names what is wrong with the node, the image or a volume.",),
        patience_seconds=CONFIG_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_QUEUED", Source.QUEUE, ".*",
        text="The cluster's queue has not admitted it yet.",
        advice=("Look at the local queue's quota if this lasts.",),
    ),
    Rule(
        "WORKLOAD_QUEUED", Source.PLACING, "SchedulingGated",
        text="The cluster's queue has not admitted it yet.",
        advice=("Look at the local queue's quota if this lasts.",),
    ),
    Rule(
        "WORKLOAD_UNSCHEDULABLE", Source.PLACING, "Unschedulable",
        "persistentvolumeclaim|volume node aff|unbound",
        text="A volume of the execution profile is not to be had.",
        advice=("Look at the claims that `volumes` of the execution profile names.",),
        patience_seconds=PLACE_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_UNSCHEDULABLE", Source.PLACING, "Unschedulable", r"insufficient \S*gpu",
        text="No node has enough GPUs free.",
        advice=("It starts as soon as some are free; take a smaller execution profile, or add GPU nodes.",),
        patience_seconds=ROOM_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_UNSCHEDULABLE", Source.PLACING, "Unschedulable", r"insufficient|too many pods",
        text="No node has enough room.",
        advice=("It starts as soon as there is room; take a smaller execution profile, or add nodes.",),
        patience_seconds=ROOM_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_UNSCHEDULABLE", Source.PLACING, "Unschedulable", r"untolerated taint|had taint",
        text="The nodes that would do are tainted.",
        advice=("Add `tolerations` to the execution profile, or take the taint off the nodes.",),
        patience_seconds=PLACE_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_UNSCHEDULABLE", Source.PLACING, "Unschedulable", r"node affinity|node selector|affinity|topology",
        text="No node is of the kind that the execution profile asks for.",
        advice=("Mend `node_selector` and `affinity` of the execution profile, or label the nodes.",),
        patience_seconds=PLACE_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_UNSCHEDULABLE", Source.PLACING, "Unschedulable",
        text="No node takes it.", advice=(_PROFILE,), patience_seconds=PLACE_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_QUOTA_EXCEEDED", Source.EVENT, "FailedCreate", "exceeded quota",
        text="The namespace's quota is used up.",
        advice=("It starts as soon as quota is free; end other work, or raise the ResourceQuota.",),
        patience_seconds=ROOM_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_QUOTA_EXCEEDED", Source.EVENT, "FailedCreate", "failed quota|must specify limits",
        text="The namespace's quota wants amounts that the execution profile does not name.",
        advice=("Give the execution profile `resources` with requests and limits.",),
        retryable=False, patience_seconds=ADMISSION_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_RUNTIME_CLASS_MISSING", Source.EVENT, "FailedCreate", "runtimeclass",
        text="The cluster has no such runtime class.",
        advice=("Mend `runtime_class` of the execution profile.",),
        retryable=False, patience_seconds=ADMISSION_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_RUNTIME_CLASS_MISSING", Source.EVENT, "FailedCreatePodSandBox",
        "no runtime for|runtime handler|runtime class",
        text="The node has no such runtime.",
        advice=("Mend `runtime_class` of the execution profile, or choose nodes that have it.",),
        patience_seconds=CONFIG_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_ADMISSION_REFUSED", Source.EVENT, "FailedCreate", "podsecurity",
        text="The namespace's pod security does not allow what the execution profile adds.",
        advice=("Take volumes and annotations out of the execution profile that the level forbids.",),
        retryable=False, patience_seconds=ADMISSION_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_ADMISSION_REFUSED", Source.EVENT, "FailedCreate", "priorityclass|service ?account",
        text="The execution profile names something that the cluster does not have.",
        advice=("Mend `priority_class` or `service_account` of the execution profile.",),
        retryable=False, patience_seconds=ADMISSION_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_ADMISSION_REFUSED", Source.EVENT, "FailedCreate", "denied|forbidden|violates|invalid|admission",
        text="The cluster refuses the pod.",
        advice=("The message names the rule; change the execution profile, or the cluster's policy.",),
        retryable=False, patience_seconds=ADMISSION_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_NOT_STARTING", Source.EVENT, "FailedCreate",
        text="The cluster cannot make the pod.", advice=(_PROFILE,), patience_seconds=PLACE_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_VOLUME_UNAVAILABLE", Source.EVENT, "FailedMount|FailedAttachVolume|FailedMapVolume",
        text="A volume cannot be mounted.",
        advice=("Look at what `volumes` of the execution profile names.",),
        patience_seconds=PULL_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_NOT_STARTING", Source.EVENT, "FailedCreatePodSandBox|NetworkNotReady",
        text="The node cannot give the pod a network or a sandbox.", patience_seconds=PULL_PATIENCE_SECONDS,
    ),
    Rule(
        "WORKLOAD_NOT_STARTING", Source.WAITING, "(?!ContainerCreating$|PodInitializing$).+",
        text="The node does not start it.", advice=(_PROFILE,), patience_seconds=PLACE_PATIENCE_SECONDS,
    ),
)  # fmt: skip

VANISHED = "WORKLOAD_VANISHED"
REASONS = frozenset({rule.trouble for rule in (*ENDS, *WAITS)} | {VANISHED})


def diagnose(rules: Sequence[Rule], signs: Sequence[Sign]) -> Trouble | None:
    """What the first rule that fits any sign says; None where nothing is wrong or nothing is known."""
    for rule in rules:
        for sign in signs:
            if rule.matches(sign):
                said = f"{rule.text} {sign.reason}: {sign.message}" if sign.message else f"{rule.text} {sign.reason}."
                return Trouble(
                    rule.trouble,
                    _cut(said.strip()),
                    rule.advice,
                    rule.retryable,
                    rule.blameless,
                    sign.since,
                    rule.patience_seconds,
                )
    return None


def vanished(message: str = "") -> Trouble:
    """The end of which nothing is left but that it is over."""
    text = f"The attempt ended and nobody saw how. {message}".strip()
    return Trouble(VANISHED, _cut(text), ("Read the attempt's log, and the cluster's events if they are young.",))


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_CHARS_MAX else text[: MESSAGE_CHARS_MAX - 1] + "…"
