"""`feinschliff eval` and `compare`: how good a model is, and whether another is better."""

from __future__ import annotations

from typing import Annotated

import typer

from feinschliff.cli import eval_more, evals, serving
from feinschliff.cli.errors import REFUSED
from feinschliff.cli.names import expand, run_name, short
from feinschliff.cli.output import table
from feinschliff.cli.pages import every
from feinschliff.cli.services import refusals
from feinschliff.cli.session import Json, Project, Session, open_session
from feinschliff.cli.words import moment, state
from feinschliff.v1 import evaluation_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="Measure models on the rows of a dataset.")
app.command("import")(eval_more.import_)
for more in (eval_more.export, eval_more.report, eval_more.matrix, eval_more.cancel):
    app.command()(more)
RunName = Annotated[str, typer.Argument(metavar="RUN", help="`EVAL/RUN`, or a whole name.")]


@app.command()
def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model, version, alias, deployment or base URI.")],
    dataset: Annotated[str, typer.Argument(metavar="[DATASET_VERSION]", help="`routing` or `routing/3`.")] = "",
    eval_: Annotated[str, typer.Option("--eval", help="An eval that exists, in place of a dataset version.")] = "",
    grader: Annotated[str, typer.Option(help=f"One of {', '.join(evals.GRADERS)}.")] = "exact",
    reference: Annotated[str, typer.Option(help="Template of what is right.")] = evals.REFERENCE,
    prompt: Annotated[str, typer.Option(help="Template of the question; default: the row's own turns.")] = "",
    system: Annotated[str, typer.Option(help="Template of the instructions before --prompt.")] = "",
    split: Annotated[str, typer.Option(help=f"One of {', '.join(evals.SPLITS)}.")] = "auto",
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    threshold: Annotated[float, typer.Option(help="Value from which `similar` passes.")] = 0.8,
    limit: Annotated[int, typer.Option(help="Rows at most; 0: all.")] = 0,
    concurrency: Annotated[int, typer.Option(help="Calls at the same time; 0: the service's default.")] = 0,
    deploy: Annotated[bool, typer.Option("--deploy", help="Serve the model first where nothing does.")] = False,
    wait: Annotated[bool, typer.Option(help="Stay until all rows are done.")] = True,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Ask MODEL every row and grade its answers; the same question again stands in the same eval."""
    _check_choice(grader, evals.GRADERS, "--grader")
    _check_choice(split, evals.SPLITS, "--split")
    if bool(dataset) == bool(eval_):
        raise typer.BadParameter("name either a dataset version or an eval", param_hint="DATASET_VERSION or --eval")
    session = open_session(project, as_json)
    asked = session.names.servable(model)
    serving.require(session, asked, make=deploy)
    if eval_:
        evaluation = expand(eval_, "evals", project)
    else:
        version = session.names.dataset_version(dataset)
        question = evals.Question(version, grader, reference, system, prompt, split, max_tokens, temperature, threshold)
        evaluation = evals.ensure_eval(session.services, session.names.parent, question)
    started = evals.start_run(session.services, evaluation, asked, limit=limit, concurrency=concurrency)
    if not wait:
        session.output.show(started, lambda: evals.described(started))
        return
    _show(session, evals.finished(session.services, session.output, started.name, title=short(started.name)))


@app.command()
def show(
    run_: RunName,
    failed: Annotated[int, typer.Option(help="How many rows that did not pass to print as well.")] = 0,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Show a run, and rows that did not pass."""
    session = open_session(project, as_json)
    name = run_name(run_, project)
    with refusals():
        found = session.services.evaluation.GetEvalRun(pb.GetEvalRunRequest(name=name))
        query = pb.ListOutputItemsRequest(parent=name, filter="passed = false", page_size=max(failed, 1))
        items = session.services.evaluation.ListOutputItems(query).output_items if failed else []
    if as_json:
        session.output.line({"run": found, "failed": list(items)} if failed else found, indent=2)
        return
    session.output.show(found, lambda: evals.described(found))
    rows = ((item.line, item.sample, "; ".join(grade.why for grade in item.grades)) for item in items)
    if failed:
        session.output.show([], lambda: table(("#LINE", "ANSWER", "WHY NOT"), rows))


@app.command("list")
def list_(
    eval_: Annotated[str, typer.Argument(metavar="[EVAL]", help="List the runs of this eval.")] = "",
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """List the evals of the project, or the runs of one."""
    session = open_session(project, as_json)
    if not eval_:
        evals_query = pb.ListEvalsRequest(parent=session.names.parent)
        found = every(session.services.evaluation.ListEvals, evals_query, lambda page: page.evals)
        made = ((short(one.name), short(one.dataset_version), moment(one.create_time)) for one in found)
        session.output.show(found, lambda: table(("EVAL", "DATA", "CREATED"), made))
        return
    query = pb.ListEvalRunsRequest(parent=expand(eval_, "evals", project))
    runs = every(session.services.evaluation.ListEvalRuns, query, lambda page: page.eval_runs)
    rows = (
        (
            short(one.name),
            short(one.model),
            state(pb.EvalRun.State.Name, one.state),
            one.overall.n,
            evals.mean(one.overall),
            evals.interval(one.overall),
            moment(one.create_time),
        )
        for one in runs
    )
    columns = ("RUN", "MODEL", "STATE", "#N", "#MEAN", "95% INTERVAL", "CREATED")
    session.output.show(runs, lambda: table(columns, rows))


def compare(
    baseline: RunName,
    candidate: RunName,
    grader: Annotated[str, typer.Option(help="Which grader; default: an item passes where all do.")] = "",
    level: Annotated[float, typer.Option(help="Confidence of the interval and of the verdict.")] = 0.95,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Compare two runs on the same rows, in pairs: is CANDIDATE better than BASELINE?"""
    session = open_session(project, as_json)
    request = pb.CompareRunsRequest(
        baseline=run_name(baseline, project), candidate=run_name(candidate, project), grader=grader, level=level
    )
    with refusals():
        comparison = session.services.evaluation.CompareRuns(request)
    session.output.show(comparison, lambda: evals.compared(comparison))


def _show(session: Session, found: pb.EvalRun) -> None:
    session.output.show(found, lambda: evals.described(found))
    if found.state != pb.EvalRun.STATE_COMPLETED:
        raise typer.Exit(REFUSED)


def _check_choice(value: str, choices: object, option: str) -> None:
    if isinstance(choices, tuple | dict) and value not in choices:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(choices)}", param_hint=option)
