"""The patches that the API takes: merge, JSON, and strategic for what has no lists to merge."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from tests.support.cluster.store import Refused

Object = dict[str, Any]

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json-patch+json"
_MERGE_KEYS = {"containers": "name", "env": "name", "volumes": "name", "conditions": "type", "ownerReferences": "uid"}


def patcher(content_type: str, patch: Any) -> Callable[[Object], None]:
    match content_type.partition(";")[0]:
        case "application/merge-patch+json":
            return lambda made: _into(made, _merged(made, patch, strategic=False))
        case "application/strategic-merge-patch+json":
            return lambda made: _into(made, _merged(made, patch, strategic=True))
        case "application/json-patch+json":
            return lambda made: _apply(made, patch)
    raise Refused(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {content_type}")


def _into(made: Object, result: Object) -> None:
    made.clear()
    made.update(result)


def _merged(have: Any, patch: Any, *, strategic: bool, key: str = "") -> Any:
    if strategic and isinstance(patch, list) and key in _MERGE_KEYS and isinstance(have, list):
        return _merged_list(have, patch, _MERGE_KEYS[key])
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(have) if isinstance(have, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value, strategic=strategic, key=name)
    return result


def _merged_list(have: list[Any], patch: list[Any], by: str) -> list[Any]:
    result = list(have)
    for one in patch:
        place = next((index for index, old in enumerate(result) if old.get(by) == one.get(by)), None)
        if place is None:
            result.append(one)
        else:
            result[place] = _merged(result[place], one, strategic=True)
    return result


def _apply(made: Object, operations: list[Object]) -> None:
    for one in operations:
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in one["path"].split("/")[1:]]
        place: Any = made
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place[part]
        match one["op"]:
            case "test" if place.get(last) != one["value"]:
                raise Refused(422, "Invalid", f"the test of {one['path']} failed")
            case "add" | "replace":
                place[last] = one["value"]
            case "remove":
                del place[last]
