"""For each alert: numbers at which it fires, what it then says, and numbers close by at which it stays silent.

Values are promtool's: one a minute, `0+6x90` grows by 6 ninety times, `5x30` stays, `_` is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Series = Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """`fires` and every one of `calm` are looked at after the same time."""

    alert: str
    after: str
    fires: Series
    says: str
    calm: tuple[Series, ...]
    labels: Mapping[str, str] = field(default_factory=dict)


def series(name: str, **labels: str) -> str:
    inside = ",".join(f'{key}="{value}"' for key, value in {"namespace": "feinschliff", **labels}.items())
    return f"{name}{{{inside}}}"


def room_up(room: str, values: str = "1x800", *, instance: str = "") -> Series:
    return {series("feinschliff_room_offloaded_in_flight", room=room, instance=instance or room): values}


def handled(
    method: str, code: str, values: str, *, service: str = "RegistryService", instance: str = "registry"
) -> Series:
    full = f"feinschliff.v1.{service}"
    name = "grpc_server_handled_total"
    return {series(name, grpc_service=full, grpc_method=method, grpc_code=code, instance=instance): values}


def http(status: str, values: str) -> Series:
    return {series("feinschliff_gateway_http_requests_total", route="/v1/models", method="GET", status=status): values}


def refused(room: str, values: str) -> Series:
    return {series("feinschliff_room_refusals_total", room=room, reason="MODEL_NOT_FOUND"): values}


def one(name: str, values: str, **labels: str) -> Series:
    return {series(f"feinschliff_{name}", **labels): values}


_OTHERS = {
    **room_up("gateway"),
    **room_up("ingestion"),
    **room_up("evaluation"),
    **room_up("registry"),
    **room_up("inference"),
}

PLATFORM = (
    Case(
        "RoomDown",
        "10m",
        {**_OTHERS, **room_up("training", "1 stale _x20")},
        "No copy of training shows its metrics.",
        (
            {**_OTHERS, **room_up("training", "1x3 stale _x3 1x20")},  # a rollout
            {**_OTHERS, **room_up("training", "1 stale _x20"), **room_up("training", instance="second")},
        ),
        {"room": "training"},
    ),
    Case(
        "DependencyDown",
        "8m",
        one("room_check_healthy", "0x20", room="training", check="database"),
        "database does not answer any copy of training.",
        (
            one("room_check_healthy", "1x3 0x4 1x20", room="training", check="database"),
            {
                **one("room_check_healthy", "0x20", room="training", check="database", instance="a"),
                **one("room_check_healthy", "1x20", room="training", check="database", instance="b"),
            },
        ),
        {"room": "training", "check": "database"},
    ),
    Case(
        "RoomRestarts",
        "20m",
        {**room_up("inference"), series("process_start_time_seconds", instance="inference"): "0 90 180 270x20"},
        "inference began anew 3 times within an hour.",
        ({**room_up("inference"), series("process_start_time_seconds", instance="inference"): "0 90x20"},),
        {"room": "inference"},
    ),
    Case(
        "InternalErrors",
        "16m",
        handled("GetModel", "INTERNAL", "0+1x20"),
        "GetModel failed 15 times within 15 minutes by a fault of the service.",
        (
            handled("GetModel", "NOT_FOUND", "0+100x20"),
            handled("GetModel", "INTERNAL", "0 0 0 1 2x20"),
        ),
        {"grpc_service": "feinschliff.v1.RegistryService", "grpc_method": "GetModel"},
    ),
    Case(
        "CallsRefused",
        "40m",
        {**room_up("registry"), **handled("GetModel", "OK", "0+60x60"), **refused("registry", "0+30x60")},
        "registry refuses 50% of its calls.",
        (
            {**room_up("registry"), **handled("GetModel", "OK", "0+60x60"), **refused("registry", "0+6x60")},
            {**room_up("registry"), **handled("GetModel", "OK", "0+1x60"), **refused("registry", "0+1x60")},
        ),
        {"room": "registry"},
    ),
    Case(
        "LoopFailing",
        "12m",
        one("room_loop_errors_total", "0+1x20", room="training", loop="reconcile"),
        "The loop reconcile of training fails again and again.",
        (one("room_loop_errors_total", "0 1x20", room="training", loop="reconcile"),),
        {"room": "training", "loop": "reconcile"},
    ),
    Case(
        "LoopStalled",
        "20m",
        {
            **one("evaluation_reconcile_seconds_count", "0+9x3 27x30"),
            **one("training_reconcile_seconds_count", "0+9x30"),
        },
        "The loop of evaluation has not ended a turn for 10 minutes.",
        (
            {**one("evaluation_reconcile_seconds_count", "0+9x30"), **one("ingestion_cleanup_seconds_count", "0+2x30")},
            {},
        ),
        {"room": "evaluation"},
    ),
    Case(
        "GatewayErrors",
        "15m",
        {**http("2xx", "0+70x30"), **http("5xx", "0+30x30")},
        "30% of the HTTP requests end with 5xx.",
        (
            {**http("2xx", "0+70x30"), **http("4xx", "0+90x30"), **http("5xx", "0+1x30")},
            {**http("2xx", "0+1x30"), **http("5xx", "0 0 0 0 0 1 2x30")},
        ),
    ),
    Case(
        "DataVolumeFills",
        "20m",
        {
            series("kubelet_volume_stats_available_bytes", persistentvolumeclaim="data"): "5x30",
            series("kubelet_volume_stats_capacity_bytes", persistentvolumeclaim="data"): "100x30",
        },
        "The volume data has 5% of its room left.",
        (
            {
                series("kubelet_volume_stats_available_bytes", persistentvolumeclaim="data"): "20x30",
                series("kubelet_volume_stats_capacity_bytes", persistentvolumeclaim="data"): "100x30",
            },
        ),
        {"persistentvolumeclaim": "data"},
    ),
)


def first_tokens(count: str, in_time: str) -> Series:
    name = "feinschliff_inference_first_token_seconds"
    return {series(f"{name}_count"): count, series(f"{name}_bucket", le="3.0"): in_time}


PROMISES = (
    Case(
        "ErrorBudgetBurnsFast",
        "70m",
        {**handled("GetModel", "OK", "0+57x90"), **handled("GetModel", "UNAVAILABLE", "0+3x90")},
        "read calls spend their availability budget 50 times too fast.",
        (
            {**handled("GetModel", "OK", "0+1x90"), **handled("GetModel", "UNAVAILABLE", "0x40 1x50")},  # one, at night
            {**handled("GetModel", "OK", "0+57x90"), **handled("GetModel", "UNAVAILABLE", "0+3x40 120x50")},  # over
            {**handled("GetModel", "OK", "0+57x90"), **handled("GetModel", "NOT_FOUND", "0+50x90")},  # the caller's
        ),
        {"class": "read", "slo": "availability"},
    ),
    Case(
        "ErrorBudgetBurnsFast",
        "70m",
        first_tokens("0+60x90", "0+30x90"),
        "generation calls spend their latency budget 10 times too fast.",
        (first_tokens("0+60x90", "0+58x90"),),
        {"class": "generation", "slo": "latency"},
    ),
    Case(
        "ErrorBudgetBurnsFast",
        "70m",
        {**http("2xx", "0+45x90"), **http("5xx", "0+5x90")},
        "http calls spend their availability budget 20 times too fast.",
        ({**http("2xx", "0+45x90"), **http("4xx", "0+30x90")},),
        {"class": "http", "slo": "availability"},
    ),
    Case(
        "ErrorBudgetBurnsSlowly",
        "140m",
        {**handled("GetModel", "OK", "0+996x300"), **handled("GetModel", "INTERNAL", "0+4x300")},
        "read calls spend their availability budget 4 times too fast.",
        (
            {**handled("GetModel", "OK", "0+2000x300"), **handled("GetModel", "INTERNAL", "0+1x300")},
            {
                **handled("Chat", "OK", "0+90x300", service="InferenceService"),
                **handled("Chat", "UNAVAILABLE", "0+10x300", service="InferenceService"),
                series("feinschliff_room_refusals_total", room="inference", reason="MODEL_LOADING"): "0+10x300",
            },
        ),
        {"class": "read", "slo": "availability"},
    ),
)
