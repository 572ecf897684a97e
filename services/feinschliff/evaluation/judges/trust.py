"""Which judges may gate: those whose calibration exists, is theirs, and has nothing against them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from feinschliff.graders.grade import Judgement
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
    identity: Mapping[str, str] | None = None


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


class JudgeKey(NamedTuple):
    """Judgements are told apart by the eval's grader and by the model that was asked."""

    grader: str
    model: str


Calibrated = Mapping[JudgeKey, Sequence[Mapping[str, str]]]
"""Which model each judge was as people checked it."""


def calibrated(specs: Sequence[Spec], credentials: Credentials) -> Calibrated:
    """Raises NotFound CALIBRATION_NOT_FOUND."""
    known: dict[JudgeKey, list[Mapping[str, str]]] = {}
    for spec in specs:
        for judge in judges_in(spec):
            credential = credentials.credential(str(judge.get("calibration") or ""))
            known.setdefault(JudgeKey(str(spec["name"]), str(judge["model"])), []).append(credential.identity or {})
    return known


def check_judgements(known: Calibrated, given: Iterable[tuple[str, Judgement]]) -> str:
    """Why the judgements are not those of the judges that people checked; empty: they are.

    The same words may reach another model once a name points elsewhere. A judge that gave no answer is nobody.
    """
    for grader, judgement in given:
        wanted = known.get(JudgeKey(grader, judgement.model))
        if wanted is None or not (judgement.identity or judgement.answer):
            continue
        if any(dict(judgement.identity) != dict(identity) for identity in wanted):
            who = judgement.identity.get("model_version") or "An unnamed model"
            calibrated_as = wanted[0].get("model_version") or "an unnamed model"
            return f"{who} judged for {grader}; people checked {calibrated_as}, or another state of it."
    return ""


def same_judge(spec: Spec) -> Mapping[str, object]:
    return {key: value for key, value in spec.items() if key not in _NOT_THE_JUDGE}
