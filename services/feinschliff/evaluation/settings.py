"""The environment of evaluation."""

from __future__ import annotations

from pydantic import Field

from feinschliff.kit.settings import Settings


class EvaluationSettings(Settings):
    """Shared settings and those of this room, such as FEINSCHLIFF_EVALUATION_CONCURRENCY."""

    evaluation_port: int = Field(50053, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    evaluation_metrics_port: int = Field(9103, ge=0, le=65535, description="Metrics port; 0 takes a free one.")
    evaluation_concurrency: int = Field(
        4, ge=1, le=256, description="Answers asked for at the same time by a run that does not say."
    )
    evaluation_runs_at_once: int = Field(2, ge=1, le=100, description="Runs that one process works on; others wait.")
    evaluation_answer_timeout_seconds: float = Field(
        300, gt=0, description="Deadline of one answer, the loading of an adapter on demand included."
    )
    evaluation_attempts: int = Field(
        3, ge=1, le=20, description="Times that an answer is asked for before its failure counts, unless a wait helps."
    )
    evaluation_patience_seconds: float = Field(
        300, ge=0, description="How long a run waits for inference or ingestion to come back before it fails."
    )
    evaluation_lease_seconds: float = Field(
        15, gt=0, description="A run whose process does not renew its lease for this long is taken over."
    )
    evaluation_reconcile_seconds: float = Field(1, gt=0, description="Between two looks at the runs.")
