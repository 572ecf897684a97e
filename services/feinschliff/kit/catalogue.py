"""The metric catalogue: what can be seen of the platform, by name, as data."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]

# From a cached read (1 ms) to the longest unary default deadline (30 s); doubling, so that any quantile is within 2x.
CALL_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# What a reader feels: 50 ms is instant, 10 s is gone; a CPU takes seconds for a long prompt.
FIRST_TOKEN_SECONDS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 30.0)
# Reading speed is about 0.1 to 0.25 s a token; GPUs give 5 to 30 ms.
NEXT_TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.3)
# Queues and long work: from at once to a working day.
WAIT_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 28800.0)
# An adapter of a few MB on loopback to tens of GB to S3.
TRANSFER_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
# Powers of 4 up to the longest context in use (262 144).
TOKENS = (16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0)
# Powers of 2: each doubling of a batch is one step in throughput.
BATCH = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
# A grader is pure text work (10 us) unless it is a judge, which is a model call (seconds).
GRADER_SECONDS = (0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0, 5.0, 30.0)

CANARY_CAUSES = ("errors", "guard_hits", "first_token", "next_token")
GRADERS = (
    "string_check",
    "text_similarity",
    "label_model",
    "score_model",
    "multi",
    "json_schema",
    "choice",
    "numeric",
    "endpoint",
    "python",
    "regex",
    "json_path",
    "tool_calls",
    "length",
    "text_check",
    "classification",
)
SERVED = ("ingestion", "training", "evaluation", "registry", "inference")
ALL = (*SERVED, "gateway")
_CALL = ("grpc_type", "grpc_service", "grpc_method")
_DONE = (*_CALL, "grpc_code")
# Series of running jobs only, at most 100 jobs: docs/decisions/0005. Prometheus itself has a label `job`.
_JOB = ("project", "training_job")
_JOB_ENDS = ("succeeded", "failed", "cancelled")


class MetricSpec(NamedTuple):
    """One family of metrics: `rooms` have it, `labels` take values from closed sets only.

    Attributes:
        shared: every copy of the room shows the same number, that of the installation; over copies, take the highest.
        starts: values of its only label that are there from the start, at 0: Prometheus sees no rise in a series that
            begins at 1, so the first failed job would never alarm anybody.
    """

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    rooms: tuple[str, ...] = ALL
    shared: bool = False
    starts: tuple[str, ...] = ()


def _counter(help: str, *labels: str, starts: tuple[str, ...] = ()) -> MetricSpec:
    return MetricSpec("counter", help, labels, starts=starts)


def _gauge(help: str, *labels: str) -> MetricSpec:
    return MetricSpec("gauge", help, labels)


def _shared(help: str, *labels: str) -> MetricSpec:
    return MetricSpec("gauge", help, labels, shared=True)


def _histogram(help: str, buckets: tuple[float, ...], *labels: str, starts: tuple[str, ...] = ()) -> MetricSpec:
    return MetricSpec("histogram", help, labels, buckets, starts=starts)


def _ended(what: str, label: str, *outcomes: str, by: str = "") -> MetricSpec:
    """A counter of things that ended in one of a few ways."""
    return _counter(f"{what}, by {by or label}: {', '.join(outcomes)}.", label, starts=outcomes)


def _of(room: str, families: Mapping[str, MetricSpec]) -> dict[str, MetricSpec]:
    return {f"feinschliff_{room}_{name}": spec._replace(rooms=(room,)) for name, spec in families.items()}


_CALLS = {
    "grpc_server_started_total": _counter("Calls begun.", *_CALL),
    "grpc_server_handled_total": _counter("Calls ended, by status code.", *_DONE),
    "grpc_server_handling_seconds": _histogram("From a call's start to its end.", CALL_SECONDS, *_CALL),
    "grpc_server_msg_received_total": _counter("Messages received from clients.", *_CALL),
    "grpc_server_msg_sent_total": _counter("Messages sent to clients.", *_CALL),
    "grpc_client_started_total": _counter("Calls begun to other services.", *_CALL),
    "grpc_client_handled_total": _counter("Calls to other services ended, by status code.", *_DONE),
    "grpc_client_handling_seconds": _histogram(
        "From the start of a call to another service to its end.", CALL_SECONDS, *_CALL
    ),
}

_ROOM = {
    "feinschliff_room_check_healthy": _gauge("1 while the dependency answers, 0 while it does not.", "room", "check"),
    "feinschliff_room_loop_errors_total": _counter(
        "Times a background loop failed and was started again.", "room", "loop"
    ),
    "feinschliff_room_refusals_total": _counter("Calls refused, by reason.", "room", "reason"),
    "feinschliff_room_offloaded_in_flight": _gauge("Calls that run in worker threads of the process.", "room"),
}

_INGESTION = {
    "upload_bytes_total": _counter("Bytes received in uploads."),
    "uploads_total": _ended("Uploads ended", "outcome", "stored", "refused", "failed", "validated"),
    "upload_seconds": _histogram("From the first chunk to the answer.", TRANSFER_SECONDS),
    "uploads_in_flight": _gauge("Uploads that run now."),
    "upload_slots": _gauge("Uploads that may run at once."),
    "rows_total": _ended("Rows read", "outcome", "kept", "skipped", "refused"),
    "findings_total": _ended("Findings in uploaded data", "severity", "error", "warning", "note"),
    "tokens_total": _counter("Tokens counted in stored versions."),
    "versions": _shared("Dataset versions, by state.", "state"),
    "read_rows_total": _counter("Rows streamed to readers."),
    "completions_recorded_total": _counter("Exchanges taken into the completion log, repeated calls among them."),
    "completions_expired_total": _counter("Exchanges removed because their time was over."),
    "feedback_total": _counter("Judgements of exchanges taken."),
    "cleanup_seconds": _histogram("One look for abandoned uploads and removed datasets.", CALL_SECONDS),
}

_TRAINING = {
    "jobs": _shared("Jobs, by state.", "state"),
    "jobs_finished_total": _ended("Jobs ended", "state", *_JOB_ENDS, by="final state"),
    "queue_depth_jobs": _shared("Jobs that wait for a place to run."),
    "queue_wait_seconds": _histogram("From queued to the first attempt's start.", WAIT_SECONDS),
    "job_seconds": _histogram(
        "From a job's creation to its end, by final state.", WAIT_SECONDS, "state", starts=_JOB_ENDS
    ),
    "attempts_total": _ended("Attempts ended", "outcome", "succeeded", "failed", "resumable", "vanished"),
    "attempt_starts_total": _counter(
        "Attempts started where processes may stand ready, by start: warm, cold.", "start", starts=("warm", "cold")
    ),
    "warm_workers": _gauge("Processes that stand ready to become trainers."),
    "attempts_in_flight": _gauge("Attempts that are under way, those that the cluster has not begun among them."),
    "attempts_pending": _gauge("Attempts that the cluster has accepted and not begun."),
    "attempt_seconds_total": _counter("Seconds that attempts ran, by execution profile.", "profile"),
    "cost_total": _counter("Price x time of attempts, in the currency of the profiles.", "profile", "project"),
    "energy_joules_total": _counter("Energy of attempts, estimated.", "profile", "project"),
    "carbon_grams_total": _counter(
        "Carbon dioxide of that energy, by the installation's carbon intensity.", "profile", "project"
    ),
    "slots": _shared("Attempts that may be under way at once, by execution profile.", "profile"),
    "slots_used": _shared("Attempts that are under way, by execution profile.", "profile"),
    "troubles_total": _counter("Times a machine kept an attempt from starting or ended it, by reason.", "reason"),
    "reconcile_seconds": _histogram("One turn of the reconciler over all jobs.", CALL_SECONDS),
    "reconcile_errors_total": _counter("Jobs that the reconciler could not handle in a turn."),
    "events_stored_total": _counter("Events stored; a repeated key is not counted."),
    "watchers": _gauge("Streams that follow a job now."),
    "trained_tokens_total": _counter("Tokens that carried a label and were trained on."),
    "tokens_per_second": _gauge("Real tokens per second over all running attempts, as last reported."),
    "steps_total": _counter("Optimiser steps reported."),
    "checkpoints_total": _counter("Checkpoints committed."),
    "checkpoint_seconds": _histogram("From the start of writing a checkpoint to its commit.", TRANSFER_SECONDS),
    "checkpoint_bytes_total": _counter("Bytes of committed checkpoints."),
    "memory_bytes": _gauge("Memory of a running trainer.", *_JOB),
    "device_memory_bytes": _gauge("Most GPU memory that a running trainer has held, of one GPU.", *_JOB),
    "job_loss": _gauge("Newest loss of a running job, nats/token, by phase: train, validation.", *_JOB, "phase"),
    "job_step": _gauge("Optimiser steps that a running job has done.", *_JOB),
    "job_steps": _gauge("Optimiser steps that a running job will do.", *_JOB),
    "job_learning_rate": _gauge("Learning rate of a running job.", *_JOB),
    "job_gradient_norm": _gauge("Norm of a running job's gradient before clipping.", *_JOB),
    "job_tokens_per_second": _gauge("Real tokens per second of a running job.", *_JOB),
}

_REGISTRY = {
    "models": _shared("Models."),
    "versions": _shared("Model versions, by state.", "state"),
    "versions_registered_total": _counter("Model versions registered."),
    "alias_moves_total": _ended("Aliases set or moved", "act", "set", "moved", "removed"),
    "lineage_seconds": _histogram("Building one lineage graph.", CALL_SECONDS),
    "exports_finished_total": _ended("Exports ended", "state", "succeeded", "failed", "cancelled", by="final state"),
}

_EVALUATION = {
    "runs": _shared("Runs, by state.", "state"),
    "runs_finished_total": _ended("Runs ended", "state", "completed", "failed", "cancelled", by="final state"),
    "run_seconds": _histogram("From a run's creation to its end.", WAIT_SECONDS),
    "items_total": _ended("Output items", "outcome", "passed", "failed", "ungraded", "errored"),
    "items_in_flight": _gauge("Items that are sampled or graded now."),
    "grader_seconds": _histogram("One grade, by type of grader.", GRADER_SECONDS, "grader", starts=GRADERS),
    "sampling_seconds": _histogram("One answer from inference.", FIRST_TOKEN_SECONDS),
    "sampled_tokens_total": _counter("Tokens of sampled answers."),
    "sandbox_runs_total": _ended(
        "Python grades",
        "outcome",
        "value",
        "source",
        "time",
        "memory",
        "output",
        "crash",
        "sandbox",
        by="what came of them",
    ),
    "sandbox_runs_in_flight": _gauge("Python grades that run or stand in line."),
    "sandbox_starts_total": _counter("Processes of the sandbox started: one per worker, and one for each that died."),
    "reconcile_seconds": _histogram("One turn of the reconciler over all runs.", CALL_SECONDS),
    "reconcile_errors_total": _counter("Runs that the reconciler could not handle in a turn, and runs that crashed."),
    "verdicts_total": _ended("Verdicts given", "state", "passed", "refused", "failed", by="what they say"),
    "verdict_seconds": _histogram("From a verdict's request to its end.", WAIT_SECONDS),
}

_INFERENCE = {
    "requests_total": _ended(
        "Answers",
        "finish",
        "stop",
        "length",
        "content_filter",
        "cancelled",
        "refused",
        "failed",
        by="how they ended, content_filter by a guard",
    ),
    "requests_in_flight": _gauge("Chat requests that are being answered."),
    "guard_hits_total": _counter(
        "Decisions of guards that found something: one for each rule in what a call sends or gets.",
        *("kind", "action", "stage"),
    ),
    "guard_failures_total": _ended("Guards that could not judge", "action", "log", "mask", "block"),
    "slots": _gauge("Chat requests that may be generated at once, over all loaded bases."),
    "queue_depth_requests": _gauge("Chat requests that wait for a place in the batch."),
    "queue_limit_requests": _gauge("Chat requests that may wait, over all loaded bases; more are refused."),
    "queue_wait_seconds": _histogram("From a request's arrival to its first place in a batch.", FIRST_TOKEN_SECONDS),
    "first_token_seconds": _histogram("From a request's arrival to its first token.", FIRST_TOKEN_SECONDS),
    "next_token_seconds": _histogram("Between two tokens of one answer.", NEXT_TOKEN_SECONDS),
    "prompt_tokens_total": _counter("Tokens of prompts."),
    "cached_prompt_tokens_total": _counter("Tokens of prompts that were known from the beginning of another one."),
    "completion_tokens_total": _counter("Tokens of answers."),
    "drafted_tokens_total": _counter(
        "Tokens of answers that were looked up in their own text, to be checked in one step."
    ),
    "accepted_tokens_total": _counter("Drafted tokens that the model said: each saved a step."),
    "request_prompt_tokens": _histogram("Tokens of one prompt.", TOKENS),
    "request_completion_tokens": _histogram("Tokens of one answer.", TOKENS),
    "batch_size_sequences": _histogram("Sequences in one forward pass.", BATCH),
    "loaded_bases": _gauge("Base models in memory."),
    "loaded_adapters": _gauge("Adapters in memory."),
    "adapter_bytes": _gauge("Memory of all loaded adapters."),
    "adapter_limit_bytes": _gauge("Memory beyond which adapters loaded on demand make room; 0: no bound."),
    "adapter_loads_total": _ended("Adapters loaded or let go", "outcome", "loaded", "failed", "evicted", "idle"),
    "adapter_load_seconds": _histogram("From the wish for an adapter to its place in memory.", TRANSFER_SECONDS),
    "canary_rollbacks_total": _ended("Canaries taken out of traffic", "cause", *CANARY_CAUSES),
    "shadow_requests_total": _ended("Copies of calls for shadow routes", "outcome", "answered", "dropped", "failed"),
    "deployments": _shared("Deployments, by state.", "state"),
    "completions_spooled_total": _counter("Exchanges written to the spool, to be logged."),
    "completions_delivered_total": _counter("Exchanges that the completion log has taken."),
    "completions_dropped_total": _ended(
        "Exchanges that were to be logged and are not", "reason", "full", "too_large", "disk", "torn", "refused"
    ),
    "completion_spool_bytes": _gauge("Bytes of exchanges on their way to the completion log."),
    "completion_spool_limit_bytes": _gauge("Bytes that may be on their way there; what comes beyond is dropped."),
    "completion_delivery_seconds": _histogram("From an answer's end to its place in the log.", WAIT_SECONDS),
    "kv_cache_bytes": _gauge("Bytes held for attention keys and values."),
    "prefix_cache_bytes": _gauge("Bytes held for keys and values of what prompts begin with."),
    "kv_cache_limit_bytes": _gauge("Bytes that may be held for attention keys and values, over all loaded bases."),
    "servers_away": _gauge("vLLM servers that a loaded base needs and that do not answer at present."),
    "server_losses": _gauge("Times that the vLLM servers of the bases that are loaded went away."),
    "device_memory_bytes": _gauge("Memory in use on a GPU, by whomever.", "device"),
    "device_memory_limit_bytes": _gauge("Memory of a GPU.", "device"),
    "reconcile_seconds": _histogram("One turn of the reconciler over all deployments.", CALL_SECONDS),
}

_GATEWAY = {
    "http_requests_total": _counter(
        "HTTP requests, by route and class of status: 2xx, 4xx, 5xx.", "route", "method", "status"
    ),
    "http_request_seconds": _histogram(
        "From an HTTP request's start to its last byte.", CALL_SECONDS, "route", "method"
    ),
    "http_requests_in_flight": _gauge("HTTP requests that are being answered."),
    "upload_bytes_total": _counter("Bytes of uploaded files."),
    "stream_chunks_total": _counter("Chunks of streamed answers sent."),
}

CATALOGUE: Mapping[str, MetricSpec] = {
    **_CALLS,
    **_ROOM,
    **_of("ingestion", _INGESTION),
    **_of("training", _TRAINING),
    **_of("registry", _REGISTRY),
    **_of("evaluation", _EVALUATION),
    **_of("inference", _INFERENCE),
    **_of("gateway", _GATEWAY),
}
