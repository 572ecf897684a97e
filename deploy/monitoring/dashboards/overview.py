"""Is it up, is it fast, what runs: the first page that an operator opens."""

from __future__ import annotations

from deploy.monitoring.panels import (
    NEEDS_KUBELET,
    NEEDS_TROUBLE,
    Dashboard,
    Level,
    Panel,
    Query,
    Row,
)
from deploy.monitoring.promql import quantile, rate

OURS = 'grpc_service=~"feinschliff.*|inference.*"'
_BURNING = (Level(1, "orange"), Level(6, "red"))

OVERVIEW = Dashboard(
    uid="feinschliff-overview",
    title="Feinschliff / Overview",
    asks="Is it up, is it fast, and what runs?",
    rows=(
        Row(
            "Is it up?",
            (
                Panel(
                    "Copies of each room",
                    "Is every room there? One that is missing here is down, or Prometheus does not reach it.",
                    "number",
                    (Query("sum by (room) (feinschliff:room_copies:count)", "{{room}}"),),
                    kind="stat",
                    width=12,
                    height=5,
                ),
                Panel(
                    "Alerts",
                    "What are people being told?",
                    "number",
                    (Query('count by (alertname, severity) (ALERTS{alertstate="firing"})', "{{alertname}}"),),
                    kind="stat",
                    width=12,
                    height=5,
                    silent=NEEDS_TROUBLE,
                    levels=(Level(1, "red"),),
                ),
                Panel(
                    "Dependencies",
                    "Do database, store and peers answer? A room without its dependencies refuses calls.",
                    "yes/no",
                    (Query("max by (room, check) (feinschliff_room_check_healthy)", "{{room}} {{check}}"),),
                    width=8,
                    highest=1,
                ),
                Panel(
                    "Budgets burn",
                    "Do we keep our promises? At 1 the error budget of 30 days lasts 30 days, at 14 two days.",
                    "times",
                    (Query("max by (class, slo) (feinschliff:slo_burn_rate:1h)", "{{class}} {{slo}}"),),
                    width=8,
                    levels=_BURNING,
                ),
                Panel(
                    "Budget spent in 3 days",
                    "What is left of the promises? A tenth of the month's budget is what 3 days may take.",
                    "share",
                    (Query("max by (class, slo) (feinschliff:slo_burn_rate:3d) / 10", "{{class}} {{slo}}"),),
                    kind="stat",
                    width=8,
                    levels=(Level(0.1, "orange"), Level(0.5, "red")),
                ),
            ),
        ),
        Row(
            "Is it fast?",
            (
                Panel(
                    "Calls",
                    "How much is asked of each service?",
                    "calls/s",
                    (Query(rate(f"grpc_server_handled_total{{{OURS}}}", "grpc_service"), "{{grpc_service}}"),),
                    stacked=True,
                ),
                Panel(
                    "How calls end",
                    "Do calls end well? INTERNAL is our fault, UNAVAILABLE a dependency's, the rest the caller's.",
                    "calls/s",
                    (Query(rate(f"grpc_server_handled_total{{{OURS}}}", "grpc_code"), "{{grpc_code}}"),),
                    stacked=True,
                ),
                Panel(
                    "Slowest calls, 95 %",
                    "Which calls are slow? Uploads and answers of models take as long as they are big.",
                    "seconds",
                    (
                        Query(
                            f"topk(10, {quantile(0.95, f'grpc_server_handling_seconds{{{OURS}}}', 'grpc_method')})",
                            "{{grpc_method}}",
                        ),
                    ),
                ),
                Panel(
                    "HTTP requests",
                    "What do applications ask of the gateway, and do they get it?",
                    "calls/s",
                    (
                        Query(
                            rate("feinschliff_gateway_http_requests_total", "route", "status"), "{{route}} {{status}}"
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "HTTP, 95 %",
                    "How long do applications wait? Streams count until their last byte.",
                    "seconds",
                    (Query(quantile(0.95, "feinschliff_gateway_http_request_seconds", "route"), "{{route}}"),),
                ),
                Panel(
                    "Refusals",
                    "Why are calls refused? docs/errors.md explains each reason.",
                    "calls/s",
                    (
                        Query(
                            f"topk(10, {rate('feinschliff_room_refusals_total', 'room', 'reason')})",
                            "{{room}} {{reason}}",
                        ),
                    ),
                ),
                Panel(
                    "Calls between services",
                    "Do the rooms reach each other?",
                    "calls/s",
                    (
                        Query(
                            rate("grpc_client_handled_total", "grpc_method", "grpc_code"),
                            "{{grpc_method}} {{grpc_code}}",
                        ),
                    ),
                ),
                Panel(
                    "Calls between services, 95 %",
                    "Does a room wait for another one?",
                    "seconds",
                    (Query(quantile(0.95, "grpc_client_handling_seconds", "grpc_service"), "{{grpc_service}}"),),
                ),
                Panel(
                    "Messages",
                    "How much flows in streams?",
                    "per second",
                    (
                        Query(rate(f"grpc_server_msg_received_total{{{OURS}}}"), "received"),
                        Query(rate(f"grpc_server_msg_sent_total{{{OURS}}}"), "sent"),
                    ),
                ),
            ),
        ),
        Row(
            "What runs?",
            (
                Panel(
                    "Work under way",
                    "What is the platform doing?",
                    "count",
                    (
                        Query("sum(feinschliff_ingestion_uploads_in_flight)", "uploads"),
                        Query("sum(feinschliff_training_attempts_in_flight)", "attempts of jobs"),
                        Query("sum(feinschliff_evaluation_items_in_flight)", "items of evaluations"),
                        Query("sum(feinschliff_inference_requests_in_flight)", "answers of models"),
                        Query("sum(feinschliff_gateway_http_requests_in_flight)", "HTTP requests"),
                    ),
                ),
                Panel(
                    "Calls under way",
                    "Which services have calls that do not end? Watches stand as long as somebody watches.",
                    "count",
                    (
                        Query(
                            f"sum by (grpc_service) (grpc_server_started_total{{{OURS}}})"
                            f" - sum by (grpc_service) (grpc_server_handled_total{{{OURS}}})",
                            "{{grpc_service}}",
                        ),
                        Query("sum(grpc_client_started_total) - sum(grpc_client_handled_total)", "between services"),
                    ),
                ),
                Panel(
                    "What exists",
                    "How much is there?",
                    "count",
                    (
                        Query('max(feinschliff_ingestion_versions{state="READY"})', "dataset versions"),
                        Query("max(feinschliff_registry_models)", "models"),
                        Query('max(feinschliff_inference_deployments{state="ready"})', "deployments"),
                    ),
                    kind="stat",
                ),
            ),
        ),
        Row(
            "What does it take?",
            (
                Panel(
                    "Memory",
                    "Which room grows? Rooms in one pod show the same process, each all of it.",
                    "bytes",
                    (Query("sum by (room) (feinschliff:room_memory_bytes:sum)", "{{room}}"),),
                ),
                Panel(
                    "CPU",
                    "Which room works? 1 is one core.",
                    "number",
                    (Query("sum by (room) (feinschliff:room_cpu_seconds:rate5m)", "{{room}}"),),
                ),
                Panel(
                    "Calls in worker threads",
                    "Do calls queue for threads? A number that stays high means a slow database or store.",
                    "count",
                    (Query("sum by (room) (feinschliff_room_offloaded_in_flight)", "{{room}}"),),
                ),
                Panel(
                    "Restarts in an hour",
                    "Does a room die again and again?",
                    "number",
                    (Query("sum by (room) (feinschliff:room_restarts:changes1h)", "{{room}}"),),
                    levels=(Level(1, "red"),),
                ),
                Panel(
                    "Loops that failed",
                    "Does work in the background fail? Each failure has a trace in the log.",
                    "per second",
                    (Query(rate("feinschliff_room_loop_errors_total", "room", "loop"), "{{room}} {{loop}}"),),
                ),
                Panel(
                    "Room on volumes",
                    "Does a volume of the database or of the store fill?",
                    "share",
                    (
                        Query(
                            "min by (persistentvolumeclaim) (kubelet_volume_stats_available_bytes"
                            " / kubelet_volume_stats_capacity_bytes)",
                            "{{persistentvolumeclaim}}",
                        ),
                    ),
                    silent=NEEDS_KUBELET,
                    highest=1,
                ),
            ),
        ),
    ),
)
