"""What the failure of a call means for a run: wait, try again, or give the item up."""

from __future__ import annotations

import re
from enum import Enum

import grpc

from feinschliff.formats.report import Failure
from feinschliff.kit.errors import Refusal

PAUSE_FIRST_SECONDS = 0.2
PAUSE_LONGEST_SECONDS = 5.0
NOT_LOADED_SECONDS = 60.0


class Fate(Enum):
    """`WAIT`: it passes by itself, as long as patience lasts. `RETRY`: a few times. `GIVE_UP`: it stays as it is."""

    WAIT = "wait"
    RETRY = "retry"
    GIVE_UP = "give_up"


_REASON = re.compile("[A-Z][A-Z0-9_]+")
_BY_REASON = {"MODEL_NOT_LOADED": Fate.WAIT, "MODEL_LOADING": Fate.WAIT}
_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: Fate.WAIT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Fate.WAIT,
    grpc.StatusCode.ABORTED: Fate.WAIT,
    grpc.StatusCode.DEADLINE_EXCEEDED: Fate.RETRY,
    grpc.StatusCode.CANCELLED: Fate.RETRY,
    grpc.StatusCode.INTERNAL: Fate.RETRY,
}


def fate_of(refusal: Refusal) -> Fate:
    """By reason first, then by code; what is not known here is the request's own fault and will not change."""
    return _BY_REASON.get(refusal.reason) or _BY_CODE.get(refusal.code, Fate.GIVE_UP)


def patience_with(refusal: Refusal, seconds: float) -> float:
    """How much of `seconds` is worth waiting: nobody deploys a model by itself, so less for one that is not loaded."""
    return min(seconds, NOT_LOADED_SECONDS) if refusal.reason == "MODEL_NOT_LOADED" else seconds


def failure_of(refusal: Refusal) -> Failure:
    """The refusal as it is stored with an item or a run."""
    return Failure(
        reason=refusal.reason if _REASON.fullmatch(refusal.reason) else "STATUS_WITHOUT_REASON",
        message=refusal.message[:4096],
        advice=list(refusal.advice),
        retryable=fate_of(refusal) is not Fate.GIVE_UP,
    )


def pause_seconds(refusal: Refusal, attempt: int) -> float:
    """How long to wait before the next try: what the refusal asks for, else longer each time; 5 s at most."""
    wanted = refusal.retry_after_seconds
    if wanted is None:
        wanted = PAUSE_FIRST_SECONDS * 2 ** min(attempt, 10)
    return min(max(wanted, 0.01), PAUSE_LONGEST_SECONDS)
