"""Which judges may gate: those whose calibration exists, is theirs, and has nothing against them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from feinschliff.graders.spec import Spec
from feinschliff.kit.errors import NotFound, WrongState

JUDGES = ("label_model", "score_model")
_NOT_THE_JUDGE = ("name", "calibration")
"""What may differ between the judge that was calibrated and the one that gates."""


class Credential(NamedTuple):
    """A calibration as gates see it; `against` is what forbids to believe the judge (empty: nothing)."""

    name: str
    is_measured: bool
    grader: Spec
    against: Sequence[str]


class Credentials(Protocol):
    """Calibrations by name."""

    def credential(self, name: str) -> Credential:
        """Raises NotFound CALIBRATION_NOT_FOUND."""
        ...


def judges_in(spec: Spec) -> Iterator[Spec]:
    """The judging models in a grader: itself, or those inside a multi grader, however deep."""
    if spec.get("type") in JUDGES:
        yield spec
    for value in spec.values():
        if isinstance(value, Mapping):
            yield from judges_in(value)


def require_calibrated(specs: Sequence[Spec], credentials: Credentials, *, eval_: str) -> None:
    """Refuses to let a judge decide a release before people have checked it.

    Raises:
        WrongState: JUDGE_NOT_CALIBRATED (none named, unknown, not measured yet, or of another judge) or
            JUDGE_NOT_TRUSTED (its calibration speaks against it).
    """
    for judge in (judge for spec in specs for judge in judges_in(spec)):
        _require(judge, credentials, eval_)


def _require(judge: Spec, credentials: Credentials, eval_: str) -> None:
    name = str(judge.get("calibration") or "")
    who = f"The judge {judge.get('name') or judge.get('model')!r} of {eval_}"
    if not name:
        message = f"{who} names no calibration; compare it with human labels first (CalibrateJudge)."
        raise WrongState("JUDGE_NOT_CALIBRATED", message, eval=eval_)
    message = f"{who} names {name}, which"
    try:
        credential = credentials.credential(name)
    except NotFound as error:
        message += " does not exist."
        raise WrongState("JUDGE_NOT_CALIBRATED", message, eval=eval_, calibration=name) from error
    if not credential.is_measured:
        message += " is not measured yet, or failed."
        raise WrongState("JUDGE_NOT_CALIBRATED", message, eval=eval_, calibration=name)
    if same_judge(credential.grader) != same_judge(judge):
        message += " is the calibration of another judge: its model, words or sampling differ."
        raise WrongState("JUDGE_NOT_CALIBRATED", message, eval=eval_, calibration=name)
    if credential.against:
        message += f" speaks against it: {' '.join(credential.against)}"
        raise WrongState("JUDGE_NOT_TRUSTED", message, eval=eval_, calibration=name)


def same_judge(spec: Spec) -> Mapping[str, object]:
    return {key: value for key, value in spec.items() if key not in _NOT_THE_JUDGE}
