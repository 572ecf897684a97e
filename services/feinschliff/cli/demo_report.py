"""What the demo found, for people and for programs; every number comes from the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from feinschliff.cli.demo_steps import Said
from feinschliff.cli.evals import interval
from feinschliff.cli.output import plain, seconds
from feinschliff.v1 import evaluation_pb2, inference_pb2, ingestion_pb2, registry_pb2, training_pb2


@dataclass
class Result:
    """Filled stage by stage."""

    home: Path
    stages: dict[str, float] = field(default_factory=dict)
    train_data: ingestion_pb2.DatasetVersion = field(default_factory=ingestion_pb2.DatasetVersion)
    test_data: ingestion_pb2.DatasetVersion = field(default_factory=ingestion_pb2.DatasetVersion)
    base_run: evaluation_pb2.EvalRun = field(default_factory=evaluation_pb2.EvalRun)
    tuned_run: evaluation_pb2.EvalRun = field(default_factory=evaluation_pb2.EvalRun)
    comparison: evaluation_pb2.RunComparison = field(default_factory=evaluation_pb2.RunComparison)
    job: training_pb2.TrainingJob = field(default_factory=training_pb2.TrainingJob)
    version: registry_pb2.ModelVersion = field(default_factory=registry_pb2.ModelVersion)
    deployment: inference_pb2.Deployment = field(default_factory=inference_pb2.Deployment)
    asked: list[Said] = field(default_factory=list)
    metrics: Mapping[str, int] = field(default_factory=dict)
    memory_mb: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def last_line(result: Result) -> str:
    """One line for scripts: the accuracies, the p-value, the tokens trained on, the seconds of the whole."""
    base, tuned = result.base_run.overall.mean, result.tuned_run.overall.mean
    tokens = result.job.metrics.trained_tokens
    p = result.comparison.p_value
    return f"demo: base={base:.3f} tuned={tuned:.3f} p={p:.2g} tokens={tokens} seconds={result.seconds:.0f}"


def text(result: Result) -> str:
    return "\n".join(_lines(result))


def data(result: Result) -> dict[str, object]:
    return {
        "base": result.base_run.overall.mean,
        "tuned": result.tuned_run.overall.mean,
        "p": result.comparison.p_value,
        "tokens": result.job.metrics.trained_tokens,
        "seconds": result.seconds,
        "stages_seconds": result.stages,
        "base_run": plain(result.base_run),
        "tuned_run": plain(result.tuned_run),
        "comparison": plain(result.comparison),
        "job": plain(result.job),
        "model_version": plain(result.version),
        "asked": [said._asdict() for said in result.asked],
        "calls_handled": dict(result.metrics),
        "memory_mb": dict(result.memory_mb),
        "home": str(result.home),
    }


def _lines(result: Result) -> Iterator[str]:
    c, job, metrics = result.comparison, result.job, result.job.metrics
    yield ""
    yield "Customer messages to one of 8 intents, English and German; exact matches on rows never trained on."
    yield ""
    yield f"  base   {_accuracy(result.base_run)}   {result.base_run.model}"
    yield f"  tuned  {_accuracy(result.tuned_run)}   {result.tuned_run.model}"
    yield (
        f"  difference {c.difference:+.3f} [{c.interval.low:+.3f}, {c.interval.high:+.3f}], p = {c.p_value:.2g}"
        f" ({_method(c)}): {c.wins} rows better, {c.losses} worse, {c.ties} equal"
    )
    yield ""
    yield (
        f"  trained on {result.train_data.rows_by_split.get('train', 0)} rows, {metrics.steps_total} steps,"
        f" {metrics.trained_tokens} tokens; loss {metrics.loss:.3f}, validation {metrics.validation_loss:.3f},"
        f" best {metrics.best_validation_loss:.3f}; {job.attempt_count} attempt{'s' if job.attempt_count > 1 else ''}"
    )
    for run, name in ((result.base_run, "base"), (result.tuned_run, "tuned")):
        usage = run.usage
        yield f"  answers of the {name}: {usage.prompt_tokens} prompt and {usage.completion_tokens} answer tokens"
    yield ""
    for said in result.asked:
        yield f"  asked by {said.way}: {said.question}"
        yield f"    {said.model}: {said.answer!r} (expected {said.expected!r})"
    yield ""
    yield from (f"  {name:<26}{seconds(took):>8}" for name, took in result.stages.items())
    yield f"  {'all':<26}{seconds(result.seconds):>8}"
    yield ""
    yield f"  memory        {', '.join(f'{name} {size:.0f} MB' for name, size in result.memory_mb.items())}"
    yield f"  adapter       {result.version.adapter.uri}  {result.version.adapter_digest}"
    yield f"  TensorBoard   {job.tensorboard_uri}"
    yield f"  metrics       {result.home / 'metrics'}/*.prom ({sum(result.metrics.values())} gRPC calls handled)"
    yield f"  logs          {result.home / 'logs'}"
    yield f"  look around   FEINSCHLIFF_HOME={result.home} feinschliff up"
    yield ""


def _accuracy(run: evaluation_pb2.EvalRun) -> str:
    one = run.overall
    return f"{one.mean:.3f} {interval(one)} ({one.passed} of {one.n})"


def _method(comparison: evaluation_pb2.RunComparison) -> str:
    is_exact = comparison.method == evaluation_pb2.RunComparison.METHOD_MCNEMAR
    return "exact McNemar test" if is_exact else "paired bootstrap"
