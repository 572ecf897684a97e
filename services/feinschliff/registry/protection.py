"""What moves a protected alias: a passed verdict, of the gate that the alias names, against what it points to; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from feinschliff.kit import names
from feinschliff.kit.errors import FieldViolation, Invalid, WrongState

PROJECT = "projects/{project}"
GATE = PROJECT + "/gatePolicies/{gate_policy}"
ALIAS_ID = "projects/p/models/m/aliases/{alias}"
ALIASES_MAX = 32


class VerdictSeen(NamedTuple):
    """A gate's verdict as evaluation tells it.

    Args:
        state: `passed`, `refused`, `failed` or `running`.
        candidate: the version that it is about.
        is_current: whether its gate still demands the same.
        baseline: version or base that it compared with.
        compares: whether any of its rules needed the baseline.
    """

    state: str
    candidate: str
    is_current: bool = True
    baseline: str = ""
    compares: bool = False


class Binding(NamedTuple):
    """What an alias asks of a verdict at this moment.

    Args:
        gate: the gate that must speak; empty: any gate of the project, against whatever it liked.
        baseline: what the version must have been compared with.
    """

    gate: str
    baseline: str

    def advice(self, model_version: str) -> list[str]:
        if not self.gate:
            return ["Measure the version with EvaluateGate, and name the verdict in the alias."]
        return [
            f"Evaluate {self.gate} for {model_version} with the baseline {self.baseline}, "
            "and name that verdict in the alias."
        ]


def check_model(project: str, protected: list[str], gates: Mapping[str, str]) -> None:
    """Raises Invalid NAME_MALFORMED, ALIASES_TOO_MANY or ALIAS_GATE_FOREIGN."""
    if len({*protected, *gates}) > ALIASES_MAX:
        message = f"A model has at most {ALIASES_MAX} protected aliases; these are {len({*protected, *gates})}."
        raise _wrong("ALIASES_TOO_MANY", "model.protected_aliases", message, count=len({*protected, *gates}))
    for alias, gate in gates.items():
        field = f"model.alias_gates[{alias}]"
        names.parse(ALIAS_ID, ALIAS_ID.format(alias=alias), field=field)
        if names.build(PROJECT, project=names.parse(GATE, gate, field=field)["project"]) != project:
            message = f"{gate} is a gate of another project than the model's, {project}."
            raise _wrong("ALIAS_GATE_FOREIGN", field, message, gate=gate)


def check_passed(verdict: str, model_version: str, seen: VerdictSeen) -> None:
    """Raises Invalid VERDICT_OF_ANOTHER_VERSION, WrongState VERDICT_NOT_PASSED or VERDICT_OUTDATED."""
    if seen.candidate != model_version:
        message = f"{verdict} is about {seen.candidate}, not about {model_version}."
        raise _wrong("VERDICT_OF_ANOTHER_VERSION", "alias.verdict", message, candidate=seen.candidate)
    if seen.state != "passed":
        message = f"{verdict} is {seen.state}; only a passed one moves an alias."
        raise WrongState("VERDICT_NOT_PASSED", message, verdict=verdict, state=seen.state)
    if not seen.is_current:
        message = f"The gate of {verdict} was changed or removed since; evaluate the gate as it is now."
        raise WrongState("VERDICT_OUTDATED", message, verdict=verdict)


def check_bound(verdict: str, model_version: str, seen: VerdictSeen, binding: Binding) -> None:
    """Raises WrongState VERDICT_OF_ANOTHER_GATE or VERDICT_OF_ANOTHER_BASELINE."""
    if not binding.gate:
        return
    advice = binding.advice(model_version)
    gate = verdict.partition("/verdicts/")[0]
    if gate != binding.gate:
        message = f"The alias needs a verdict of {binding.gate}; {verdict} is one of {gate}."
        raise WrongState("VERDICT_OF_ANOTHER_GATE", message, advice=advice, gate=binding.gate, verdict=verdict)
    if seen.compares and seen.baseline != binding.baseline:
        message = (
            f"{verdict} compares with {seen.baseline}; {binding.gate} must compare with {binding.baseline}, "
            "which is what the alias stands for now."
        )
        values: dict[str, Any] = {"gate": binding.gate, "baseline": binding.baseline, "compared_with": seen.baseline}
        raise WrongState("VERDICT_OF_ANOTHER_BASELINE", message, advice=advice, verdict=verdict, **values)


def _wrong(reason: str, field: str, message: str, **values: Any) -> Invalid:
    return Invalid(reason, message, fields=[FieldViolation(field, message, reason)], **values)
