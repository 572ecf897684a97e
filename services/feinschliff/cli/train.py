"""`feinschliff train`, `watch`, `jobs`, `logs`, `cancel`, `pause`, `resume`, `retry`: jobs from wish to result."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Group

from feinschliff.artifacts.bases import DEFAULT_BASE
from feinschliff.cli import baseline, trackers
from feinschliff.cli.errors import REFUSED
from feinschliff.cli.jobs_view import doing, watch_on
from feinschliff.cli.names import expand, short
from feinschliff.cli.output import facts, number, seconds, table
from feinschliff.cli.pages import every
from feinschliff.cli.plan_view import show_plan
from feinschliff.cli.services import Services, refusals
from feinschliff.cli.session import Json, Project, Session, open_session
from feinschliff.cli.words import failure, moment
from feinschliff.v1 import training_pb2 as pb

PRECISIONS = {
    "auto": pb.TrainingRecipe.PRECISION_AUTO,
    "bf16": pb.TrainingRecipe.PRECISION_BF16,
    "fp32": pb.TrainingRecipe.PRECISION_FP32,
}
SHARINGS = {
    "replicated": pb.TrainingRecipe.SHARING_REPLICATED,
    "sharded": pb.TrainingRecipe.SHARING_SHARDED,
}
TASK_ADAPTERS = {
    "shared": pb.TrainingRecipe.TASK_ADAPTERS_SHARED,
    "separate": pb.TrainingRecipe.TASK_ADAPTERS_SEPARATE,
}
OBJECTIVES = [field.name for field in pb.TrainingRecipe.DESCRIPTOR.oneofs_by_name["objective"].fields]
LOW_RANK = ("lora", "dora", "qlora")
ADAPTATIONS = [field.name for field in pb.TrainingRecipe.DESCRIPTOR.oneofs_by_name["adaptation"].fields]
DEFAULT_ADAPTATION = "lora"
TaskAdapters = Annotated[
    str, typer.Option(help=f"One adapter for all tasks, or one for each: {', '.join(TASK_ADAPTERS)}. Default shared.")
]
AdaptationName = Annotated[
    str, typer.Option(help=f"What learns: {', '.join(ADAPTATIONS)}. Default lora, or what --from-version has.")
]
Auto = Annotated[
    list[str] | None,
    typer.Option(help="A number that the service chooses: optimisation.epochs, or '*' for all; repeatable."),
]
EvalName = Annotated[
    str, typer.Option("--eval", help="Measure the base, then the result, and say whether it is better; waits.")
]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="`ftjob-...`, or a whole name.")]


@dataclass(frozen=True)
class Wish:
    """What may be said about a job; None leaves it to the service's default."""

    epochs: float | None = None
    steps_max: int = 0
    batch_size: int | None = None
    learning_rate: float | None = None
    rank: int | None = None
    alpha: float | None = None
    max_row_tokens: int | None = None
    patience: int = 0
    precision: str = "auto"
    seed: int | None = None
    output_model: str = ""
    suffix: str = ""
    adaptation: str = ""
    layers: int | None = None
    objective: str = "sft"
    auto: tuple[str, ...] = ()
    trackers: tuple[str, ...] = ()
    nodes: int | None = None
    processes_per_node: int | None = None
    sharing: str = ""
    task_adapters: str = ""


