"""Between the API's messages and this room's own types: guards and what they found."""

from __future__ import annotations

from collections.abc import Sequence

from feinschliff.detectors.personal import UNSERVED_KINDS
from feinschliff.inference.guards.findings import Finding
from feinschliff.inference.guards.guard import (
    Action,
    Guard,
    Injection,
    Kind,
    Model,
    Patterns,
    PersonalData,
    Secrets,
    Size,
    Stage,
    Topic,
    Topics,
    Words,
)
from feinschliff.kit.errors import FieldViolation, Invalid, Unserved
from feinschliff.v1 import inference_pb2 as pb

_ACTIONS = {
    pb.Guard.ACTION_UNSPECIFIED: Action.BLOCK,
    pb.Guard.ACTION_LOG: Action.LOG,
    pb.Guard.ACTION_MASK: Action.MASK,
    pb.Guard.ACTION_BLOCK: Action.BLOCK,
}
_BOTH = frozenset({Stage.INPUT, Stage.OUTPUT})
_STAGES = {
    pb.Guard.STAGE_UNSPECIFIED: _BOTH,
    pb.Guard.STAGE_BOTH: _BOTH,
    pb.Guard.STAGE_INPUT: frozenset({Stage.INPUT}),
    pb.Guard.STAGE_OUTPUT: frozenset({Stage.OUTPUT}),
}
_STAGE_OF = {stages: number for number, stages in _STAGES.items() if number != pb.Guard.STAGE_UNSPECIFIED}


def to_guards(messages: Sequence[pb.Guard], path: str) -> tuple[Guard, ...]:
    """Guards as callers write them.

    Raises:
        Invalid: REQUEST_INVALID for a guard without a kind, and for actions and stages that this version does not know.
        Unserved: FIELD_UNSERVED for kinds of personal data that a rule cannot know.
    """
    wrong = [violation for place, one in enumerate(messages) for violation in _unreadable(one, f"{path}[{place}]")]
    if wrong:
        raise Invalid("REQUEST_INVALID", " ".join(one.description for one in wrong[:5]), fields=wrong)
    _refuse_names(messages, path)
    return tuple(_to_guard(message) for message in messages)


def from_guard(guard: Guard) -> pb.Guard:
    message = pb.Guard(
        name=guard.name,
        action=pb.Guard.Action.Value(f"ACTION_{guard.action.name}"),
        stage=_STAGE_OF[guard.stages],
        may_be_skipped=guard.may_be_skipped,
    )
    match guard.of:
        case Patterns() as of:
            message.pattern.patterns.extend(of.patterns)
        case PersonalData() as of:
            message.personal_data.kinds.extend(of.kinds)
        case Secrets() as of:
            message.secrets.CopyFrom(pb.SecretsGuard(kinds=of.kinds))
        case Injection() as of:
            message.injection.CopyFrom(pb.InjectionGuard(sets=of.sets))
        case Words() as of:
            message.words.CopyFrom(pb.WordsGuard(words=of.words, lists=of.lists))
        case Topics() as of:
            deny, allow = ([pb.Topic(name=one.name, words=one.words) for one in side] for side in (of.deny, of.allow))
            message.topics.CopyFrom(pb.TopicGuard(deny=deny, allow=allow))
        case Size() as of:
            message.size.characters_max = of.characters_max
        case Model() as of:
            message.model.CopyFrom(pb.ModelGuard(model=of.model, labels=of.labels, threshold=of.threshold))
    return message


def from_finding(finding: Finding) -> pb.GuardResult:
    return pb.GuardResult(
        guard=finding.guard.name,
        triggered=finding.triggered,
        action=pb.Guard.Action.Value(f"ACTION_{finding.guard.action.name}"),
        scores=finding.scores,
        text=finding.text,
    )


def _unreadable(message: pb.Guard, path: str) -> list[FieldViolation]:
    wrong = []
    if message.WhichOneof("kind") is None:
        wrong.append(FieldViolation(path, "A guard must be of a kind, such as `pattern`.", "FIELD_MISSING"))
    for field, number, known in (("action", message.action, _ACTIONS), ("stage", message.stage, _STAGES)):
        if number not in known:
            wrong.append(FieldViolation(f"{path}.{field}", f"There is no {field} {number}.", "OUT_OF_RANGE"))
    return wrong


def _refuse_names(messages: Sequence[pb.Guard], path: str) -> None:
    text = "Names and postal addresses have no form that a rule could know; it takes a model that recognises them."
    fields = [
        FieldViolation(f"{path}[{i}].personal_data.kinds[{k}]", text, "FIELD_UNSERVED")
        for i, message in enumerate(messages)
        for k, kind in enumerate(message.personal_data.kinds)
        if kind in UNSERVED_KINDS
    ]
    if fields:
        used = ",".join(field.field for field in fields)
        advice = ["Put a guard of kind `model` with such a model in its place."]
        raise Unserved("FIELD_UNSERVED", text, fields=fields, advice=advice, unserved=used)


def _to_guard(message: pb.Guard) -> Guard:
    return Guard(
        name=message.name,
        of=_to_kind(message),
        action=_ACTIONS[message.action],
        stages=_STAGES[message.stage],
        may_be_skipped=message.may_be_skipped,
    )


def _to_kind(message: pb.Guard) -> Kind:
    match message.WhichOneof("kind"):
        case "pattern":
            return Patterns(patterns=tuple(message.pattern.patterns))
        case "personal_data":
            return PersonalData(kinds=tuple(message.personal_data.kinds))
        case "secrets":
            return Secrets(kinds=tuple(message.secrets.kinds))
        case "injection":
            return Injection(sets=tuple(message.injection.sets))
        case "words":
            return Words(words=tuple(message.words.words), lists=tuple(message.words.lists))
        case "topics":
            deny, allow = (
                tuple(Topic(name=one.name, words=tuple(one.words)) for one in side)
                for side in (message.topics.deny, message.topics.allow)
            )
            return Topics(deny=deny, allow=allow)
        case "size":
            return Size(characters_max=message.size.characters_max)
    of = message.model
    threshold = of.threshold if of.HasField("threshold") else 0.5
    return Model(model=of.model, labels=tuple(of.labels), threshold=threshold)
