"""`feinschliff`: the command line."""

from __future__ import annotations

import sys

import grpc
import typer

from feinschliff.cli import (
    classify,
    dataset,
    demo,
    deploy,
    errors,
    eval_more,
    evaluate,
    gate,
    models,
    plan,
    platform,
    train,
)
from feinschliff.cli.services import refusal_of
from feinschliff.kit.errors import Refusal, StartError

WRONG_USAGE = 2


def app() -> typer.Typer:
    """All commands."""
    made = typer.Typer(
        name="feinschliff",
        help="Fine-tune models on your own machines: data in, better model out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    made.command()(platform.up)
    made.command()(platform.down)
    made.command()(platform.status)
    made.add_typer(dataset.app, name="dataset")
    made.command()(train.train)
    made.command()(plan.plan)
    made.command()(train.watch)
    made.command()(train.jobs)
    made.command()(train.cancel)
    made.command()(train.pause)
    made.command()(train.resume)
    made.command()(train.retry)
    made.command()(train.logs)
    made.add_typer(evaluate.app, name="eval")
    made.add_typer(eval_more.prompts, name="prompt")
    made.command()(evaluate.compare)
    made.add_typer(gate.app, name="gate")
    made.command()(deploy.deploy)
    made.command()(deploy.deployments)
    made.command()(deploy.chat)
    made.command()(classify.classify)
    made.add_typer(models.app, name="models")
    made.command()(demo.demo)
    return made


def main() -> None:
    try:
        app()()
    except Refusal as refusal:
        errors.show(refusal, in_json="--json" in sys.argv)
        sys.exit(errors.REFUSED)
    except grpc.RpcError as error:
        errors.show(refusal_of(error), in_json="--json" in sys.argv)
        sys.exit(errors.REFUSED)
    except StartError as error:
        print("\n".join(error.problems), file=sys.stderr)
        sys.exit(WRONG_USAGE)


if __name__ == "__main__":
    main()
