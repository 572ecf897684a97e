"""`feinschliff eval import | export | report | matrix | cancel`, and `feinschliff prompt`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table

from feinschliff.cli import eval_export, eval_files, evals, serving, uploads
from feinschliff.cli.errors import REFUSED
from feinschliff.cli.following import follow
from feinschliff.cli.names import expand, run_name, short
from feinschliff.cli.output import facts, table
from feinschliff.cli.pages import every
from feinschliff.cli.progress import ProgressView
from feinschliff.cli.services import refusals
from feinschliff.cli.session import Json, Project, Session, open_session
from feinschliff.cli.words import failure, moment, state
from feinschliff.v1 import common_pb2
from feinschliff.v1 import evaluation_pb2 as pb

RunName = Annotated[str, typer.Argument(metavar="RUN", help="`EVAL/RUN`, or a whole name.")]
EvalName = Annotated[str, typer.Argument(metavar="EVAL", help="The last part of its name, or a whole name.")]
File = Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True)]
SEARCH_OVER = {
    pb.PromptOptimization.STATE_SUCCEEDED,
    pb.PromptOptimization.STATE_FAILED,
    pb.PromptOptimization.STATE_CANCELLED,
}
FORMS = {
    ".md": pb.RenderReportRequest.FORMAT_MARKDOWN,
    ".html": pb.RenderReportRequest.FORMAT_HTML,
    ".csv": pb.RenderReportRequest.FORMAT_CSV,
}


def import_(
    file: File,
    kind: Annotated[str, typer.Option(help=f"What the lines are: {', '.join(eval_files.KINDS)}.")],
    name: Annotated[str, typer.Option(help="Of the eval and of its dataset. Default: the file's name.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 512,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Make an eval of a file of questions: multiple choice, or word problems with a number as answer."""
    if kind not in eval_files.KINDS:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(eval_files.KINDS)}", param_hint="--kind")
    session = open_session(project, as_json)
    eval_id = name or uploads.dataset_id(file)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, f"{eval_id}.jsonl")
        with rows.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in eval_files.rows_of(file, kind))
        dataset = f"{session.names.parent}/datasets/{eval_id}"
        header = uploads.header(dataset, rows, split=uploads.Split(validation=0, test=1))
        version = uploads.send(session.services, header, rows)
    wanted = pb.Eval(
        dataset_version=version.name,
        graders=[eval_files.grader_of(kind, eval_files.options_in(file))],
        sampling=common_pb2.SamplingParams(temperature=0, max_tokens=max_tokens),
    )
    with refusals():
        request = pb.CreateEvalRequest(parent=session.names.parent, eval_id=eval_id, eval=wanted)
        made = session.services.evaluation.CreateEval(request)
    session.output.show(made, lambda: table(("EVAL", "DATA", "#ROWS"), [(eval_id, short(version.name), version.rows)]))


def export(
    run: RunName,
    file: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="`.jsonl` or `.parquet`.")],
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Write every item of a run to a file, with inputs, answer, grades, tokens and latency."""
    if file.suffix not in eval_export.FORMATS:
        raise typer.BadParameter(f"{file.name} ends with none of {', '.join(eval_export.FORMATS)}", param_hint="FILE")
    session = open_session(project, as_json)
    count = eval_export.export(session.services, run_name(run, project), file)
    session.output.show({"file": str(file), "items": count}, lambda: table(("FILE", "#ITEMS"), [(str(file), count)]))


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="`EVAL/RUN`; the first is the baseline.")],
    out: Annotated[Path, typer.Option(dir_okay=False, help=f"Ends with one of {', '.join(FORMS)}.")],
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Write a report of runs of one eval, each compared with the first."""
    if out.suffix not in FORMS:
        raise typer.BadParameter(f"{out.name} ends with none of {', '.join(FORMS)}", param_hint="--out")
    session = open_session(project, as_json)
    names = [run_name(run, project) for run in runs]
    with refusals():
        request = pb.RenderReportRequest(runs=names, format=FORMS[out.suffix])
        rendered = session.services.evaluation.RenderReport(request)
    out.write_text(rendered.text, encoding="utf-8")
    session.output.show({"file": str(out), "media_type": rendered.media_type}, lambda: table(("FILE",), [(str(out),)]))


