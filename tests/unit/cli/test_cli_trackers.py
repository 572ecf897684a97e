"""A tracker is said in a word."""

from __future__ import annotations

import pytest
import typer

from feinschliff.cli.trackers import tracker_of
from feinschliff.v1 import training_pb2 as pb


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "mlflow=http://mlflow:5000,routing",
            pb.Tracker(mlflow=pb.MlflowTracker(tracking_uri="http://mlflow:5000", experiment="routing")),
        ),
        (
            "mlflow=https://mlflow.example.com, routing, team",
            pb.Tracker(
                mlflow=pb.MlflowTracker(
                    tracking_uri="https://mlflow.example.com", experiment="routing", credentials_secret="team"
                )
            ),
        ),
        ("wandb=routing", pb.Tracker(wandb=pb.WandbTracker(project="routing"))),
        ("wandb=routing,team", pb.Tracker(wandb=pb.WandbTracker(project="routing", credentials_secret="team"))),
    ],
)
def test_a_word_is_a_tracker(text: str, expected: pb.Tracker) -> None:
    assert tracker_of(text) == expected


@pytest.mark.parametrize("text", ["mlflow", "mlflow=http://x", "wandb=", "wandb=a,b,c", "comet=x", ""])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        tracker_of(text)
