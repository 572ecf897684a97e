"""What a plan finds wrong or doubtful, in words for whoever asked for the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from feinschliff.formats.adaptations import Full, Ia3, LastLayers, Lora, LowRank, Qlora
from feinschliff.formats.auto import ADVISED_ADAPTER_RATES
from feinschliff.formats.recipe import SERVED, Recipe
from feinschliff.kit.errors import Refusal
from feinschliff.training.architecture import Architecture, low_rank_of
from feinschliff.training.rows import Line, Looked, Work

if TYPE_CHECKING:
    from feinschliff.training.plan import Memory

FINDINGS_MAX = 200
LINES_MAX = 1000
STEPS_FEW = 20
GIB = 1024**3


class Severity(IntEnum):
    """As the contract numbers them: the graver, the greater."""

    INFO = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found; `rows` are lines of the source."""

    severity: Severity
    code: str
    message: str
    count: int = 1
    rows: tuple[int, ...] = ()
    advice: str = ""
    field: str = ""


def gravest_first(found: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda one: -one.severity)[:FINDINGS_MAX])


def base_not_visible(uri: str) -> Finding:
    return Finding(
        Severity.WARNING,
        "BASE_NOT_VISIBLE",
        f"{uri} can only be seen where the job runs, so neither tokens nor memory are known.",
        advice="Name the base by its hub name or in S3 to have it planned.",
    )


def of_refusal(refusal: Refusal) -> Finding:
    return Finding(Severity.ERROR, refusal.reason, refusal.message, advice=" ".join(refusal.advice))


def of_recipe(recipe: Recipe, architecture: Architecture) -> Iterator[Finding]:
    """What the base cannot do."""
    adaptation = recipe.adaptation
    if isinstance(adaptation, LastLayers) and adaptation.layers > architecture.layers:
        yield Finding(
            Severity.ERROR,
            "LAYERS_TOO_MANY",
            f"The last {adaptation.layers} layers are to train, and the base has {architecture.layers}.",
            advice="Name fewer layers, or train them all with `full`.",
            field="last_layers.layers",
        )
    named = list(adaptation.target_modules) if isinstance(adaptation, Ia3) else []
    low_rank = low_rank_of(recipe)
    named += list(low_rank.target_modules) if low_rank else []
    unknown = [target for target in named if not architecture.targets([target])]
    if unknown and architecture.linear:
        leaves = ", ".join(sorted({one.leaf for one in architecture.linear}))
        yield Finding(
            Severity.ERROR,
            "TARGET_MODULES_UNKNOWN",
            f"The base has no linear layer named {', '.join(unknown)}; it has {leaves}.",
            count=len(unknown),
            field=f"{adaptation.kind}.target_modules",
        )
    (low, high), rate = ADVISED_ADAPTER_RATES, recipe.optimisation.learning_rate
    if low_rank and not low <= rate <= high:
        said = f"A learning rate of {rate:g} is outside {low:g} to {high:g}, with which low-rank adapters do well."
        yield Finding(Severity.INFO, "RATE_UNUSUAL", said, field="optimisation.learning_rate")
    gradual = recipe.update_schedule.gradual_unfreezing
    if gradual and max(gradual.layers_by_epoch, default=0) > architecture.layers:
        said = f"layers_by_epoch names {max(gradual.layers_by_epoch)} layers, and the base has {architecture.layers}."
        field = "update_schedule.gradual_unfreezing.layers_by_epoch"
        yield Finding(Severity.ERROR, "LAYERS_TOO_MANY", said, advice="Name fewer layers.", field=field)


def of_context(sources: Sequence[Looked], architecture: Architecture) -> Iterator[Finding]:
    """Rows that the base was not made for."""
    context = architecture.context_tokens
    beyond = sum(one.of_all(sum(length + 1 > context for length in one.lengths)) for one in sources) if context else 0
    if beyond:
        yield Finding(
            Severity.WARNING,
            "CONTEXT_EXCEEDED",
            f"{beyond} rows have more tokens than the {context} that the base was made for.",
            count=beyond,
            advice=f"Set max_row_tokens to {context}, and on_long_row to truncate or drop.",
            field="optimisation.max_row_tokens",
        )


def of_rows(sources: Sequence[Looked], recipe: Recipe) -> Iterator[Finding]:
    """Rows that the trainer will refuse, cut, or leave out."""
    limit = recipe.optimisation.max_row_tokens
    for source in sources:
        where = f" of {source.dataset_version}{' (by a sample)' if source.sampled else ''}"
        if source.unanswered:
            yield _rows(
                source, source.unanswered, Severity.ERROR, "ROW_WITHOUT_ANSWER",
                f"rows{where} have no token to learn from",
                "Give each row an assistant turn with text and without weight 0, or remove the row.",
            )  # fmt: skip
        for reason, lines in _by_reason(source.refused).items():
            yield _rows(source, lines, Severity.ERROR, reason, f"rows{where} are refused: {lines[0].message}", "")
        if source.long:
            longest = max(line.tokens for line in source.long)
            said = f"rows{where} have more than {limit} tokens, the longest {longest}"
            yield _rows(
                source,
                source.long,
                *_LONG[recipe.optimisation.on_long_row],
                said,
                f"Raise max_row_tokens to {longest}.",
            )