def matrix(
    eval_: EvalName,
    model: Annotated[list[str], typer.Option(help="A model, version, alias, deployment or base URI; repeatable.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="`route/2`, or `route` for the newest; repeatable. Default: the eval's own."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Rows at most; 0: all.")] = 0,
    deploy: Annotated[bool, typer.Option("--deploy", help="Serve models first where nothing does.")] = False,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Measure every prompt with every model on the same rows, and show all means in one table."""
    session = open_session(project, as_json)
    evaluation = expand(eval_, "evals", project)
    models = [session.names.servable(one) for one in model]
    for one in models:
        serving.require(session, one, make=deploy)
    prompts = [prompt_version(session, one) for one in prompt] if prompt else [""]
    started = {
        (row, column): _start(session, evaluation, row, column, limit).name for row in prompts for column in models
    }
    runs = {
        place: evals.finished(session.services, session.output, name, title=short(name))
        for place, name in started.items()
    }
    columns = ("PROMPT", *(short(one) for one in models))
    rows = [(short(row) or "(the eval's)", *(_cell(runs[row, column]) for column in models)) for row in prompts]
    session.output.show(list(runs.values()), lambda: table(columns, rows))
    if any(run.state != pb.EvalRun.STATE_COMPLETED for run in runs.values()):
        raise typer.Exit(REFUSED)


def cancel(run: RunName, project: Project = "default", as_json: Json = False) -> None:
    """Stop a run; items that are done stay."""
    session = open_session(project, as_json)
    with refusals():
        stopped = session.services.evaluation.CancelEvalRun(pb.CancelEvalRunRequest(name=run_name(run, project)))
    session.output.show(stopped, lambda: evals.described(stopped))


prompts = typer.Typer(no_args_is_help=True, help="Prompts in versions that never change.")


@prompts.command()
def push(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One that exists gets a new version.")],
    user: Annotated[str, typer.Option(help="Template of the question, such as `{{ item.question }}`.")],
    system: Annotated[str, typer.Option(help="Template of the instructions before it.")] = "",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Store a prompt, or a new version of one."""
    session = open_session(project, as_json)
    turns = [(common_pb2.ROLE_SYSTEM, system), (common_pb2.ROLE_USER, user)]
    messages = [pb.TemplateMessage(role=role, text=text) for role, text in turns if text]
    wanted = pb.Prompt(messages=messages, description=description)
    with refusals():
        request = pb.CreatePromptRequest(parent=session.names.parent, prompt_id=name, prompt=wanted)
        made = session.services.evaluation.CreatePrompt(request)
    session.output.show(made, lambda: _prompts([made]))


@prompts.command("list")
def list_(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="List the versions of this prompt.")] = "",
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """List the newest version of each prompt, or all versions of one."""
    session = open_session(project, as_json)
    parent = expand(name, "prompts", project) if name else session.names.parent
    query = pb.ListPromptsRequest(parent=parent)
    found = every(session.services.evaluation.ListPrompts, query, lambda page: page.prompts)
    session.output.show(found, lambda: _prompts(found))


@prompts.command()
def optimize(
    eval_: EvalName,
    model: Annotated[str, typer.Option(help="Who answers: a model, version, alias, deployment or base URI.")],
    start: Annotated[str, typer.Option(help="`route/2` or `route`. Default: the eval's own prompt.")] = "",
    proposer: Annotated[str, typer.Option(help="Who writes proposals. Default: who answers.")] = "",
    candidates: Annotated[int, typer.Option(help="Prompts tried at most, 2 to 1000.")] = 32,
    examples: Annotated[int, typer.Option(help="Rows shown as examples at most, 0 to 64.")] = 0,
    seed: Annotated[int, typer.Option(help="Another seed goes another way.")] = 0,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Search for a better prompt on train rows; the best is judged on rows that the search did not see."""
    session = open_session(project, as_json)
    wanted = pb.PromptOptimization(
        eval=expand(eval_, "evals", project),
        model=session.names.servable(model),
        proposer_model=session.names.servable(proposer) if proposer else "",
        start_prompt=prompt_version(session, start) if start else "",
        candidates_max=candidates,
        examples_max=examples,
        seed=seed,
    )
    with refusals():
        request = pb.OptimizePromptRequest(parent=session.names.parent, prompt_optimization=wanted)
        made = session.services.evaluation.OptimizePrompt(request)
    found = _searched(session, made.name)
    session.output.show(found, lambda: _found(found))
    if found.state != pb.PromptOptimization.STATE_SUCCEEDED:
        raise typer.Exit(REFUSED)


def _searched(session: Session, name: str) -> pb.PromptOptimization:
    """Shows a search until it is over."""
    service = session.services.evaluation

    def open_stream(at: int) -> Iterator[pb.WatchPromptOptimizationResponse]:
        return service.WatchPromptOptimization(pb.WatchPromptOptimizationRequest(name=name, cursor=at))

    def is_over(one: pb.WatchPromptOptimizationResponse) -> bool:
        return one.prompt_optimization.state in SEARCH_OVER

    with ProgressView(session.output.err, short(name), is_silent=session.output.as_json) as view:
        for response in follow(open_stream, is_over):
            seen = response.prompt_optimization
            view.at(seen.progress.done, seen.progress.total, short(seen.best_prompt))
            if seen.state in SEARCH_OVER:
                return seen
    raise AssertionError("following ends with a final state")


def _found(seen: pb.PromptOptimization) -> Group:
    about = {
        "search": short(seen.name),
        "state": state(pb.PromptOptimization.State.Name, seen.state),
        "best prompt": short(seen.best_prompt),
        "tokens": f"{seen.usage.prompt_tokens} prompt, {seen.usage.completion_tokens} answer",
        "failure": failure(seen.failure),
    }
    return Group(facts(about), evals.compared(seen.comparison)) if seen.HasField("comparison") else Group(facts(about))


def prompt_version(session: Session, text: str) -> str:
    """`route/2` or `route` (the newest) as the whole name of a version."""
    if text.startswith("projects/"):
        return text
    name, _, version = text.partition("/")
    whole = expand(name, "prompts", session.names.project)
    if version:
        return f"{whole}/versions/{version.removeprefix('versions/')}"
    with refusals():
        return str(session.services.evaluation.GetPrompt(pb.GetPromptRequest(name=whole)).name)


def _start(session: Session, evaluation: str, prompt: str, model: str, limit: int) -> pb.EvalRun:
    template = pb.PromptTemplate(prompt=prompt) if prompt else None
    return evals.start_run(session.services, evaluation, model, limit=limit, prompt=template)


def _cell(run: pb.EvalRun) -> str:
    if run.state != pb.EvalRun.STATE_COMPLETED:
        return pb.EvalRun.State.Name(run.state).removeprefix("STATE_").lower()
    return f"{evals.mean(run.overall)} {evals.interval(run.overall)}"


def _prompts(found: list[pb.Prompt]) -> Table:
    rows = ((short(one.name), one.messages[-1].text[:60], one.sha256[:12], moment(one.create_time)) for one in found)
    return table(("PROMPT", "TEXT", "SHA256", "CREATED"), rows)
