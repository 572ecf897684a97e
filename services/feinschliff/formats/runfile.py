"""What one attempt of one job needs to know; the service hands it to the trainer."""

from __future__ import annotations

from pydantic import Field

from feinschliff.formats.base import Stored
from feinschliff.formats.recipe import Recipe


class DataPart(Stored):
    """Rows to read: a store prefix that holds a committed data set version, and what to take of it."""

    dataset_version: str
    prefix: str = Field(description="Store prefix with manifest.json and one JSONL file a split.")
    sha256: str = Field(description="Content hash of the version; the trainer refuses other content.")
    splits: list[str] = Field(min_length=1, description="`train`, `validation`, `test`.")
    weight: float = 1.0
    task: str = Field("", description="What its rows are reported under; empty: the data set version.")

    @property
    def task_name(self) -> str:
        """What its rows are told apart by."""
        return self.task or self.dataset_version


class Runfile(Stored):
    """One attempt; equal for all attempts of a job but for `attempt` and `energy_before`."""

    job: str = Field(description="`projects/{p}/trainingJobs/{j}`.")
    job_uid: str = Field("", description="Unique over all installations; a job that is made anew has another.")
    energy_before: float = Field(0.0, ge=0, description="Joules that the job has used so far.")
    attempt: int = Field(ge=1)
    recipe: Recipe
    base_model: str = Field(description="Base URI, resolved: from the recipe or from the version it continues.")
    base_digest: str = Field("", description="Expected digest; empty: not known yet, the trainer reports it.")
    initial_adapter_prefix: str = Field("", description="Store prefix of the adapter to continue from; empty: fresh.")
    train: list[DataPart] = Field(min_length=1)
    validation: list[DataPart] = Field(default_factory=list)
    prefix: str = Field(description="Store prefix of the job: checkpoints/, result/, tensorboard/ lie below it.")
