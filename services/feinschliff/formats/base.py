"""The one base of everything stored: immutable, and strict about unknown fields."""

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """A value object that is written to storage as JSON; unknown fields are refused, never dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
