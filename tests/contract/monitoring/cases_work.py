"""The same for the alerts about work."""

from __future__ import annotations

from tests.contract.monitoring.cases import Case, Series, handled, one


def uploads(**counts: str) -> Series:
    parts = [one("ingestion_uploads_total", values, outcome=outcome) for outcome, values in counts.items()]
    return {key: values for part in parts for key, values in part.items()}


def attempts(**counts: str) -> Series:
    parts = [one("training_attempts_total", values, outcome=outcome) for outcome, values in counts.items()]
    return {key: values for part in parts for key, values in part.items()}


def training(depth: str = "0x800", under_way: str = "0x800", pending: str = "0x800") -> Series:
    return {
        **one("training_queue_depth_jobs", depth),
        **one("training_attempts_in_flight", under_way),
        **one("training_attempts_pending", pending),
    }


def reports(values: str) -> Series:
    return handled("Report", "OK", values, service="WorkerService", instance="training")


def items(**counts: str) -> Series:
    parts = [one("evaluation_items_total", values, outcome=outcome) for outcome, values in counts.items()]
    return {key: values for part in parts for key, values in part.items()}


def queue(depth: str, limit: str = "64x60") -> Series:
    return {**one("inference_queue_depth_requests", depth), **one("inference_queue_limit_requests", limit)}


def cache(taken: str) -> Series:
    return {**one("inference_kv_cache_bytes", taken), **one("inference_kv_cache_limit_bytes", "100x60")}


def spool(waiting: str) -> Series:
    return {
        **one("inference_completion_spool_bytes", waiting),
        **one("inference_completion_spool_limit_bytes", "100x60"),
    }


def gpu(used: str) -> Series:
    where = {"instance": "a", "device": "cuda:0"}
    return {
        **one("inference_device_memory_bytes", used, **where),
        **one("inference_device_memory_limit_bytes", "100x60", **where),
    }


