"""The environment of evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from feinschliff.evaluation.grading.headers import SecretHeaders
from feinschliff.evaluation.grading.outside_judges import OutsideJudge, parse_headers, parse_judges
from feinschliff.kit.settings import ENV_PREFIX, Settings
from feinschliff.sandbox.call import MEMORY_BYTES_MAX, MEMORY_BYTES_MIN


class EvaluationSettings(Settings):
    """Shared settings and those of this room, such as FEINSCHLIFF_EVALUATION_CONCURRENCY."""

    evaluation_port: int = Field(50053, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    evaluation_metrics_port: int = Field(9103, ge=0, le=65535, description="Metrics port; 0 takes a free one.")
    evaluation_concurrency: int = Field(
        16, ge=1, le=256, description="Answers asked for at the same time by a run that does not say."
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
    evaluation_embedding_model: str = Field(
        "", description="Model that cosine graders ask which name none; empty: they must name one."
    )
    evaluation_judges: SecretStr = Field(
        SecretStr(""),
        description='Judges outside, by the name that graders give as model: JSON such as {"big": {"base_url": "https://'
        'host/v1", "model": "m", "api_key": "k"}}.',
    )
    evaluation_judge_timeout_seconds: float = Field(120, gt=0, description="Deadline of one answer of a judge outside.")
    evaluation_grader_headers: SecretStr = Field(
        SecretStr(""),
        description="Headers for endpoint graders, by the name in headers_secret, and their URLs: JSON such as "
        '{"mine": {"url_prefix": "https://host/path", "headers": {"authorization": "Bearer k"}}}.',
    )
    evaluation_private_endpoints: bool = Field(
        False, description="Whether endpoint graders may post to private addresses, and by plain http."
    )
    evaluation_sandbox: Literal["wasm", "bubblewrap"] = Field(
        "wasm",
        description="What Python graders run in: wasm, Python in WebAssembly, or bubblewrap, the program bwrap on "
        "a kernel that allows unprivileged namespaces.",
    )
    evaluation_sandbox_workers: int = Field(
        0, ge=0, le=256, description="Python grades computed at the same time; 0: one per processor, 2 to 8."
    )
    evaluation_sandbox_memory_bytes: int = Field(
        MEMORY_BYTES_MAX,
        ge=MEMORY_BYTES_MIN,
        le=MEMORY_BYTES_MAX,
        description="Memory of one Python grade; the workers together may need that many times their number.",
    )
    evaluation_sandbox_environments: dict[str, Path] = Field(
        {},
        description="Environments beside the default, by the name in image_tag: a zip of plain Python packages each, "
        'as JSON such as {"ours-1": "/etc/feinschliff/ours-1.zip"}. For wasm only.',
    )

    @model_validator(mode="after")
    def _environments_are_files(self) -> EvaluationSettings:
        for name, path in self.evaluation_sandbox_environments.items():
            if not path.is_file():
                raise ValueError(f"{ENV_PREFIX}EVALUATION_SANDBOX_ENVIRONMENTS: {name}: {path} is no file")
        return self

    @model_validator(mode="after")
    def _judges_and_headers_are_json(self) -> EvaluationSettings:
        for name, parse in (("evaluation_judges", parse_judges), ("evaluation_grader_headers", parse_headers)):
            try:
                parse(getattr(self, name).get_secret_value())
            except ValueError as error:
                raise ValueError(f"{ENV_PREFIX}{name.upper()}: {error}") from None
        return self

    @property
    def judges(self) -> Mapping[str, OutsideJudge]:
        return parse_judges(self.evaluation_judges.get_secret_value())

    @property
    def grader_headers(self) -> Mapping[str, SecretHeaders]:
        return parse_headers(self.evaluation_grader_headers.get_secret_value())
