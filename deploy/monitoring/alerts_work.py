"""Alerts about work: data that does not come in, jobs and runs that do not get on, models that do not answer."""

from __future__ import annotations

from deploy.monitoring.panels import NEEDS_CLUSTER, NEEDS_GPU
from deploy.monitoring.promql import either, grown, in_room, total
from deploy.monitoring.rules import Alert, Group

_UNDER_WAY = total("feinschliff_training_attempts_in_flight")
_PENDING = total("feinschliff_training_attempts_pending")
_RECONCILE_ERRORS = {
    room: grown(f"feinschliff_{room}_reconcile_errors_total", "10m") for room in ("training", "evaluation")
}


def ingestion() -> Group:
    failed = grown('feinschliff_ingestion_uploads_total{outcome="failed"}', "30m")
    ended = grown("feinschliff_ingestion_uploads_total", "30m")
    running, places = total("feinschliff_ingestion_uploads_in_flight"), total("feinschliff_ingestion_upload_slots")
    return Group(
        "feinschliff-ingestion",
        (
            Alert(
                "UploadsFail",
                f"{failed} / {ended} > 0.25 and {failed} > 2",
                "5m",
                "warning",
                "{{ $value | humanizePercentage }} of the uploads of the last 30 minutes broke off.",
                "People cannot bring their data in; files that are refused for what is in them do not count.",
            ),
            Alert(
                "UploadSlotsTaken",
                f"{running} / {places} >= 1",
                "10m",
                "warning",
                "As many uploads run as may at once, for 10 minutes.",
                "Further uploads are told to come again.",
            ),
        ),
    )


def training() -> Group:
    return Group("feinschliff-training", (*_queue(), *_attempts()))


def _queue() -> tuple[Alert, ...]:
    return (
        Alert(
            "TrainingQueueStuck",
            f"max by (namespace) (feinschliff_training_queue_depth_jobs) > 0 unless {_UNDER_WAY} > 0",
            "15m",
            "critical",
            "{{ $value }} jobs wait although nothing runs.",
            "Jobs do not begin. Those that were accepted stay QUEUED.",
        ),
        Alert(
            "TrainingQueueLong",
            "max by (namespace) (feinschliff_training_queue_depth_jobs) > 0",
            "6h",
            "warning",
            "For 6 hours there have been jobs that wait; now {{ $value }}.",
            "There are more jobs than places; people wait.",
        ),
        Alert(
            "AttemptsPending",
            f"{_PENDING} > 0",
            "30m",
            "warning",
            "For 30 minutes attempts have waited for the cluster; now {{ $value }}.",
            "The cluster took the work and does not begin it: no node fits, no quota is left, or no image comes.",
        ),
        Alert(
            "ReconcileErrors",
            either(*(f"{in_room(room, expr)} > 4" for room, expr in _RECONCILE_ERRORS.items())),
            "10m",
            "warning",
            "{{ $labels.room }} could not handle its work {{ $value | humanize }} times within 10 minutes.",
            "Some job or run does not get on; the others do.",
        ),
    )


def _attempts() -> tuple[Alert, ...]:
    ended = grown("feinschliff_training_attempts_total", "1h")
    bad = grown('feinschliff_training_attempts_total{outcome=~"failed|vanished"}', "1h")
    reports = 'grpc_server_handled_total{grpc_service="feinschliff.v1.WorkerService",grpc_method="Report"}'
    return (
        Alert(
            "AttemptsFail",
            f"{bad} / {ended} > 0.5 and {bad} > 2",
            "0m",
            "warning",
            "{{ $value | humanizePercentage }} of the attempts of the last hour failed.",
            "Jobs begin again and again, or fail: by their data, their memory, or the machines.",
        ),
        Alert(
            "MachinesInTrouble",
            f"{grown('feinschliff_training_troubles_total', '30m', 'reason')} > 1",
            "0m",
            "warning",
            "{{ $value | humanize }} attempts within 30 minutes had the trouble {{ $labels.reason }}.",
            "Attempts do not start or are ended by their machine; jobs take longer, or fail with this reason.",
            silent=NEEDS_CLUSTER,
        ),
        Alert(
            "TrainersSilent",
            f"{_UNDER_WAY} - {_PENDING} > 0 unless {grown(reports, '10m')} > 0",
            "10m",
            "critical",
            "{{ $value }} attempts run and none reports.",
            "Trainers do not reach the service: they are stopped as stalled and begin again, and no job gets on.",
        ),
    )


