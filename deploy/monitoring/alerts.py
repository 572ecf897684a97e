"""What wakes people, and what waits for the morning: each alert is something that users feel or soon will."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.monitoring.alerts_work import evaluation, ingestion, remembering, serving, training
from deploy.monitoring.promql import either, grown, in_room
from deploy.monitoring.recording import BAD, burn
from deploy.monitoring.rules import Alert, Group
from deploy.monitoring.slo import BAD_EVENTS_MIN, FAST, SLOW, Window

ROOMS = ("gateway", "ingestion", "training", "evaluation", "registry", "inference")
_FAULTS = 'grpc_server_handled_total{grpc_code=~"UNKNOWN|INTERNAL|DATA_LOSS"}'
_HTTP = "feinschliff_gateway_http_requests_total"
_HTTP_FAILED = _HTTP + '{status=~"5xx|none"}'
_TURNS = {  # what each loop that must not stand still counts
    "training": "feinschliff_training_reconcile_seconds",
    "evaluation": "feinschliff_evaluation_reconcile_seconds",
    "inference": "feinschliff_inference_reconcile_seconds",
    "ingestion": "feinschliff_ingestion_cleanup_seconds",
}
_HOURS = {"1h": 1, "6h": 6, "1d": 24, "3d": 72}


def groups() -> list[Group]:
    return [platform(), promises(), ingestion(), training(), evaluation(), serving(), remembering()]


def platform() -> Group:
    return Group("feinschliff-platform", (*_rooms_down(), *_PLATFORM))


def promises() -> Group:
    """Budgets that burn: the only alerts about calls that fail or are slow, whatever the reason."""
    words = "{{ $labels.class }} calls spend their {{ $labels.slo }} budget {{ $value | humanize }} times too fast."
    fast = Alert(
        "ErrorBudgetBurnsFast",
        _burning(FAST),
        "2m",
        "critical",
        words,
        "Users meet errors or waits now; at this rate the month's budget is gone within days.",
    )
    slow = Alert(
        "ErrorBudgetBurnsSlowly",
        _burning(SLOW),
        "15m",
        "warning",
        words,
        "More calls fail or are slow than promised; not many, but for a long time.",
    )
    return Group("feinschliff-promises", (fast, slow))


def _burning(windows: tuple[Window, ...]) -> str:
    """Both times agree: the long one that it matters, the short one that it still goes on."""
    return " or ".join(
        f"({burn(one.long)} > {one.factor:g} and {burn(one.short)} > {one.factor:g}"
        f" and avg_over_time({BAD}[{one.long}]) * {_HOURS[one.long] * 3600} >= {BAD_EVENTS_MIN:g})"
        for one in windows
    )


def _rooms_down() -> Iterator[Alert]:
    for room in ROOMS:
        yield Alert(
            "RoomDown",
            f'absent(feinschliff_room_offloaded_in_flight{{room="{room}"}})',
            "5m",
            "critical",
            f"No copy of {room} shows its metrics.",
            "What this room does, nobody can do: no copy of it runs, or Prometheus cannot reach any.",
            labels={"room": room},
        )


_PLATFORM = (
    Alert(
        "DependencyDown",
        "max by (namespace, room, check) (feinschliff_room_check_healthy) == 0",
        "5m",
        "critical",
        "{{ $labels.check }} does not answer any copy of {{ $labels.room }}.",
        "The room refuses calls with UNAVAILABLE until its database, store or peers answer again.",
    ),
    Alert(
        "RoomRestarts",
        "feinschliff:room_restarts:changes1h > 2",
        "0m",
        "warning",
        "{{ $labels.room }} began anew {{ $value }} times within an hour.",
        "Calls under way are cut each time; a pod that is killed for its memory looks like this.",
    ),
    Alert(
        "InternalErrors",
        f"{grown(_FAULTS, '15m', 'grpc_service', 'grpc_method')} > 4",
        "0m",
        "warning",
        "{{ $labels.grpc_method }} failed {{ $value | humanize }} times within 15 minutes by a fault of the service.",
        "A fault of ours that callers cannot mend; each has an error id in the log.",
    ),
    Alert(
        "CallsRefused",
        "(sum by (namespace, room) (rate(feinschliff_room_refusals_total[10m]))"
        " / on (namespace, room) avg_over_time(feinschliff:room_calls:rate5m[10m])) > 0.3"
        " and on (namespace, room) avg_over_time(feinschliff:room_calls:rate5m[10m]) > 0.1",
        "15m",
        "warning",
        "{{ $labels.room }} refuses {{ $value | humanizePercentage }} of its calls.",
        "Some client asks in vain again and again: a wrong key, a model that is not there, full queues.",
    ),
    Alert(
        "LoopFailing",
        f"{grown('feinschliff_room_loop_errors_total', '10m', 'room', 'loop')} > 2",
        "5m",
        "warning",
        "The loop {{ $labels.loop }} of {{ $labels.room }} fails again and again.",
        "What the room does by itself - starting jobs, loading models, cleaning up - comes late or not at all.",
    ),
    Alert(
        "LoopStalled",
        either(*(f"{in_room(room, grown(f'{turns}_count', '10m'))} == 0" for room, turns in _TURNS.items())),
        "5m",
        "critical",
        "The loop of {{ $labels.room }} has not ended a turn for 10 minutes.",
        "Nothing new starts in this room and nothing ends, although it answers calls.",
    ),
    Alert(
        "GatewayErrors",
        f"{grown(_HTTP_FAILED, '5m')} / {grown(_HTTP, '5m')} > 0.1 and {grown(_HTTP_FAILED, '5m')} > 4",
        "5m",
        "critical",
        "{{ $value | humanizePercentage }} of the HTTP requests end with 5xx.",
        "Applications that use the OpenAI API get errors.",
    ),
    Alert(
        "DataVolumeFills",
        "min by (namespace, persistentvolumeclaim)"
        " (kubelet_volume_stats_available_bytes / kubelet_volume_stats_capacity_bytes) < 0.1",
        "15m",
        "warning",
        "The volume {{ $labels.persistentvolumeclaim }} has {{ $value | humanizePercentage }} of its room left.",
        "A full volume of the database or of the store stops uploads, checkpoints and every write.",
        silent="needs the kubelet's metrics of a cluster",
    ),
)
