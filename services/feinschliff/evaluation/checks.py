"""Limits of what people write about evals and runs; every refusal names its field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from feinschliff.evaluation.resources import Sampling
from feinschliff.graders.spec import refused

PAIRS_MAX = 64
KEY_CHARACTERS_MAX = 64
LABEL_CHARACTERS_MAX = 512
ANNOTATION_CHARACTERS_MAX = 4096
DISPLAY_NAME_CHARACTERS_MAX = 256
DESCRIPTION_CHARACTERS_MAX = 4096
CONCURRENCY_MAX = 256
SAMPLES_MAX = 128
TOOLS_MAX = 128
_TOOL_NAME = re.compile("[A-Za-z0-9_-]{1,64}")


def check_text(value: str, field: str, characters_max: int) -> None:
    if len(value) > characters_max:
        message = f"{field} has {len(value)} characters; at most {characters_max} are kept."
        raise refused("TEXT_TOO_LONG", field, message, characters=len(value))


def check_labels(pairs: Mapping[str, str], field: str, value_characters_max: int) -> None:
    if len(pairs) > PAIRS_MAX:
        message = f"{field} has {len(pairs)} pairs; at most {PAIRS_MAX} are kept."
        raise refused("LABELS_INVALID", field, message, pairs=len(pairs))
    for key, value in pairs.items():
        if not 1 <= len(key) <= KEY_CHARACTERS_MAX or len(value) > value_characters_max:
            message = (
                f"A key of {field} has 1 to {KEY_CHARACTERS_MAX} characters, a value at most {value_characters_max}; "
                f"{key[:80]!r} has {len(key)} and {len(value)}."
            )
            raise refused("LABELS_INVALID", field, message, key=key[:80])


def check_words(
    display_name: str, description: str, labels: Mapping[str, str], annotations: Mapping[str, str], field: str
) -> None:
    check_text(display_name, f"{field}.display_name", DISPLAY_NAME_CHARACTERS_MAX)
    check_text(description, f"{field}.description", DESCRIPTION_CHARACTERS_MAX)
    check_labels(labels, f"{field}.labels", LABEL_CHARACTERS_MAX)
    check_labels(annotations, f"{field}.annotations", ANNOTATION_CHARACTERS_MAX)


def check_sampling(sampling: Sampling, field: str, *, samples_max: int = SAMPLES_MAX) -> None:
    """Refuses what no model takes, so that not every item of a run fails by it."""
    _within(sampling, "temperature", field, 0, 2)
    _within(sampling, "top_p", field, 0, 1, is_low_open=True)
    _within(sampling, "max_tokens", field, 1, 2**31 - 1)
    _within(sampling, "n", field, 1, samples_max)


def samples_of(sampling: Sampling, field: str) -> int:
    """Answers per row; several need chance, or all of them are the same answer."""
    samples = int(str(sampling.get("n", 1)))
    if samples > 1 and not sampling.get("temperature"):
        message = f"{samples} answers per row at temperature 0 are one answer; set a temperature above 0, or n to 1."
        raise refused("SAMPLING_INVALID", f"{field}.n", message, n=samples)
    return samples


def check_tools(tools: Sequence[Mapping[str, object]], field: str) -> None:
    if len(tools) > TOOLS_MAX:
        message = f"At most {TOOLS_MAX} tools are offered; these are {len(tools)}."
        raise refused("TOOLS_INVALID", field, message, count=len(tools))
    names = [str(tool.get("name", "")) for tool in tools]
    for index, name in enumerate(names):
        if not _TOOL_NAME.fullmatch(name) or name in names[:index]:
            message = f"{name[:80]!r} must be 1 to 64 letters, digits, _ and -, and unique."
            raise refused("TOOLS_INVALID", f"{field}[{index}].name", message, name=name[:80])


def check_size(limit: int, concurrency: int) -> None:
    if limit < 0:
        raise refused("LIMIT_INVALID", "eval_run.limit", f"limit is {limit}; it is 0 (all) or more.", limit=limit)
    if not 0 <= concurrency <= CONCURRENCY_MAX:
        message = f"concurrency is {concurrency}; it is 1 to {CONCURRENCY_MAX}, or 0 for the installation's default."
        raise refused("CONCURRENCY_INVALID", "eval_run.concurrency", message, concurrency=concurrency)


def check_level(level: float, seed: int) -> None:
    if not 0.5 <= level <= 0.999:
        raise refused("LEVEL_INVALID", "level", f"level is {level}; it is 0.5 to 0.999.", level=level)
    if seed < 0:
        raise refused("SEED_INVALID", "seed", f"seed is {seed}; it is 0 or more.", seed=seed)


def _within(sampling: Sampling, name: str, field: str, low: float, high: float, *, is_low_open: bool = False) -> None:
    value = sampling.get(name)
    if value is None:
        return
    is_inside = isinstance(value, int | float) and low <= value <= high and not (is_low_open and value == low)
    if not is_inside:
        words = f"above {low} to {high}" if is_low_open else f"{low} to {high}"
        message = f"{name} is {value}; it is {words}."
        raise refused("SAMPLING_INVALID", f"{field}.{name}", message, name=name, value=value)