_LONG = {
    "error": (Severity.ERROR, "ROW_TOO_LONG"),
    "truncate": (Severity.WARNING, "ROWS_TRUNCATED"),
    "drop": (Severity.WARNING, "ROWS_DROPPED"),
}


def of_steps(work: Work, recipe: Recipe, *, has_validation: bool) -> Iterator[Finding]:
    if recipe.validation.patience and not has_validation:
        yield Finding(
            Severity.WARNING,
            "VALIDATION_MISSING",
            "There are no rows to validate with, so the job never stops early and keeps its last weights.",
            advice="Upload the data with a validation split, or name a validation_dataset_version.",
            field="validation.patience",
        )
    if 0 < work.steps < STEPS_FEW:
        yield Finding(
            Severity.WARNING,
            "STEPS_FEW",
            f"{work.steps} steps in all are few to learn in.",
            advice="Raise epochs, or lower batch_size.",
            field="optimisation.epochs",
        )


def of_memory(needs: Memory, needs_of: Callable[[Recipe], Memory], recipe: Recipe) -> Iterator[Finding]:
    """Too much for the machine, or nearly so, and what would fit."""
    if not needs.parts or not needs.limit or needs.high <= needs.limit:
        return
    if needs.fits and needs.expected <= needs.limit:
        yield Finding(
            Severity.INFO,
            "MEMORY_TIGHT",
            f"About {gibibytes(needs.expected)} of {gibibytes(needs.limit)} are needed, at most "
            f"{gibibytes(needs.high)}.",
        )
        return
    severity, code = (Severity.WARNING, "MEMORY_SCARCE") if needs.fits else (Severity.ERROR, "MEMORY_INSUFFICIENT")
    yield Finding(
        severity,
        code,
        f"About {gibibytes(needs.expected)} of memory are needed for each process, {gibibytes(needs.low)} at least; "
        f"there are {gibibytes(needs.limit)}.",
        advice=" ".join(what_fits(needs_of, recipe)),
        field="execution_profile",
    )


def what_fits(needs_of: Callable[[Recipe], Memory], recipe: Recipe) -> list[str]:
    """Changes of the recipe that bring what is expected below what there is, the least first."""
    found = []
    for words, other in _smaller(recipe):
        needs = needs_of(other)
        if needs.expected <= needs.limit:
            found.append(f"{words}: about {gibibytes(needs.expected)}.")
    return found or ["Take a smaller base, or an execution profile with more memory."]


def _smaller(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    optimisation = recipe.optimisation
    low_rank = low_rank_of(recipe) or LowRank()
    frugal = optimisation.model_copy(update={"gradient_checkpointing": True, "micro_batch_tokens": 256})
    if optimisation.micro_batch_tokens > 512:
        less = optimisation.model_copy(update={"micro_batch_tokens": 512})
        yield "Set optimisation.micro_batch_tokens to 512", recipe.model_copy(update={"optimisation": less})
    if not optimisation.gradient_checkpointing:
        again = optimisation.model_copy(update={"gradient_checkpointing": True})
        yield "Set optimisation.gradient_checkpointing", recipe.model_copy(update={"optimisation": again})
    if recipe.precision == "fp32":
        yield "Set precision to BF16", recipe.model_copy(update={"precision": "bf16"})
    served = SERVED.get(recipe.objective.kind, ())
    if isinstance(recipe.adaptation, Full | LastLayers) and "lora" in served:
        lora = Lora(**low_rank.model_dump())
        yield "Train with lora", recipe.model_copy(update={"adaptation": lora, "optimisation": frugal})
    if not isinstance(recipe.adaptation, Qlora) and "qlora" in served:
        qlora = Qlora(lora=LowRank(**{**low_rank.model_dump(exclude={"kind"}), "start": "random"}))
        changes = {"adaptation": qlora, "optimisation": frugal}
        yield "Train with qlora, gradient_checkpointing and small passes", recipe.model_copy(update=changes)


def gibibytes(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _rows(source: Looked, lines: Sequence[Line], severity: Severity, code: str, message: str, advice: str) -> Finding:
    count = source.of_all(len(lines))
    numbers = tuple(sorted(line.line for line in lines))[:LINES_MAX]
    return Finding(severity, code, f"{count} {message}.".replace("..", "."), max(1, count), numbers, advice)


def _by_reason(lines: Sequence[Line]) -> dict[str, list[Line]]:
    by_reason: dict[str, list[Line]] = {reason: [] for reason, _ in Counter(one.reason for one in lines).most_common()}
    for line in lines:
        by_reason[line.reason].append(line)
    return by_reason
