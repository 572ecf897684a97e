"""`auto`: numbers of a recipe that the server chooses from the data and the base, each by a rule that it tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from feinschliff.formats.adaptations import default_learning_rate
from feinschliff.formats.auto import (
    ADVISED_ADAPTER_RATES,
    BATCH_RULE,
    EPOCHS_RULE,
    batch_size_for,
    epochs_for,
)
from feinschliff.formats.recipe import Recipe
from feinschliff.formats.steps import steps_of
from feinschliff.kit.errors import FieldViolation, Invalid
from feinschliff.training.architecture import Architecture, low_rank_of

EVERY = "*"
LOW_RANK = {"lora": "lora", "dora": "dora.lora", "qlora": "qlora.lora"}
"""Where the low-rank settings of an adaptation stand in the contract."""

LARGE_BASE_PARAMETERS = 30_000_000_000
WARMUP_FRACTION = 0.1
RANK_MIN, RANK_MAX = 16, 256
BITS_PER_WEIGHT = 2


@dataclass(frozen=True)
class Facts:
    """What the rules reckon with.

    Args:
        rows: that an epoch learns from, each counted by its source's weight; of an average task where every task has
            an adapter of its own.
        tokens: of these rows; 0 where they were not counted.
        base: None where the base cannot be looked into from here.
    """

    rows: int
    tokens: int = 0
    base: Architecture | None = None


@dataclass(frozen=True)
class AutoRule:
    """How a number is chosen; `says` is for people.

    Args:
        adaptation: its `kind` where the number is one adaptation's own; empty: of every recipe.
    """

    says: str
    choose: Callable[[Facts, Recipe], float]
    adaptation: str = ""
    needs_base: bool = False


def expanded(asked: Iterable[str], values: Mapping[str, Any], *, adaptation: str) -> list[str]:
    """The paths that `auto` means, in the order of the rules.

    Args:
        values: what the caller set, by the contract's names.
        adaptation: its `kind`.

    Raises:
        Invalid: RECIPE_INVALID for a path that has no rule here, or whose number is set as well.
    """
    asked = list(asked)
    fitting = [path for path, rule in RULES.items() if rule.adaptation in ("", adaptation)]
    known = ", ".join(fitting)
    named = [path for path in asked if path != EVERY]
    problems = [f"{path} has no rule here; those that have one are {known}" for path in named if path not in fitting]
    problems += [
        f"{path} is set as well; leave out one of the two"
        for path in named
        if path in fitting and _is_set(values, path)
    ]
    if problems:
        fields = [FieldViolation("training_job.recipe.auto", problem, "RECIPE_INVALID") for problem in problems]
        raise Invalid("RECIPE_INVALID", f"The recipe cannot be run: auto: {'; '.join(problems)}.", fields=fields)
    return [path for path in fitting if path in asked or (EVERY in asked and not _is_set(values, path))]


def settled(recipe: Recipe, inputs: Mapping[str, Any], look_into: Callable[[str], Architecture | None]) -> Recipe:
    """The recipe with the numbers chosen that it leaves to us.

    Args:
        inputs: of the job: `base_model`, and `datasets` with rows, tokens and weight of each.
        look_into: how a base is built; asked only where a rule wants to know.

    Raises:
        Invalid: RECIPE_INVALID, see `resolved`.
    """
    if not recipe.auto:
        return recipe
    is_wanted = any(RULES[path].needs_base for path in recipe.auto)
    rows, tokens = (
        sum(round(one[what] * one["weight"]) for one in inputs["datasets"]) // recipe.adapters
        for what in ("rows", "tokens")
    )
    return resolved(recipe, Facts(rows, tokens, look_into(inputs["base_model"]) if is_wanted else None))


def resolved(recipe: Recipe, facts: Facts) -> Recipe:
    """The recipe with every number of its `auto` chosen; the paths stay, to say which were chosen.

    Raises:
        Invalid: RECIPE_INVALID where what was chosen does not go with what was set.
    """
    for path, rule in RULES.items():
        if path in recipe.auto:
            recipe = _with(recipe, path, rule.choose(facts, recipe))
    return recipe


def _epochs(facts: Facts, recipe: Recipe) -> float:
    return epochs_for(facts.rows)


def _batch_size(facts: Facts, recipe: Recipe) -> float:
    return batch_size_for(facts.rows)


def _learning_rate(facts: Facts, recipe: Recipe) -> float:
    if low_rank_of(recipe) is None:
        return default_learning_rate(recipe.adaptation.kind)
    is_large = facts.base is not None and facts.base.total_parameters >= LARGE_BASE_PARAMETERS
    return ADVISED_ADAPTER_RATES[0] if is_large else ADVISED_ADAPTER_RATES[1]


def _warmup_fraction(facts: Facts, recipe: Recipe) -> float:
    settings = recipe.optimisation
    return min(WARMUP_FRACTION, 2 / (1 - settings.adam_beta2) / steps_of(facts.rows, settings))


def _every_epochs(facts: Facts, recipe: Recipe) -> float:
    return min(1.0, recipe.optimisation.epochs / 10)


def _rows_max(facts: Facts, recipe: Recipe) -> float:
    return max(200, facts.rows // 10)


def _rank(facts: Facts, recipe: Recipe) -> float:
    low_rank = low_rank_of(recipe)
    if facts.base is None or low_rank is None:
        return RANK_MIN
    weights_per_rank = sum(one.inputs + one.outputs for one in facts.base.targets(low_rank.target_modules))
    rank = RANK_MIN
    while rank < RANK_MAX and rank * weights_per_rank * BITS_PER_WEIGHT < facts.tokens:
        rank *= 2
    return rank


def _alpha(facts: Facts, recipe: Recipe) -> float:
    low_rank = low_rank_of(recipe)
    assert low_rank is not None, "the rule is for low-rank adaptations alone"
    return 2.0 * (math.sqrt(low_rank.rank) if low_rank.use_rslora else low_rank.rank)


def _layers(facts: Facts, recipe: Recipe) -> float:
    return 2 if facts.base is None else max(1, math.ceil(facts.base.layers / 4))


def _width(facts: Facts, recipe: Recipe) -> float:
    return 64 if facts.base is None else min(4096, max(1, facts.base.hidden // 16))


_RANK_RULE = (
    f"{RANK_MIN}, doubled until the adapter can hold the data, at most {RANK_MAX}: about {BITS_PER_WEIGHT} bits a "
    "weight against one bit a token (Schulman et al. 2025, LoRA Without Regret); 16 where tokens or base are not known."
)
_ALPHA_RULE = "2 x rank (Biderman et al. 2024, arXiv:2405.09673); with rsLoRA 2 x sqrt(rank), which is the same scale."

RULES: Mapping[str, AutoRule] = {
    "optimisation.epochs": AutoRule(EPOCHS_RULE, _epochs),
    "optimisation.batch_size": AutoRule(BATCH_RULE, _batch_size),
    "optimisation.learning_rate": AutoRule(
        "By the adaptation: 2e-4 for low-rank adapters, 1e-4 from 30 billion parameters (Dettmers et al. 2023, "
        "arXiv:2305.14314, table 9; advised range 1e-4 to 2e-4); for others their default.",
        _learning_rate,
        needs_base=True,
    ),
    "optimisation.warmup_fraction": AutoRule(
        "A tenth of the steps, at most 2 / (1 - adam_beta2) steps (Ma and Yarats 2021, arXiv:1910.04209).",
        _warmup_fraction,
    ),
    "validation.every_epochs": AutoRule("Ten measurements a job, and at least one an epoch.", _every_epochs),
    "validation.rows_max": AutoRule(
        "A tenth of the training rows, at least 200, so that a measurement costs little beside an epoch.", _rows_max
    ),
    **{
        f"{path}.rank": AutoRule(_RANK_RULE, _rank, adaptation=kind, needs_base=True) for kind, path in LOW_RANK.items()
    },
    **{f"{path}.alpha": AutoRule(_ALPHA_RULE, _alpha, adaptation=kind) for kind, path in LOW_RANK.items()},
    "last_layers.layers": AutoRule(
        "A quarter of the layers (Lee, Tang and Lin 2019, arXiv:1911.03090); 2 where the base is not known.",
        _layers,
        adaptation="last_layers",
        needs_base=True,
    ),
    "bottleneck.width": AutoRule(
        "The base's width / 16 (Pfeiffer et al. 2020, arXiv:2007.07779); 64 where the base is not known.",
        _width,
        adaptation="bottleneck",
        needs_base=True,
    ),
}
"""By path in the contract, in the order of choosing: a later rule may look at what an earlier one chose."""


def _with(recipe: Recipe, path: str, number: float) -> Recipe:
    first, *rest = path.split(".")
    values = recipe.model_dump()
    target = values["adaptation" if first == recipe.adaptation.kind else first]
    for folder in rest[:-1]:
        target = target[folder]
    target[rest[-1]] = int(number) if isinstance(target[rest[-1]], int) else number
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        why = "; ".join(problem["msg"] for problem in error.errors())
        message = f"{path} was chosen to be {number:g}, which does not go with the rest of the recipe: {why}."
        fields = [FieldViolation(f"training_job.recipe.{path}", message, "RECIPE_INVALID")]
        advice = [f"Set {path}, or change what it does not go with."]
        raise Invalid("RECIPE_INVALID", message, fields=fields, advice=advice) from None


def _is_set(values: Mapping[str, Any], path: str) -> bool:
    first, _, rest = path.partition(".")
    return first in values and (not rest or _is_set(values[first], rest))