def evaluation() -> Group:
    items = grown("feinschliff_evaluation_items_total", "30m")
    bad = grown('feinschliff_evaluation_items_total{outcome=~"errored|ungraded"}', "30m")
    return Group(
        "feinschliff-evaluation",
        (
            Alert(
                "EvaluationStuck",
                'max by (namespace) (feinschliff_evaluation_runs{state=~"queued|running"}) > 0'
                f" unless {grown('feinschliff_evaluation_items_total', '15m')} > 0",
                "15m",
                "warning",
                "Runs wait or run, and no item has been done for 15 minutes.",
                "Evaluations do not end, and releases wait for them.",
            ),
            Alert(
                "EvaluationItemsFail",
                f"{bad} / {items} > 0.2 and {bad} > 9",
                "0m",
                "warning",
                "{{ $value | humanizePercentage }} of the items of the last 30 minutes got no grade.",
                "Scores rest on fewer items than they should: the model did not answer, or a grader could not judge.",
            ),
        ),
    )


def serving() -> Group:
    queue, longest = (total(f"feinschliff_inference_queue_{name}_requests") for name in ("depth", "limit"))
    cached, most = (total(f"feinschliff_inference_kv_cache_{name}") for name in ("bytes", "limit_bytes"))
    return Group(
        "feinschliff-serving",
        (
            Alert(
                "RequestQueueFull",
                f"{queue} / {longest} > 0.9",
                "2m",
                "critical",
                "The queue of requests is {{ $value | humanizePercentage }} full.",
                "Further requests are refused with QUEUE_FULL, over HTTP with 429.",
            ),
            Alert(
                "KvCacheFull",
                f"{cached} / {most} > 0.9 and {queue} > 0",
                "10m",
                "warning",
                "{{ $value | humanizePercentage }} of the memory for keys and values is taken, and requests wait.",
                "Fewer requests are answered at once than the engine could; the first token comes later.",
            ),
            Alert(
                "GpuMemoryFull",
                "max by (namespace, instance, device) (feinschliff_inference_device_memory_bytes"
                " / feinschliff_inference_device_memory_limit_bytes) > 0.97",
                "10m",
                "warning",
                "{{ $labels.device }} at {{ $labels.instance }}: {{ $value | humanizePercentage }} of memory in use.",
                "The next adapter or longer batch may not fit: requests then fail, and loading does.",
                silent=NEEDS_GPU,
            ),
            Alert(
                "EngineServerAway",
                f"{total('feinschliff_inference_servers_away')} > 0",
                "5m",
                "critical",
                "{{ $value }} vLLM servers have been away for 5 minutes.",
                "Calls to their models are refused with ENGINE_LOST, over HTTP with 503.",
            ),
            *_deployments(),
            _guards(),
        ),
    )


def _deployments() -> tuple[Alert, ...]:
    return (
        Alert(
            "DeploymentsFailed",
            'max by (namespace) (feinschliff_inference_deployments{state="failed"}) > 0',
            "10m",
            "critical",
            "{{ $value }} deployments cannot be served.",
            "Calls to their models are refused; their `failure` says why.",
        ),
        Alert(
            "DeploymentsLoadLong",
            'max by (namespace) (feinschliff_inference_deployments{state=~"pending|loading"}) > 0',
            "30m",
            "warning",
            "{{ $value }} deployments have been loading for 30 minutes.",
            "Calls to their models are told to wait.",
        ),
        Alert(
            "AdaptersThrash",
            'sum by (namespace) (rate(feinschliff_inference_adapter_loads_total{outcome="evicted"}[15m])) > 0.05',
            "15m",
            "warning",
            "{{ $value | humanize }} adapters a second are put out for others.",
            "More adapters are in use than fit beside the base; each swap makes a caller wait.",
        ),
        Alert(
            "CanaryRolledBack",
            "sum by (namespace, cause) (increase(feinschliff_inference_canary_rollbacks_total[30m])) > 0",
            "0m",
            "warning",
            "A new version was taken out of traffic: worse by {{ $labels.cause }}.",
            "Calls go to the other routes again; the deployment and the log say what was seen.",
        ),
    )


def remembering() -> Group:
    spooled, most = (total(f"feinschliff_inference_completion_spool_{name}") for name in ("bytes", "limit_bytes"))
    return Group(
        "feinschliff-remembering",
        (
            Alert(
                "CompletionSpoolGrows",
                f"{spooled} / {most} > 0.25",
                "10m",
                "warning",
                "The spool of exchanges for the completion log is {{ $value | humanizePercentage }} full.",
                "Answers go on. What comes once it is full is not remembered.",
            ),
            Alert(
                "CompletionsLost",
                grown("feinschliff_inference_completions_dropped_total", "15m", "reason") + " > 0",
                "0m",
                "critical",
                "{{ $value | humanize }} exchanges of the last 15 minutes are not remembered: {{ $labels.reason }}.",
                "Callers got their answers; the log has not what they or a policy wanted kept.",
            ),
        ),
    )


def _guards() -> Alert:
    return Alert(
        "GuardsCannotJudge",
        f"{grown('feinschliff_inference_guard_failures_total', '10m')} > 0",
        "10m",
        "warning",
        "Guards could not judge {{ $value | humanize }} times in 10 minutes.",
        "Calls are refused with GUARD_UNAVAILABLE, or answered unread where a guard only notes.",
    )
