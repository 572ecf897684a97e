"""The environment of the inference service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from feinschliff.kit.settings import Settings

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM 0.31 can be started with


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
    inference_lookup_tokens_max: int = Field(
        16,
        ge=0,
        le=64,
        description="Most tokens of an answer that are looked up in its own text and checked in one step; it changes"
        " speed and nothing else. 0 looks none up.",
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

    inference_vllm_urls: str = Field(
        "", description="vLLM servers that run elsewhere, separated by commas; empty: one is started for each base."
    )
    inference_vllm_api_key: SecretStr = Field(SecretStr(""), description="Key of the vLLM servers that run elsewhere.")
    inference_vllm_command: str = Field("vllm serve", description="Program and first arguments that start vLLM here.")
    inference_vllm_arguments: str = Field(
        "", description="Further arguments of vLLM servers that are started here, such as --max-model-len 8192."
    )
    inference_vllm_start_seconds: float = Field(
        900, gt=0, le=7200, description="Until a vLLM server answers, loading the base included."
    )
    inference_vllm_memory_share: float = Field(
        0.9, gt=0, le=1, description="Share of a GPU's memory for a vLLM server that is started here."
    )
    inference_vllm_lora_rank_max: int = Field(
        64, description="Highest rank of adapters on vLLM: 8, 16, 32, 64, 128, 256, 320 or 512."
    )
    inference_vllm_adapters_max: int = Field(
        8, ge=1, le=256, description="Adapters that vLLM computes in one step; more of them take turns."
    )
    inference_vllm_folder: Path = Field(
        Path("{home}/vllm"),
        description="Folder for adapters that vLLM servers elsewhere read too; {home} is filled in.",
    )
    inference_vllm_folder_there: str = Field(
        "", description="That folder as those servers see it; empty: by the same name."
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

    @field_validator("inference_vllm_lora_rank_max")
    @classmethod
    def _known_rank(cls, rank: int) -> int:
        if rank not in LORA_RANKS:
            raise ValueError(f"vLLM takes one of {', '.join(map(str, LORA_RANKS))}")
        return rank

    @property
    def vllm_dir(self) -> Path:
        return Path(str(self.inference_vllm_folder).replace("{home}", str(self.home))).absolute()

    @property
    def spool_dir(self) -> Path:
        return Path(str(self.inference_spool).replace("{home}", str(self.home))).absolute()

    @property
    def cache_dir(self) -> Path:
        return Path(str(self.inference_cache).replace("{home}", str(self.home))).absolute()
