"""Trackers in a word: `mlflow=URL,EXPERIMENT[,SECRET]` and `wandb=PROJECT[,SECRET]`."""

from __future__ import annotations

import typer

from feinschliff.v1 import training_pb2 as pb

HELP = "Also send numbers to mlflow=URL,EXPERIMENT[,SECRET] or wandb=PROJECT[,SECRET]; repeatable."


def tracker_of(text: str) -> pb.Tracker:
    """Raises typer.BadParameter for other words; whether there is such a secret only the service knows."""
    kind, _, rest = text.partition("=")
    match kind, [part.strip() for part in rest.split(",")]:
        case "mlflow", [url, experiment, *secret] if url and experiment and len(secret) <= 1:
            return pb.Tracker(
                mlflow=pb.MlflowTracker(tracking_uri=url, experiment=experiment, credentials_secret="".join(secret))
            )
        case "wandb", [project, *secret] if project and len(secret) <= 1:
            return pb.Tracker(wandb=pb.WandbTracker(project=project, credentials_secret="".join(secret)))
    raise typer.BadParameter(
        f"{text!r} is neither mlflow=URL,EXPERIMENT[,SECRET] nor wandb=PROJECT[,SECRET]", param_hint="--tracker"
    )
