"""Between the API's messages and this room's own types: deployments."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from feinschliff.inference.canary import CanaryPolicy, Rollback
from feinschliff.inference.deployments import etag_of
from feinschliff.inference.guards.proto import from_guard, to_guards
from feinschliff.inference.life import (
    Deployment,
    EngineName,
    Failure,
    Precision,
    Route,
    RouteState,
    RouteStatus,
    Sampling,
    Spec,
    State,
    TrafficChange,
)
from feinschliff.inference.wishes import from_sampling, read_sampling
from feinschliff.kit.errors import FieldViolation, Unserved
from feinschliff.v1 import common_pb2, inference_pb2

_PRECISIONS: dict[int, Precision] = {
    inference_pb2.Deployment.PRECISION_UNSPECIFIED: "auto",
    inference_pb2.Deployment.PRECISION_AUTO: "auto",
    inference_pb2.Deployment.PRECISION_BF16: "bf16",
    inference_pb2.Deployment.PRECISION_FP32: "fp32",
    inference_pb2.Deployment.PRECISION_INT8: "int8",
}
_ENGINES: dict[int, EngineName] = {
    inference_pb2.Deployment.ENGINE_UNSPECIFIED: "transformers",
    inference_pb2.Deployment.ENGINE_TRANSFORMERS: "transformers",
    inference_pb2.Deployment.ENGINE_VLLM: "vllm",
}
_ON_DEMAND_DEFAULT = 8
_POLICY_CHOICES = (
    "window_seconds",
    "calls_min",
    "errors_max",
    "first_token_ratio_max",
    "next_token_ratio_max",
    "guard_hits_max",
)
_UNSERVED_AS_DEFAULT = ("n", "logprobs", "top_logprobs", "response_format")


class Asked(NamedTuple):
    """A field that this version may not serve, and whether the caller uses it."""

    field: str
    is_used: bool


def refuse_unserved(asked: Iterable[Asked]) -> None:
    """Raises Unserved FIELD_UNSERVED where the caller asks for what the API has and this version has not."""
    used = [one.field for one in asked if one.is_used]
    if used:
        text = "This field is part of the API, but this version does not serve it yet."
        raise Unserved(
            "FIELD_UNSERVED",
            f"Part of the API, but not served by this version: {', '.join(used)}.",
            fields=[FieldViolation(field, text, "FIELD_UNSERVED") for field in used],
            unserved=",".join(used),
        )


def to_defaults(params: common_pb2.SamplingParams, path: str) -> Sampling:
    """How tokens are drawn where a call does not say; what else a call may want only the call can.

    Raises:
        Unserved: FIELD_UNSERVED.
    """
    refuse_unserved(Asked(f"{path}.{name}", _differs(params, name)) for name in _UNSERVED_AS_DEFAULT)
    return read_sampling(params)


def to_spec(message: inference_pb2.Deployment) -> Spec:
    """What a deployment message wants.

    Raises:
        Invalid: REQUEST_INVALID for a guard without a kind.
        Unserved: FIELD_UNSERVED.
    """
    precision = _PRECISIONS.get(message.precision)
    engine = _ENGINES.get(message.engine)
    refuse_unserved(
        Asked(f"deployment.{field}", used)
        for field, used in (
            ("engine", engine is None),
            ("precision", precision is None or (engine == "vllm" and precision == "int8")),
            ("replicas", message.replicas > 1),
            ("resources", message.HasField("resources") and message.resources != inference_pb2.Resources()),
        )
    )
    return Spec(
        base_model=message.base_model,
        routes=tuple(_to_route(route) for route in message.routes),
        engine=engine or "transformers",
        precision=precision or "auto",
        on_demand=message.on_demand,
        on_demand_max=message.on_demand_max or _ON_DEMAND_DEFAULT,
        replicas=message.replicas if message.HasField("replicas") else 1,
        context_tokens=message.context_tokens if message.HasField("context_tokens") else None,
        defaults=to_defaults(message.defaults, "deployment.defaults"),
        guards=to_guards(message.guards, "deployment.guards"),
        display_name=message.display_name,
        refuse_store=message.logging.refuse_store,
        canary=_to_policy(message.canary) if message.HasField("canary") else None,
        requests_max=message.requests_max if message.HasField("requests_max") else None,
        stored_fraction=message.logging.stored_fraction,
        labels=dict(message.labels),
        annotations=dict(message.annotations),
    )


def from_deployment(deployment: Deployment) -> inference_pb2.Deployment:
    spec, status = deployment.spec, deployment.status
    return inference_pb2.Deployment(
        name=deployment.name,
        display_name=spec.display_name or deployment.name.rsplit("/", 1)[1],
        base_model=spec.base_model,
        base_digest=status.base_digest,
        routes=[_from_route(route, status.routes.get(route.id, RouteStatus())) for route in spec.routes],
        on_demand=spec.on_demand,
        on_demand_max=spec.on_demand_max,
        engine=inference_pb2.Deployment.Engine.Value(f"ENGINE_{spec.engine.upper()}"),
        precision=inference_pb2.Deployment.Precision.Value(f"PRECISION_{spec.precision.upper()}"),
        replicas=spec.replicas,
        defaults=from_sampling(spec.defaults),
        guards=[from_guard(guard) for guard in spec.guards],
        logging=_from_logging(spec),
        context_tokens=spec.context_tokens,
        canary=_from_policy(spec.canary),
        traffic_changes=[_from_change(change) for change in status.traffic],
        requests_max=spec.requests_max,
        state=inference_pb2.Deployment.State.Value(f"STATE_{status.state.name}"),
        failure=_from_failure(status.failure),
        ready_replicas=1 if spec.replicas and status.state in (State.READY, State.DEGRADED) else 0,
        labels=spec.labels,
        annotations=spec.annotations,
        create_time=timestamp(deployment.created),
        update_time=timestamp(deployment.updated),
        etag=etag_of(deployment),
    )


def timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _from_logging(spec: Spec) -> inference_pb2.Logging | None:
    said = inference_pb2.Logging(refuse_store=spec.refuse_store, stored_fraction=spec.stored_fraction)
    return said if said != inference_pb2.Logging() else None


def _to_route(message: inference_pb2.Route) -> Route:
    weight = message.weight if message.HasField("weight") else 1.0
    return Route(id=message.id, model_version=message.model_version, weight=weight, shadow=message.shadow)


def _from_route(route: Route, status: RouteStatus) -> inference_pb2.Route:
    is_ready = status.state is RouteState.READY and status.serving is not None
    return inference_pb2.Route(
        id=route.id,
        model_version=route.model_version,
        weight=route.weight,
        shadow=route.shadow,
        resolved_version=status.serving.name if status.serving else "",
        adapter_digest=status.serving.adapter_digest if is_ready and status.serving else "",
        state=inference_pb2.Route.State.Value(f"STATE_{status.state.name}"),
        failure=_from_failure(status.failure),
        rolled_back=_from_rollback(status.rolled_back),
    )


def _to_policy(message: inference_pb2.CanaryPolicy) -> CanaryPolicy:
    given = {field: getattr(message, field) for field in _POLICY_CHOICES if message.HasField(field)}  # type: ignore[arg-type]
    return CanaryPolicy(route=message.route, **given)


def _from_policy(policy: CanaryPolicy | None) -> inference_pb2.CanaryPolicy | None:
    return None if policy is None else inference_pb2.CanaryPolicy(**policy.model_dump())


def _from_change(change: TrafficChange) -> inference_pb2.TrafficChange:
    return inference_pb2.TrafficChange(
        time=timestamp(change.time),
        weights=change.weights,
        reason=change.reason,
        origin=inference_pb2.TrafficChange.Origin.Value(f"ORIGIN_{change.origin.name}"),
    )


def _from_rollback(rollback: Rollback | None) -> inference_pb2.Rollback | None:
    if rollback is None:
        return None
    return inference_pb2.Rollback(cause=rollback.cause.value, reason=rollback.reason, time=timestamp(rollback.time))


def _from_failure(failure: Failure | None) -> common_pb2.Failure | None:
    return None if failure is None else common_pb2.Failure(**failure.model_dump())


def _differs(message: common_pb2.SamplingParams, field: str) -> bool:
    """Whether an optional field is set to something that changes the outcome."""
    if field == "n" and message.HasField("n"):
        return bool(message.n != 1)
    return any(descriptor.name == field for descriptor, _ in message.ListFields())
