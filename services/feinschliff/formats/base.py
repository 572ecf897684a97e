"""The one base of everything stored: immutable, and strict about unknown fields."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """A value object that is written to storage as JSON; unknown fields are refused, never dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    def settled(self, **defaults: Any) -> Self:
        """A copy with `defaults` that follow from something beside it, where nothing was set; they count as not set."""
        values = {name: value for name, value in defaults.items() if name not in self.model_fields_set}
        copy = self.model_copy(update=values)
        copy.model_fields_set.difference_update(values)
        return copy