def train(
    datasets: Annotated[list[str], typer.Argument(metavar="DATASET_VERSION", help="`routing` or `routing/3`.")],
    base: Annotated[str, typer.Option(help="URI of the base model.")] = DEFAULT_BASE,
    from_version: Annotated[str, typer.Option(help="Model version to continue from, in place of a base.")] = "",
    epochs: Annotated[float | None, typer.Option(help="Passes over the data. Default 3.")] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps at most; 0: as many as the epochs give.")] = 0,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step. Default 8.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest rate. Default: by what learns.")] = None,
    objective: Annotated[str, typer.Option(help=f"What is learned; one of {', '.join(OBJECTIVES)}.")] = "sft",
    adaptation: AdaptationName = "",
    rank: Annotated[int | None, typer.Option(help="Rank of a lora or dora adapter. Default 16.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Scale of a lora or dora adapter. Default 32.")] = None,
    layers: Annotated[int | None, typer.Option(help="With last_layers: how many, from the top. Default 2.")] = None,
    max_row_tokens: Annotated[int | None, typer.Option(help="Tokens of a row at most. Default 2048.")] = None,
    auto: Auto = None,
    tracker: Annotated[list[str] | None, typer.Option(help=trackers.HELP)] = None,
    patience: Annotated[int, typer.Option(help="Validations without gain before stopping; 0: never.")] = 0,
    precision: Annotated[str, typer.Option(help=f"One of {', '.join(PRECISIONS)}.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="Same seed, data and recipe: same weights. Default 0.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Machines that train together. Default 1.")] = None,
    processes: Annotated[int | None, typer.Option(help="On each machine. Default 1; with GPUs one per GPU.")] = None,
    sharing: Annotated[str, typer.Option(help=f"Of the weights: {', '.join(SHARINGS)}. Default replicated.")] = "",
    task_adapters: TaskAdapters = "",
    output_model: Annotated[str, typer.Option(help="Model that the version is added to. Default: the job's id.")] = "",
    suffix: Annotated[str, typer.Option(help="Free text in the public name of the result.")] = "",
    job_id: Annotated[str, typer.Option("--id", help="Last part of the job's name; the service makes one.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Check everything and store nothing.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it would do, and start nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until the job is over.")] = False,
    eval_: EvalName = "",
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Train a model on one or several versions of datasets."""
    wish = Wish(
        epochs, steps, batch_size, learning_rate, rank, alpha, max_row_tokens, patience, precision, seed,
        output_model, suffix, adaptation, layers, objective, tuple(auto or ()), tuple(tracker or ()),
        nodes, processes, sharing, task_adapters,
    )  # fmt: skip
    _refuse_foreign(wish)
    session = open_session(project, as_json)
    recipe = recipe_of(
        [session.names.dataset_version(name) for name in datasets],
        wish,
        base=base,
        from_version=session.names.model_version(from_version) if from_version else "",
    )
    if plan:
        show_plan(session, recipe)
        return
    if eval_ and not check:
        _train_and_measure(session, recipe, expand(eval_, "evals", project), job_id)
        return
    job = create(session.services, session.names.parent, recipe, job_id=job_id, validate_only=check)
    if watch and not check:
        session.output.note(f"{short(job.name)} is queued")
        _until_over(session, job.name)
        return
    session.output.show(job, lambda: described(job))


def _train_and_measure(session: Session, recipe: pb.TrainingRecipe, evaluation: str, job_id: str) -> None:
    """The base is measured before anything is trained: without a baseline nobody can say better."""
    measured = baseline.baseline_run(session, evaluation, baseline.base_named_by(recipe))
    made = create(session.services, session.names.parent, recipe, job_id=job_id)
    job = watch_on(session.output, session.services, made.name, title=short(made.name), is_silent=True)
    if job.state != pb.TrainingJob.STATE_SUCCEEDED or not job.model_version:
        session.output.show(job, lambda: described(job))
        raise typer.Exit(REFUSED)
    comparison = baseline.verdict(session, evaluation, measured, job.model_version)
    session.output.show(comparison, lambda: Group(described(job), baseline.shown(comparison)))


def watch(
    job: JobName,
    cursor: Annotated[int, typer.Option(min=0, help="Go on after this event; 0 begins with the first.")] = 0,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Follow a job until it is over; with --json one document per event. Exit 1 where it does not succeed."""
    session = open_session(project, as_json)
    _until_over(session, expand(job, "trainingJobs", project), cursor)


def jobs(
    filter_: Annotated[str, typer.Option("--filter", help='Such as `state = "RUNNING"`.')] = "",
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """List the training jobs of the project, the newest first."""
    session = open_session(project, as_json)
    query = pb.ListTrainingJobsRequest(parent=session.names.parent, filter=filter_)
    found = every(session.services.training.ListTrainingJobs, query, lambda page: page.training_jobs)
    rows = (
        (
            short(job.name),
            doing(job).upper(),
            f"{job.metrics.step}/{job.metrics.steps_total or '?'}",
            number(job.metrics.loss if job.metrics.HasField("loss") else None),
            short(job.model_version) or f"{len(job.task_model_versions)} models" * bool(job.task_model_versions),
            moment(job.create_time),
        )
        for job in found
    )
    session.output.show(found, lambda: table(("JOB", "STATE", "#STEP", "#LOSS", "RESULT", "CREATED"), rows))


def cancel(
    job: JobName,
    reason: Annotated[str, typer.Option(help="Why, for the job's events.")] = "",
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Stop a job for good; its checkpoints stay."""
    session = open_session(project, as_json)
    request = pb.CancelTrainingJobRequest(name=expand(job, "trainingJobs", project), reason=reason)
    with refusals():
        cancelled = session.services.training.CancelTrainingJob(request)
    session.output.show(cancelled, lambda: described(cancelled))


def pause(job: JobName, project: Project = "default", as_json: Json = False) -> None:
    """Save a running job and free its machine, until it is resumed."""
    session = open_session(project, as_json)
    request = pb.PauseTrainingJobRequest(name=expand(job, "trainingJobs", project))
    with refusals():
        paused = session.services.training.PauseTrainingJob(request)
    session.output.show(paused, lambda: described(paused))


def resume(job: JobName, project: Project = "default", as_json: Json = False) -> None:
    """Let a paused job go on from its last checkpoint."""
    session = open_session(project, as_json)
    request = pb.ResumeTrainingJobRequest(name=expand(job, "trainingJobs", project))
    with refusals():
        resumed = session.services.training.ResumeTrainingJob(request)
    session.output.show(resumed, lambda: described(resumed))


def retry(job: JobName, project: Project = "default", as_json: Json = False) -> None:
    """Let a failed or cancelled job go on from its last checkpoint."""
    session = open_session(project, as_json)
    request = pb.RetryTrainingJobRequest(name=expand(job, "trainingJobs", project))
    with refusals():
        retried = session.services.training.RetryTrainingJob(request)
    session.output.show(retried, lambda: described(retried))


def logs(
    job: JobName,
    attempt: Annotated[int, typer.Option(min=0, help="Which attempt, from 1; 0: the newest.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", help="Stay until the attempt is over.")] = False,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Print what a job's trainer printed; with --json one document per piece."""
    session = open_session(project, as_json)
    request = pb.StreamLogsRequest(name=expand(job, "trainingJobs", project), attempt=attempt, follow=follow)
    with refusals():
        for piece in session.services.training.StreamLogs(request):
            if as_json:
                session.output.line(piece)
            else:
                sys.stdout.buffer.write(piece.chunk)
                sys.stdout.buffer.flush()


def recipe_of(dataset_versions: list[str], wish: Wish, *, base: str, from_version: str = "") -> pb.TrainingRecipe:
    """The recipe that a wish makes; what it does not say is left out."""
    recipe = pb.TrainingRecipe(
        data=[pb.DataSource(dataset_version=name) for name in dataset_versions],
        optimisation=pb.Optimisation(
            epochs=wish.epochs,
            steps_max=wish.steps_max,
            batch_size=wish.batch_size,
            learning_rate=wish.learning_rate,
            max_row_tokens=wish.max_row_tokens,
        ),
        validation=pb.Validation(patience=wish.patience),
        precision=PRECISIONS[wish.precision],
        seed=wish.seed,
        nodes=wish.nodes,
        processes_per_node=wish.processes_per_node,
        sharing=SHARINGS.get(wish.sharing, pb.TrainingRecipe.SHARING_UNSPECIFIED),
        task_adapters=TASK_ADAPTERS.get(wish.task_adapters, pb.TrainingRecipe.TASK_ADAPTERS_UNSPECIFIED),
        output_model=wish.output_model,
        suffix=wish.suffix,
        auto=wish.auto,
    )
    getattr(recipe, wish.objective).SetInParent()
    recipe.trackers.extend(map(trackers.tracker_of, wish.trackers))
    says_nothing = wish.adaptation == "" and wish.rank is wish.alpha is None
    kind = "" if from_version and says_nothing else wish.adaptation or DEFAULT_ADAPTATION
    if kind:
        getattr(recipe, kind).SetInParent()
    match kind:
        case "lora":
            recipe.lora.MergeFrom(pb.LoraAdaptation(rank=wish.rank, alpha=wish.alpha))
        case "dora":
            recipe.dora.lora.MergeFrom(pb.LoraAdaptation(rank=wish.rank, alpha=wish.alpha))
        case "qlora":
            recipe.qlora.lora.MergeFrom(pb.LoraAdaptation(rank=wish.rank, alpha=wish.alpha))
        case "last_layers":
            recipe.last_layers.MergeFrom(pb.LastLayersAdaptation(layers=wish.layers))
    if from_version:
        recipe.from_model_version = from_version
    else:
        recipe.base_model = base
    return recipe


def _refuse_foreign(wish: Wish) -> None:
    """Raises typer.BadParameter for words that name no choice, and for another adaptation's options."""
    if wish.precision not in PRECISIONS:
        raise typer.BadParameter(f"{wish.precision!r} is none of {', '.join(PRECISIONS)}", param_hint="--precision")
    if wish.sharing and wish.sharing not in SHARINGS:
        raise typer.BadParameter(f"{wish.sharing!r} is none of {', '.join(SHARINGS)}", param_hint="--sharing")
    if wish.task_adapters and wish.task_adapters not in TASK_ADAPTERS:
        wrong = f"{wish.task_adapters!r} is none of {', '.join(TASK_ADAPTERS)}"
        raise typer.BadParameter(wrong, param_hint="--task-adapters")
    if wish.objective not in OBJECTIVES:
        raise typer.BadParameter(f"{wish.objective!r} is none of {', '.join(OBJECTIVES)}", param_hint="--objective")
    if wish.adaptation not in ("", *ADAPTATIONS):
        raise typer.BadParameter(f"{wish.adaptation!r} is none of {', '.join(ADAPTATIONS)}", param_hint="--adaptation")
    if wish.adaptation not in ("", *LOW_RANK) and not (wish.rank is wish.alpha is None):
        raise typer.BadParameter(f"only {', '.join(LOW_RANK)} have a rank and an alpha", param_hint="--rank, --alpha")
    if wish.adaptation != "last_layers" and wish.layers is not None:
        raise typer.BadParameter("only last_layers counts layers", param_hint="--layers")


def create(
    services: Services, parent: str, recipe: pb.TrainingRecipe, *, job_id: str = "", validate_only: bool = False
) -> pb.TrainingJob:
    request = pb.CreateTrainingJobRequest(
        parent=parent,
        training_job_id=job_id,
        training_job=pb.TrainingJob(recipe=recipe),
        validate_only=validate_only,
    )
    with refusals():
        return services.training.CreateTrainingJob(request)


def described(job: pb.TrainingJob) -> Group:
    """A job as a person reads it."""
    metrics = job.metrics
    took = job.finish_time.seconds - job.start_time.seconds if job.finish_time.seconds and job.start_time.seconds else 0
    return Group(
        facts(
            {
                "job": short(job.name) if job.name else "(not stored)",
                "state": doing(job).upper(),
                "step": f"{metrics.step}/{metrics.steps_total}" if metrics.steps_total else "",
                "loss": number(metrics.loss) if metrics.HasField("loss") else "",
                "validation loss": number(metrics.validation_loss) if metrics.HasField("validation_loss") else "",
                "best validation loss": (
                    number(metrics.best_validation_loss) if metrics.HasField("best_validation_loss") else ""
                ),
                "trained tokens": metrics.trained_tokens or "",
                "attempts": job.attempt_count or "",
                "took": seconds(took) if took else "",
                "model": short(job.model_version),
                **{f"model of {task}": short(made) for task, made in sorted(job.task_model_versions.items())},
                **used(job),
                "tensorboard": job.tensorboard_uri,
                "failure": failure(job.failure),
            }
        )
    )


def used(job: pb.TrainingJob) -> dict[str, str]:
    """What the job has used, as far as it is known."""
    found = job.consumption
    return {
        "machine time": seconds(found.machine_seconds) if found.machine_seconds else "",
        "energy": f"{found.energy_joules:.3g} J ({found.energy_source})" if found.HasField("energy_joules") else "",
        "carbon": f"{found.carbon_grams:.3g} g" if found.HasField("carbon_grams") else "",
        "price": f"{found.price:.2f} {found.currency}" if found.HasField("price") else "",
    }


def _until_over(session: Session, name: str, cursor: int = 0) -> None:
    job = watch_on(session.output, session.services, name, title=short(name), cursor=cursor)
    if not session.output.as_json:
        session.output.show(job, lambda: described(job))
    if job.state != pb.TrainingJob.STATE_SUCCEEDED:
        raise typer.Exit(REFUSED)
