"""What Prometheus works out beforehand: rooms, the objectives' good and bad calls, and how fast their budgets burn."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.monitoring.rules import Group, Recorded
from deploy.monitoring.slo import CLASSES, FAST, SLOW, Class, Latency, methods_of

EVENTS, BAD, BUDGET = (
    "feinschliff:slo_events:rate5m",
    "feinschliff:slo_bad_events:rate5m",
    "feinschliff:slo_budget:ratio",
)
HTTP_BUDGET = 0.005
OURS = 'grpc_service=~"feinschliff.*|inference.*"'
IN_ROOM = "* on (namespace, instance) group_left (room) (0 * feinschliff_room_offloaded_in_flight + 1)"
"""Puts the room's name to a number of its process, where only the target is known."""


def burn(window: str) -> str:
    """The series of how many times faster than allowed a budget was spent over a window."""
    return f"feinschliff:slo_burn_rate:{window}"


def rooms() -> Group:
    """Numbers by room, whatever its pods are called."""
    return Group(
        "feinschliff-rooms",
        (
            Recorded(
                "feinschliff:room_copies:count", "count by (namespace, room) (feinschliff_room_offloaded_in_flight)"
            ),
            Recorded(
                "feinschliff:room_memory_bytes:sum",
                f"sum by (namespace, room) (process_resident_memory_bytes {IN_ROOM})",
            ),
            Recorded(
                "feinschliff:room_cpu_seconds:rate5m",
                f"sum by (namespace, room) (rate(process_cpu_seconds_total[5m]) {IN_ROOM})",
            ),
            Recorded(
                "feinschliff:room_restarts:changes1h",
                f"sum by (namespace, room) (changes(process_start_time_seconds[1h]) {IN_ROOM})",
            ),
            Recorded(
                "feinschliff:room_calls:rate5m",
                f"sum by (namespace, room) (rate(grpc_server_handled_total{{{OURS}}}[5m]) {IN_ROOM})",
            ),
        ),
    )


def objectives() -> Group:
    """Events, bad events and budgets of each class, then burn rates over all of them."""
    windows = sorted({name for one in (*FAST, *SLOW) for name in (one.long, one.short)})
    burning = [
        Recorded(
            burn(window),
            f"sum_over_time({BAD}[{window}]) / (sum_over_time({EVENTS}[{window}]) > 0) / {BUDGET}",
        )
        for window in windows
    ]
    return Group("feinschliff-objectives", (*_objectives(), *burning))


def _objectives() -> Iterator[Recorded]:
    for name, one in CLASSES.items():
        yield from _promised(name, "availability", 1 - one.available, _handled(name), _broken(name, one))
        if one.latency is not None:
            yield from _promised(
                name, "latency", 1 - one.latency.share, _timed(name, one.latency), _late(name, one.latency)
            )
    requests = "sum by (namespace) (rate(feinschliff_gateway_http_requests_total[5m]))"
    failed = 'sum by (namespace) (rate(feinschliff_gateway_http_requests_total{status=~"5xx|none"}[5m]))'
    yield from _promised("http", "availability", HTTP_BUDGET, requests, f"({failed}) or 0 * ({requests})")


def _promised(name: str, slo: str, budget: float, events: str, bad: str) -> Iterator[Recorded]:
    labels = {"class": name, "slo": slo}
    yield Recorded(EVENTS, events, labels)
    yield Recorded(BAD, bad, labels)
    chosen = f'{EVENTS}{{class="{name}",slo="{slo}"}}'
    yield Recorded(BUDGET, f"0 * {chosen} + {budget:.4g}", labels)


def _handled(name: str, more: str = "") -> str:
    return f'sum by (namespace) (rate(grpc_server_handled_total{{grpc_method=~"{_any(methods_of(name))}"{more}}}[5m]))'


def _broken(name: str, one: Class) -> str:
    bad = f"({_handled(name, f',grpc_code=~{_quoted(one.bad_codes)}')}) or 0 * ({_handled(name)})"
    if not one.excused:
        return bad
    refused = f'feinschliff_room_refusals_total{{room="inference",reason=~{_quoted(one.excused)}}}'
    excused = f"sum by (namespace) (rate({refused}[5m]))"
    return f"clamp_min(({bad}) - (({excused}) or 0 * ({_handled(name)})), 0)"


def _timed(name: str, latency: Latency) -> str:
    return f"sum by (namespace) (rate({latency.histogram}_count{_of(name, latency)}[5m]))"


def _late(name: str, latency: Latency) -> str:
    bound = f'le=~"{latency.seconds:g}([.]0)?"'
    in_time = f"{latency.histogram}_bucket{_of(name, latency, bound)}"
    return f"{_timed(name, latency)} - sum by (namespace) (rate({in_time}[5m]))"


def _of(name: str, latency: Latency, *more: str) -> str:
    methods = [f'grpc_method=~"{_any(methods_of(name))}"'] if latency.histogram.startswith("grpc_") else []
    inside = ",".join([*methods, *more])
    return f"{{{inside}}}" if inside else ""


def _any(names: tuple[str, ...] | list[str]) -> str:
    return "|".join(names)


def _quoted(names: tuple[str, ...]) -> str:
    return f'"{_any(names)}"'
