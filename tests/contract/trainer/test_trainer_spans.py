"""A trainer's part of the trace: its stages, under the request that made the job."""

from __future__ import annotations

from pathlib import Path

from feinschliff.kit import tracing
from tests.support.collector import collector
from tests.support.trainer import JOB, Workshop, rows

TRACE_ID, CREATION = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_an_attempts_stages_are_told_under_the_request_that_made_the_job(tmp_path: Path, tiny_model: Path) -> None:
    one = Workshop(tmp_path, tiny_model, train=rows(8))
    one.recipe = {"optimisation": {"epochs": 1, "batch_size": 4}, "checkpointing": {"every_steps": 1}}
    with collector() as receiver:
        one.environment = {
            "FEINSCHLIFF_OTLP_ENDPOINT": f"http://{receiver.address}",
            "FEINSCHLIFF_TRACE_SAMPLE_RATIO": "0",
            **tracing.environment(f"00-{TRACE_ID}-{CREATION}-01"),
        }
        one.run()
        attempt = receiver.named("attempt", service="feinschliff-trainer")
        loading, training = receiver.named("loading"), receiver.named("training")
        assert {span.trace_id for span in receiver.spans} == {TRACE_ID}
        assert (attempt.parent_id, attempt.attributes["job"]) == (CREATION, JOB)
        assert (loading.parent_id, training.parent_id) == (attempt.span_id, attempt.span_id)
        assert receiver.named("encoding").parent_id == loading.span_id
        assert receiver.named("committing the result").parent_id == attempt.span_id
        saved = [span for span in receiver.spans if span.name == "saving a checkpoint"]
        assert [span.attributes["step"] for span in saved] == [1, 2]
        assert {span.parent_id for span in saved} == {training.span_id}
        assert not any(span.failure for span in receiver.spans)