WORK = (
    Case(
        "UploadsFail",
        "45m",
        uploads(failed="0+1x60", stored="0+1x60"),
        "50% of the uploads of the last 30 minutes broke off.",
        (uploads(failed="0 1x60", stored="0 1x60"), uploads(failed="0+1x60", stored="0+9x60", refused="0+9x60")),
    ),
    Case(
        "UploadSlotsTaken",
        "15m",
        {**one("ingestion_uploads_in_flight", "16x30"), **one("ingestion_upload_slots", "16x30")},
        "As many uploads run as may at once, for 10 minutes.",
        ({**one("ingestion_uploads_in_flight", "16x8 15 16x30"), **one("ingestion_upload_slots", "16x40")},),
    ),
    Case(
        "TrainingQueueStuck",
        "20m",
        training(depth="2x60"),
        "2 jobs wait although nothing runs.",
        (training(depth="2x60", under_way="1x60"), training(depth="2x10 0x60")),
    ),
    Case(
        "TrainingQueueLong",
        "370m",
        training(depth="3x400", under_way="2x400"),
        "For 6 hours there have been jobs that wait; now 3.",
        (training(depth="3x200 0 3x200", under_way="2x800"),),
    ),
    Case(
        "AttemptsFail",
        "70m",
        attempts(failed="0+1x90", vanished="0x90", succeeded="0x90"),
        "100% of the attempts of the last hour failed.",
        (
            attempts(failed="0 1x90", succeeded="0x90"),
            attempts(failed="0+1x90", succeeded="0+3x90"),
            attempts(resumable="0+1x90", cancelled="0+1x90"),
        ),
    ),
    Case(
        "AttemptsPending",
        "35m",
        training(under_way="2x60", pending="1x60"),
        "For 30 minutes attempts have waited for the cluster; now 1.",
        (training(under_way="2x60", pending="1x20 0 1x60"),),
    ),
    Case(
        "MachinesInTrouble",
        "20m",
        one("training_troubles_total", "0 1 2 3x60", reason="WORKLOAD_OUT_OF_MEMORY"),
        "3 attempts within 30 minutes had the trouble WORKLOAD_OUT_OF_MEMORY.",
        (one("training_troubles_total", "0 1x60", reason="WORKLOAD_OUT_OF_MEMORY"),),
        {"reason": "WORKLOAD_OUT_OF_MEMORY"},
    ),
    Case(
        "TrainersSilent",
        "30m",
        {**training(under_way="2x60", pending="1x60"), **reports("0+5x3 15x60")},
        "1 attempts run and none reports.",
        (
            {**training(under_way="2x60"), **reports("0+5x60")},
            {**training(under_way="1x60", pending="1x60"), **reports("15x60")},
        ),
    ),
    Case(
        "ReconcileErrors",
        "25m",
        {**one("training_reconcile_errors_total", "0+1x60"), **one("evaluation_reconcile_errors_total", "0x60")},
        "training could not handle its work 10 times within 10 minutes.",
        ({**one("training_reconcile_errors_total", "0 1 2 3x60"), **one("evaluation_reconcile_errors_total", "0x60")},),
        {"room": "training"},
    ),
    Case(
        "EvaluationStuck",
        "40m",
        {**one("evaluation_runs", "1x60", state="running"), **items(passed="0+5x5 25x60")},
        "Runs wait or run, and no item has been done for 15 minutes.",
        (
            {**one("evaluation_runs", "1x60", state="running"), **items(passed="0+1x60")},
            {**one("evaluation_runs", "0x60", state="running"), **items(passed="25x60")},
        ),
    ),
    Case(
        "EvaluationItemsFail",
        "40m",
        items(errored="0+1x60", passed="0+3x60"),
        "25% of the items of the last 30 minutes got no grade.",
        (items(errored="0 1 2x60", passed="0 3x60"), items(failed="0+9x60", passed="0+1x60")),
    ),
    Case(
        "RequestQueueFull",
        "5m",
        queue("64x60"),
        "The queue of requests is 100% full.",
        (queue("32x60"), queue("64 64 3x60")),
    ),
    Case(
        "KvCacheFull",
        "15m",
        {**cache("95x60"), **queue("4x60")},
        "95% of the memory for keys and values is taken, and requests wait.",
        ({**cache("95x60"), **queue("0x60")}, {**cache("50x60"), **queue("4x60")}),
    ),
    Case(
        "EngineServerAway",
        "10m",
        one("inference_servers_away", "1x60"),
        "1 vLLM servers have been away for 5 minutes.",
        (one("inference_servers_away", "0x60"), one("inference_servers_away", "1 1 1 0x60")),
    ),
    Case(
        "GpuMemoryFull",
        "15m",
        gpu("99x60"),
        "cuda:0 at a: 99% of memory in use.",
        (gpu("90x60"),),
        {"instance": "a", "device": "cuda:0"},
    ),
    Case(
        "DeploymentsFailed",
        "15m",
        one("inference_deployments", "1x60", state="failed"),
        "1 deployments cannot be served.",
        (one("inference_deployments", "0x60", state="failed"), one("inference_deployments", "1x60", state="loading")),
    ),
    Case(
        "DeploymentsLoadLong",
        "35m",
        one("inference_deployments", "1x60", state="loading"),
        "1 deployments have been loading for 30 minutes.",
        (
            one("inference_deployments", "1x10 0x60", state="loading"),
            one("inference_deployments", "1x60", state="ready"),
        ),
    ),
    Case(
        "AdaptersThrash",
        "35m",
        one("inference_adapter_loads_total", "0+6x60", outcome="evicted"),
        "100m adapters a second are put out for others.",
        (
            one("inference_adapter_loads_total", "0+1x60", outcome="evicted"),
            one("inference_adapter_loads_total", "0+60x60", outcome="loaded"),
        ),
    ),
    Case(
        "CompletionSpoolGrows",
        "20m",
        spool("30x60"),
        "The spool of exchanges for the completion log is 30% full.",
        (spool("20x60"), spool("90x8 0x60")),
    ),
    Case(
        "CompletionsLost",
        "20m",
        one("inference_completions_dropped_total", "0x10 3x60", reason="full"),
        "3 exchanges of the last 15 minutes are not remembered: full.",
        (one("inference_completions_dropped_total", "7x60", reason="full"),),
        {"reason": "full"},
    ),
    Case(
        "GuardsCannotJudge",
        "25m",
        one("inference_guard_failures_total", "0+1x60", action="log"),
        "Guards could not judge 10 times in 10 minutes.",
        (
            one("inference_guard_failures_total", "0x60", action="block"),
            one("inference_guard_hits_total", "0+60x60", kind="model", action="block", stage="input"),
        ),
    ),
    Case(
        "CanaryRolledBack",
        "15m",
        one("inference_canary_rollbacks_total", "0x5 1x60", cause="first_token"),
        "A new version was taken out of traffic: worse by first_token.",
        (one("inference_canary_rollbacks_total", "0x60", cause="errors"),),
        labels={"cause": "first_token"},
    ),
)
