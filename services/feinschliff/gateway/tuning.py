"""The body of a new fine-tuning job, what `auto` means in it, and the recipe that it becomes.

`auto` is resolved from the number of training rows, before the job exists, and the numbers are part of every answer:
n_epochs and batch_size by the rules of `formats.auto`, which training's own `auto` follows too;
learning_rate_multiplier is 1 and scales the recipe's own default rate for adapters, 2e-4.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, JsonValue, model_validator

from feinschliff.formats.auto import batch_size_for, epochs_for
from feinschliff.formats.optimisation import Optimisation
from feinschliff.gateway.bodies import Auto, Body, Metadata
from feinschliff.gateway.errors import invalid, unsupported

BASE_LEARNING_RATE: float = Optimisation.model_fields["learning_rate"].default
LEARNING_RATE_MAX = 1.0
SEED_MAX = 2_147_483_647


class Hyperparameters(Body):
    n_epochs: Annotated[Annotated[int, Field(ge=1, le=50)] | None, Auto] = None
    batch_size: Annotated[Annotated[int, Field(ge=1, le=256)] | None, Auto] = None
    learning_rate_multiplier: Annotated[
        Annotated[float, Field(gt=0, le=LEARNING_RATE_MAX / BASE_LEARNING_RATE)] | None, Auto
    ] = None


class Supervised(Body):
    hyperparameters: Hyperparameters | None = None


class Method(Body):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: JsonValue = None
    reinforcement: JsonValue = None


class JobBody(Body):
    """`POST /v1/fine_tuning/jobs`."""

    model: str = Field(min_length=1, max_length=1024)
    training_file: str = Field(min_length=1, max_length=256)
    validation_file: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=SEED_MAX)] | None = None
    metadata: Metadata = None
    integrations: Annotated[list[JsonValue], Field(max_length=5)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: object) -> object:
        """Null for an optional object means the same as leaving it out."""
        if not isinstance(given, dict):
            return given
        return {key: value for key, value in given.items() if value is not None or key in ("model", "training_file")}

    def check_served(self) -> None:
        """Refuses what is valid at OpenAI and not served here; nothing that changes the result is ignored.

        Raises:
            ApiError: 400 unsupported_parameter, naming the parameter.
        """
        if self.method is not None and self.method.type != "supervised":
            raise unsupported(
                "method.type",
                f"The method '{self.method.type}' is not served by this version; only 'supervised' is.",
            )
        if self.method is not None and (self.method.dpo is not None or self.method.reinforcement is not None):
            extra = "dpo" if self.method.dpo is not None else "reinforcement"
            raise invalid(f"method.{extra}", f"'method.{extra}' does not belong to method.type 'supervised'.")
        if self.integrations:
            raise unsupported(
                "integrations",
                "Integrations are not served by this version. TensorBoard files are always written; see the job's"
                " events for the numbers.",
            )

    @property
    def asked(self) -> Hyperparameters:
        """From `method.supervised` where it says something, else from the older `hyperparameters`."""
        supervised = self.method.supervised if self.method is not None else None
        newer = (supervised and supervised.hyperparameters) or Hyperparameters()
        older = self.hyperparameters or Hyperparameters()
        return older.model_copy(update=newer.model_dump(exclude_none=True))


class Resolved(NamedTuple):
    """Hyperparameters as numbers."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float

    @property
    def learning_rate(self) -> float:
        return BASE_LEARNING_RATE * self.learning_rate_multiplier


def resolve(asked: Hyperparameters, *, rows: int) -> Resolved:
    """`auto` as numbers, by the module's rule; `rows` is the number of training rows."""
    return Resolved(
        asked.n_epochs or epochs_for(rows),
        asked.batch_size or batch_size_for(rows),
        asked.learning_rate_multiplier or 1.0,
    )
