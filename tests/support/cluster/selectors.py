"""Label and field selectors, as far as clients here use them."""

from __future__ import annotations

import re
from typing import Any

Object = dict[str, Any]

_TERM = re.compile(r"([^=!,\s]+)\s*(==|=|!=)\s*([^,]*)")
_SET = re.compile(r"([^\s,]+)\s+(in|notin)\s+\(([^)]*)\)")


def selects(made: Object, labels: str, fields: str) -> bool:
    return _labels_match(made["metadata"].get("labels") or {}, labels) and _fields_match(made, fields)


def _labels_match(have: dict[str, str], selector: str) -> bool:
    for key, kind, values in _SET.findall(selector):
        inside = have.get(key) in [value.strip() for value in values.split(",")]
        if inside != (kind == "in"):
            return False
    for term in filter(None, (part.strip() for part in _SET.sub("", selector).split(","))):
        parsed = _TERM.fullmatch(term)
        if parsed is None:
            if (term.lstrip("!") in have) == term.startswith("!"):
                return False
        elif (have.get(parsed[1]) == parsed[3]) == (parsed[2] == "!="):
            return False
    return True


def _fields_match(made: Object, selector: str) -> bool:
    for term in filter(None, selector.split(",")):
        parsed = _TERM.fullmatch(term)
        assert parsed is not None, f"no field selector: {term}"
        if (str(_field(made, parsed[1])) == parsed[3]) == (parsed[2] == "!="):
            return False
    return True


def _field(made: Object, path: str) -> Any:
    value: Any = made
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return value
