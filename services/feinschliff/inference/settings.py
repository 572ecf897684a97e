"""The environment of the inference service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from feinschliff.kit.settings import Settings


class InferenceSettings(Settings):
    """FEINSCHLIFF_INFERENCE_ROWS_MAX sets `inference_rows_max`."""

    call_timeout_seconds: float = Field(
        300, gt=0, description="Deadline of a unary call that brings none; long answers on a CPU take minutes."
    )
    inference_port: int = Field(50055, ge=0, le=65535, description="Port of the gRPC server.")
    inference_metrics_port: int = Field(9105, ge=0, le=65535, description="Port of the metrics.")
    inference_cache: Path = Field(
        Path("{home}/cache/bases"), description="Folder for base models, shared with training; {home} is filled in."
    )
    inference_replica_id: str = Field("", description="Name of this copy; empty: the host's name.")
    inference_rows_max: int = Field(32, ge=1, le=1024, description="Requests of one base that are generated at once.")
    inference_queue_max: int = Field(64, ge=0, le=100_000, description="Requests of one base that wait for a place.")
    inference_prefill_tokens_per_step: int = Field(
        512, ge=16, le=65_536, description="Prompt tokens read between two decode steps; fewer delay others less."
    )
    inference_kv_cache_bytes_max: int = Field(
        2 * 1024**3, ge=1024**2, description="Memory of a base for attention keys and values; also bounds the context."
    )
    inference_prefix_cache_bytes_max: int = Field(
        256 * 1024**2, ge=0, description="Memory of a base for what prompts of a project begin with; 0 keeps nothing."
    )
    inference_answer_tokens_default: int = Field(
        2048,
        ge=0,
        le=10_000_000,
        description="Longest answer where neither the call nor its deployment or model says one, so that no such call"
        " reserves the whole context; 0: what the context has left.",
    )
    inference_threads: int = Field(0, ge=0, le=1024, description="CPU threads of the engines; 0 leaves it to torch.")
    inference_project_requests_max: int = Field(
        0, ge=0, le=100_000, description="Calls of one project that may run or wait at once on a copy; 0 is no limit."
    )
    inference_shadow_max: int = Field(
        8, ge=0, le=1024, description="Copies of calls for shadow routes that wait or run at once; more are dropped."
    )
    inference_adapter_bytes_max: int = Field(
        0,
        ge=0,
        description="Memory of all adapters beyond which those loaded on demand go, longest unused first; 0: no bound.",
    )
    inference_adapter_idle_seconds: float = Field(
        0,
        ge=0,
        le=604_800,
        description="An adapter loaded on demand goes when unused for so long; 0: it stays.",
    )
    inference_turn_seconds: float = Field(1.0, gt=0, le=60, description="Between two looks of the reconciler.")
    inference_alias_seconds: float = Field(2.0, ge=0, le=60, description="How long an alias's target is believed.")
    inference_on_demand_wait_seconds: float = Field(
        120, gt=0, le=3600, description="A call waits this long, and never beyond its deadline, for a model to load."
    )

    inference_spool: Path = Field(
        Path("{home}/spool/completions"),
        description="Folder for exchanges on their way to the completion log; {home} is filled in."
        " On a volume they outlive the pod.",
    )
    inference_spool_bytes_max: int = Field(
        256 * 1024**2, ge=1024**2, description="Most that the spool may hold; what comes beyond is dropped and counted."
    )
    inference_spool_batch: int = Field(
        16, ge=1, le=256, description="Exchanges that are on their way to ingestion at once."
    )

    @property
    def spool_dir(self) -> Path:
        return Path(str(self.inference_spool).replace("{home}", str(self.home))).absolute()

    @property
    def cache_dir(self) -> Path:
        return Path(str(self.inference_cache).replace("{home}", str(self.home))).absolute()
