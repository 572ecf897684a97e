"""What can be trained here: which pairs of objective and adaptation, with which numbers in which bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from feinschliff.formats.base import Stored
from feinschliff.formats.recipe import SERVED, Recipe
from feinschliff.formats.tasks import separable
from feinschliff.training import auto

SOURCES = {  # where a default comes from, by the end of its path
    "lora.rank": "Biderman et al. 2024, arXiv:2405.09673",
    "lora.alpha": "Biderman et al. 2024, arXiv:2405.09673",
    "optimisation.learning_rate": "Dettmers et al. 2023, arXiv:2305.14314; adapters do well with 1e-4 to 2e-4",
    "optimisation.decay_fraction": "Hägele et al. 2024, arXiv:2405.18392",
    "optimisation.neftune_alpha": "Jain et al. 2023, arXiv:2310.05914",
    "gradual_unfreezing.epochs_per_group": "Howard and Ruder 2018, arXiv:1801.06146",
    "gradual_unfreezing.rate_divisor": "Howard and Ruder 2018, arXiv:1801.06146",
    "half_fine_tuning.steps_per_round": "Hui et al. 2024, arXiv:2404.18466",
}
UNITS = {  # by a word of the field's name
    "seconds": "s",
    "steps": "steps",
    "epochs": "epochs",
    "tokens": "tokens",
    "attempts": "attempts",
    "batch": "rows",
    "layers": "layers",
    "gain": "nats per token",
    "keep": "checkpoints",
    "patience": "measurements",
}


@dataclass(frozen=True)
class Technique:
    """One pair; `reason` says why it is not served, and is empty where it is.

    Args:
        task_adapters: whether every task may have an adapter of its own.
    """

    objective: str
    adaptation: str
    supported: bool
    reason: str = ""
    task_adapters: bool = False


@dataclass(frozen=True)
class Rule:
    """Bounds of one number of a recipe; None is no bound, or no default."""

    path: str
    unit: str
    default: float | None
    minimum: float | None = None
    maximum: float | None = None
    minimum_excluded: bool = False
    maximum_excluded: bool = False
    source: str = ""
    auto_rule: str = ""


def techniques(objectives: Sequence[str], adaptations: Sequence[str]) -> list[Technique]:
    """Every pair of what the contract names."""
    return [_technique(objective, adaptation) for objective in objectives for adaptation in adaptations]


def rules() -> list[Rule]:
    """Every number of a recipe, by the path that it has in the contract."""
    return list(_rules_of(Recipe, ()))


def _technique(objective: str, adaptation: str) -> Technique:
    anywhere = {name for names in SERVED.values() for name in names}
    if adaptation in SERVED.get(objective, ()):
        return Technique(objective, adaptation, supported=True, task_adapters=separable(objective, adaptation))
    if objective not in SERVED:
        why = f"This version does not serve the objective `{objective}`."
    elif adaptation not in anywhere:
        why = f"This version does not serve the adaptation `{adaptation}`."
    else:
        why = f"`{objective}` is not trained with `{adaptation}`."
    return Technique(objective, adaptation, supported=False, reason=why)


def _rules_of(model: type[Stored], path: tuple[str, ...]) -> Iterator[Rule]:
    for name, info in model.model_fields.items():
        types = list(_types(info.annotation))
        if float in types or int in types:
            yield _rule((*path, name), info)
        for kind in (one for one in types if isinstance(one, type) and issubclass(one, Stored)):
            said = kind.model_fields.get("kind")  # the contract names a choice by its kind, not by its group
            yield from _rules_of(kind, (*path, name if said is None else str(said.default)))


def _types(annotation: Any) -> Iterable[Any]:
    """An annotation and all that it is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _types(part)


def _rule(path: tuple[str, ...], info: FieldInfo) -> Rule:
    bounds = {key: getattr(one, key) for one in info.metadata for key in ("ge", "gt", "le", "lt") if hasattr(one, key)}
    where = ".".join(path)
    is_number = isinstance(info.default, int | float) and not isinstance(info.default, bool)
    return Rule(
        path=where,
        unit=next((UNITS[word] for word in path[-1].split("_") if word in UNITS), ""),
        default=info.default if is_number else None,
        minimum=bounds.get("ge", bounds.get("gt")),
        maximum=bounds.get("le", bounds.get("lt")),
        minimum_excluded="gt" in bounds,
        maximum_excluded="lt" in bounds,
        source=next((source for end, source in SOURCES.items() if where.endswith(end)), ""),
        auto_rule=auto.RULES[where].says if where in auto.RULES else "",
    )
