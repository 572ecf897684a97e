"""Structs of the API as ordinary objects."""

from __future__ import annotations

from typing import Any

_WHOLE_MAX = 2**53  # beyond, a double does not tell neighbours apart


def plain(value: Any) -> Any:
    """A struct of the API or a value or list in it, as ordinary objects, keys sorted; whole numbers are integers."""
    kind = value.DESCRIPTOR.name
    if kind == "Struct":
        return {key: plain(one) for key, one in sorted(value.fields.items())}
    if kind == "ListValue":
        return [plain(one) for one in value.values]
    match value.WhichOneof("kind"):
        case "struct_value":
            return plain(value.struct_value)
        case "list_value":
            return plain(value.list_value)
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) < _WHOLE_MAX else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
    return None
