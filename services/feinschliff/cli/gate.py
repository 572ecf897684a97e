"""`feinschliff gate`: what a release must show, and whether a model shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format
from rich.console import Group

from feinschliff.cli.errors import REFUSED
from feinschliff.cli.following import follow
from feinschliff.cli.names import expand, short
from feinschliff.cli.output import Output, facts, table
from feinschliff.cli.pages import every
from feinschliff.cli.progress import ProgressView
from feinschliff.cli.services import Services, refusals
from feinschliff.cli.session import Json, Project, Session, open_session
from feinschliff.cli.words import failure, moment, state
from feinschliff.v1 import evaluation_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="Decide by evals whether a model may be released.")
FINAL = {pb.Verdict.STATE_PASSED, pb.Verdict.STATE_REFUSED, pb.Verdict.STATE_FAILED}
_EVALS = "EVAL, or EVAL=NUMBER; may be repeated."


@app.command()
def create(
    gate: Annotated[str, typer.Argument(metavar="GATE", help="Its name, such as `release`.")],
    gain: Annotated[list[str] | None, typer.Option(help=f"Better than the base, by NUMBER. {_EVALS}")] = None,
    no_loss: Annotated[list[str] | None, typer.Option(help=f"Not worse, by more than NUMBER. {_EVALS}")] = None,
    floor: Annotated[list[str] | None, typer.Option(help="A mean of at least NUMBER: EVAL=NUMBER.")] = None,
    rules: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="JSON of a GatePolicy, for every kind of rule.")
    ] = None,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Make a gate of one rule or more; a model passes where all of them hold."""
    policy = pb.GatePolicy()
    if rules is not None:
        try:
            json_format.Parse(rules.read_text("utf-8"), policy)
        except (json_format.ParseError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{rules} is no GatePolicy: {error}", param_hint="--rules") from error
    policy.rules.extend(rules_of(gain or [], no_loss or [], floor or [], project))
    if not policy.rules:
        raise typer.BadParameter("a gate needs at least one rule", param_hint="--gain, --no-loss, --floor or --rules")
    session = open_session(project, as_json)
    request = pb.CreateGatePolicyRequest(parent=session.names.parent, gate_policy_id=gate, gate_policy=policy)
    with refusals():
        made = session.services.evaluation.CreateGatePolicy(request)
    session.output.show(made, lambda: facts({"gate": short(made.name), "rules": len(made.rules)}))


@app.command()
def evaluate(
    gate: Annotated[str, typer.Argument(metavar="GATE", help="A gate's name.")],
    model: Annotated[str, typer.Argument(metavar="VERSION", help="`intents/3`, or `intents` for the newest.")],
    baseline: Annotated[str, typer.Option(help="Model to compare with. Default: the version's own base.")] = "",
    wait: Annotated[bool, typer.Option(help="Stay until the verdict is given.")] = True,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Measure a version against a gate; it must be served, and so must what it is compared with."""
    session = open_session(project, as_json)
    candidate = session.names.model_version(model)
    compared = session.names.servable(baseline) if baseline else ""
    name = expand(gate, "gatePolicies", project)
    with refusals():
        begun = session.services.evaluation.EvaluateGate(
            pb.EvaluateGateRequest(gate_policy=name, candidate=candidate, baseline=compared)
        )
    _show(session, given(session.services, session.output, begun.name) if wait else begun, must_pass=wait)


@app.command()
def show(
    verdict: Annotated[str, typer.Argument(metavar="VERDICT", help="`GATE/VERDICT`, or a whole name.")],
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Show a verdict with the numbers of every rule."""
    session = open_session(project, as_json)
    gate, _, one = verdict.partition("/")
    name = verdict if verdict.startswith("projects/") else f"{expand(gate, 'gatePolicies', project)}/verdicts/{one}"
    with refusals():
        found = session.services.evaluation.GetVerdict(pb.GetVerdictRequest(name=name))
    _show(session, found, must_pass=False)


@app.command("list")
def list_(
    gate: Annotated[str, typer.Argument(metavar="[GATE]", help="List the verdicts of this gate.")] = "",
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """List the gates of the project, or the verdicts of one."""
    session = open_session(project, as_json)
    if not gate:
        query = pb.ListGatePoliciesRequest(parent=session.names.parent)
        gates = every(session.services.evaluation.ListGatePolicies, query, lambda page: page.gate_policies)
        made = ((short(one.name), ", ".join(rule.id for rule in one.rules), moment(one.create_time)) for one in gates)
        session.output.show(gates, lambda: table(("GATE", "RULES", "CREATED"), made))
        return
    asked = pb.ListVerdictsRequest(parent=expand(gate, "gatePolicies", project))
    verdicts = every(session.services.evaluation.ListVerdicts, asked, lambda page: page.verdicts)
    rows = (
        (short(one.name), short(one.candidate), state(pb.Verdict.State.Name, one.state), moment(one.create_time))
        for one in verdicts
    )
    session.output.show(verdicts, lambda: table(("VERDICT", "MODEL", "STATE", "CREATED"), rows))


def rules_of(gain: list[str], no_loss: list[str], floor: list[str], project: str) -> Iterator[pb.GateRule]:
    """One rule per option; raises BadParameter for a number that is none."""
    for index, text in enumerate(gain):
        eval_, number = _split(text, "--gain")
        rule = pb.GateRule(id=f"gain-{index + 1}", eval=expand(eval_, "evals", project))
        rule.gain.difference_min = number or 0.0
        yield rule
    for index, text in enumerate(no_loss):
        eval_, number = _split(text, "--no-loss")
        demand = pb.NoLossDemand() if number is None else pb.NoLossDemand(margin=number)
        yield pb.GateRule(id=f"no-loss-{index + 1}", eval=expand(eval_, "evals", project), no_loss=demand)
    for index, text in enumerate(floor):
        eval_, number = _split(text, "--floor")
        if number is None:
            raise typer.BadParameter(f"{text!r} says no mean; write EVAL=NUMBER", param_hint="--floor")
        demand_ = pb.FloorDemand(mean_min=number)
        yield pb.GateRule(id=f"floor-{index + 1}", eval=expand(eval_, "evals", project), floor=demand_)


def given(services: Services, output: Output, name: str) -> pb.Verdict:
    """Shows a verdict until it is given; the verdict as it ended."""

    def open_stream(at: int) -> Iterator[pb.WatchVerdictResponse]:
        return services.evaluation.WatchVerdict(pb.WatchVerdictRequest(name=name, cursor=at))

    with ProgressView(output.err, short(name), is_silent=output.as_json) as view:
        for response in follow(open_stream, lambda one: one.verdict.state in FINAL):
            seen = response.verdict
            view.at(seen.progress.done, seen.progress.total, "")
            if seen.state in FINAL:
                return seen
    raise AssertionError("following ends with a final state")


def described(verdict: pb.Verdict) -> Group:
    """A verdict as a person reads it."""
    said = {
        "verdict": short(verdict.name),
        "candidate": short(verdict.candidate),
        "baseline": short(verdict.baseline),
        "state": state(pb.Verdict.State.Name, verdict.state),
        "failure": failure(verdict.failure),
    }
    rows = ((one.rule_id, "yes" if one.holds else "no", one.why) for one in verdict.outcomes)
    return Group(facts(said), *([table(("RULE", "HOLDS", "WHY"), rows)] if verdict.outcomes else []))


def _show(session: Session, verdict: pb.Verdict, *, must_pass: bool) -> None:
    session.output.show(verdict, lambda: described(verdict))
    if must_pass and verdict.state != pb.Verdict.STATE_PASSED:
        raise typer.Exit(REFUSED)


def _split(text: str, option: str) -> tuple[str, float | None]:
    eval_, has_number, number = text.partition("=")
    try:
        return eval_, float(number) if has_number else None
    except ValueError as error:
        raise typer.BadParameter(f"{number!r} is no number", param_hint=option) from error
