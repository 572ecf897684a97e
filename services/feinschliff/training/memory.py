"""Where the memory of one trainer process goes, reckoned from the sizes of the base, the recipe and the data.

A process has three moments that may be its peak: it loads the base, it makes a step, it saves. Each is a sum of parts;
the greatest sum is what the process needs, and its parts are what the plan shows. Constants were measured, see
`tests/bench/training/plan_error.py`, which holds the reckoning against real trainers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from feinschliff.formats.adaptations import Full, LastLayers, Prompt, PTuning, Qlora
from feinschliff.formats.objectives import Classify, Regress
from feinschliff.formats.recipe import Recipe
from feinschliff.lm.shared_prefixes import TILE_TOKENS_MAX
from feinschliff.training.architecture import Architecture, Linear, layers_differentiated, low_rank_of

MIB = 1024 * 1024
Component = Literal[
    "program", "weights", "trained_weights", "gradients", "optimiser", "activations", "logits", "data", "checkpoint"
]
COMPONENTS: tuple[Component, ...] = (
    "program", "weights", "trained_weights", "gradients", "optimiser", "activations", "logits", "data", "checkpoint",
)  # fmt: skip

PROGRAM_BYTES = {"cpu": 620 * MIB, "cuda": 900 * MIB}
"""Python, torch, transformers and peft, with what they set up for themselves in the first step; on a GPU also its
context."""

FIRST_STEP_BYTES = 250 * MIB
"""Of the program, what comes after the base is loaded: code that is read when it is used, buffers of the products."""

LOGITS_CHUNK_BYTES = 32 * MIB
"""fp32 logits that exist at once, as `lm.logprobs` cuts them."""

LOGITS_COPIES, LOGITS_COPIES_TRAINED = 3.5, 6.0
"""Logits in the base's precision, widened, their log-softmax and its gradient; for a head that learns, the gradients of
all of them at once."""

BYTES_PER_PARAMETER = {"bf16": 2.0, "fp32": 4.0, "nf4": 0.5 + 4 / 64, "nf4_double": 0.5 + 1.2 / 64, "int8": 1.0}
ROW_BYTES = 400.0
TOKEN_BYTES = 5.0
"""Of the table of encoded rows: 5 bytes a token, and two arrays with their heads a row."""

SPREAD: Mapping[Component, tuple[float, float]] = {
    "program": (0.8, 1.3),
    "weights": (1.0, 1.1),
    "trained_weights": (1.0, 1.05),
    "gradients": (0.5, 1.1),
    "optimiser": (1.0, 1.05),
    "activations": (0.6, 1.35),
    "logits": (0.4, 1.6),
    "data": (0.7, 1.6),
    "checkpoint": (0.3, 1.5),
}
"""Least and most of each part, as shares of what is expected; held against every measurement."""


_READS = {"q_proj": "x", "k_proj": "x", "v_proj": "x", "gate_proj": "x", "up_proj": "x"}
"""Matrices that read what their neighbours read: the normalised input of attention, and of the feed-forward layer."""


class Part(NamedTuple):
    """Bytes of one component."""

    component: Component
    low: int
    expected: int
    high: int


@dataclass(frozen=True)
class Load:
    """The largest forward pass of a job, and the rows that lie in memory.

    Args:
        tokens: of the largest micro-batch. row_tokens: of the longest row. labels: of the largest micro-batch.
        tokens_low, tokens_high: the same for a micro-batch that is not above or below that.
        pass_rows: of the largest micro-batch. passes: of a step.
        rows, rows_tokens: of all tables together.
    """

    tokens: int
    row_tokens: int
    labels: int
    tokens_low: int
    tokens_high: int
    pass_rows: int = 1
    passes: int = 1
    rows: int = 0
    rows_tokens: int = 0


@dataclass(frozen=True)
class Site:
    """Where a process computes.

    Args:
        precision: of the frozen weights and the products.
        unpacked_bytes: a parameter's bytes in the files that the base is loaded from.
    """

    precision: Literal["bf16", "fp32"]
    device: Literal["cpu", "cuda"] = "cpu"
    unpacked_bytes: float = 4.0

    @property
    def width(self) -> float:
        """Bytes of a number in a product."""
        return BYTES_PER_PARAMETER[self.precision]


def parts(architecture: Architecture, recipe: Recipe, load: Load, site: Site, *, trained: int) -> list[Part]:
    """The parts of the moment that needs most; their expected bytes add up to the expected peak.

    Args:
        trained: weights that learn.
    """
    moments = [moment(architecture, recipe, load, site, trained) for moment in (_loading, _stepping, _saving)]
    expected = max(moments, key=lambda one: sum(one.values()))
    tokens = max(1, load.tokens)
    scaled = {"activations": (load.tokens_low / tokens, load.tokens_high / tokens)}
    found = []
    for component in COMPONENTS:
        size = expected.get(component, 0.0)
        least, most = (
            share * scale for share, scale in zip(SPREAD[component], scaled.get(component, (1.0, 1.0)), strict=True)
        )
        found.append(Part(component, round(size * least), round(size), round(size * most)))
    return found


Moment = dict[Component, float]


def _loading(architecture: Architecture, recipe: Recipe, load: Load, site: Site, trained: int) -> Moment:
    """The files are mapped while their tensors are turned into what is computed with; they stay where they are that."""
    as_they_are = site.width == site.unpacked_bytes and not isinstance(recipe.adaptation, Qlora)
    read = 0.0 if as_they_are else site.unpacked_bytes * architecture.total_parameters
    return {
        "program": PROGRAM_BYTES[site.device] - FIRST_STEP_BYTES,
        "data": _data(load),
        "weights": _weights(architecture, recipe, site, 0) + read,
    }


def _stepping(architecture: Architecture, recipe: Recipe, load: Load, site: Site, trained: int) -> Moment:
    """In a step of one pass, gradients of layers come as their activations go: only the head's are there before."""
    rounded = site.width if site.precision == "bf16" and _of_base(recipe, trained) else 0.0
    of_head = architecture.vocabulary * architecture.hidden if _head_learns(architecture, recipe) else 0
    of_layers = (4.0 + rounded) * max(0, trained - of_head) / _cut(recipe)
    kept = activations(architecture, recipe, load, site)
    return {
        **_standing(architecture, recipe, load, site, trained),
        "gradients": (4.0 + rounded) * trained / _cut(recipe),
        "activations": kept - min(kept, of_layers) if load.passes == 1 else kept,
        "logits": logits(architecture, recipe, load, site),
    }


def _saving(architecture: Architecture, recipe: Recipe, load: Load, site: Site, trained: int) -> Moment:
    return {**_standing(architecture, recipe, load, site, trained), "checkpoint": _saved(architecture, recipe, trained)}


def _standing(architecture: Architecture, recipe: Recipe, load: Load, site: Site, trained: int) -> Moment:
    """What lies in memory from the first step to the last."""
    of_base = _of_base(recipe, trained)
    state = 2 * (1.0 if recipe.optimisation.optimiser == "adamw_8bit" else 4.0)
    rounded = site.width * of_base if site.precision == "bf16" else 0.0  # what a pass sees of weights in fp32
    return {
        "program": PROGRAM_BYTES[site.device],
        "weights": _weights(architecture, recipe, site, of_base),
        "trained_weights": 4.0 * trained / _cut(recipe) + rounded,
        "optimiser": state * trained / _cut(recipe),
        "data": _data(load),
    }


def _of_base(recipe: Recipe, trained: int) -> int:
    """How many of the weights that learn are the base's own."""
    return trained if isinstance(recipe.adaptation, Full | LastLayers) else 0


def _cut(recipe: Recipe) -> int:
    """Among how many processes what learns is cut."""
    return recipe.nodes * recipe.processes_per_node if recipe.sharing == "sharded" else 1


def _weights(architecture: Architecture, recipe: Recipe, site: Site, of_base: int) -> float:
    """Frozen weights in their own precision; those of the base that learn lie elsewhere."""
    if not isinstance(recipe.adaptation, Qlora):
        own_head = architecture.tied and isinstance(recipe.adaptation, LastLayers) and recipe.adaptation.train_head
        head = architecture.vocabulary * architecture.hidden if own_head else 0
        return site.width * max(0, architecture.total_parameters - of_base + head)
    form = "nf4_double" if recipe.adaptation.double_quantisation else recipe.adaptation.quantisation
    small = sum(one.outputs * one.inputs for one in architecture.linear)
    rest = architecture.total_parameters - small
    return BYTES_PER_PARAMETER[form] * small + site.width * rest


def _saved(architecture: Architecture, recipe: Recipe, trained: int) -> float:
    """A file's bytes are put together in memory before they are written: the largest file counts."""
    whole = architecture.total_parameters if isinstance(recipe.adaptation, Full) else trained
    return 4.0 * max(2 * trained, whole)


def _data(load: Load) -> float:
    return TOKEN_BYTES * load.rows_tokens + ROW_BYTES * load.rows


def logits(architecture: Architecture, recipe: Recipe, load: Load, site: Site) -> float:
    """A chunk of them at a time, and the gradient of every labelled state; a head over texts has next to none."""
    if isinstance(recipe.objective, Classify | Regress):
        return 0.0
    chunk = min(float(LOGITS_CHUNK_BYTES), 4.0 * load.labels * architecture.vocabulary)
    copies = LOGITS_COPIES_TRAINED if _head_learns(architecture, recipe) else LOGITS_COPIES
    return chunk * copies + 2 * load.labels * architecture.hidden * site.width


def _head_learns(architecture: Architecture, recipe: Recipe) -> bool:
    adaptation = recipe.adaptation
    if isinstance(adaptation, Full):
        return adaptation.train_embeddings or not architecture.tied
    return isinstance(adaptation, LastLayers) and adaptation.train_head


def activations(architecture: Architecture, recipe: Recipe, load: Load, site: Site) -> float:
    """What the forward pass keeps for the backward pass, and what the backward pass adds to it in one layer."""
    layers = layers_differentiated(architecture, recipe)
    tokens = load.tokens + load.pass_rows * _virtual_tokens(recipe)
    kept = kept_per_token(architecture, recipe, site, load.row_tokens)
    passing = site.width * (3 * architecture.inner + 4 * architecture.hidden)
    if recipe.optimisation.gradient_checkpointing and layers:
        return tokens * (site.width * architecture.hidden * layers + kept + passing)
    return tokens * (kept * layers + passing)


def _virtual_tokens(recipe: Recipe) -> int:
    """Before each row, through all layers."""
    return recipe.adaptation.virtual_tokens if isinstance(recipe.adaptation, Prompt | PTuning) else 0


def kept_per_token(architecture: Architecture, recipe: Recipe, site: Site, row_tokens: int) -> float:
    """Bytes that one layer keeps of one token.

    Its tensors and nothing beside them: the trainer's heap has next to no holes, see `lm.allocator`.
    The residual stream before both norms; queries, keys and values; the weights of attention, where they are made by
    products, or its output; gate and upper half of the feed-forward layer; and the input of every matrix that learns,
    or that has something beside it which does.
    """
    b, hidden, queries, keys, inner = (
        site.width, architecture.hidden, architecture.queries, architecture.keys, architecture.inner,
    )  # fmt: skip
    norms = 2 * b * hidden
    attention = b * (queries + 2 * keys) + _attention(architecture, site, row_tokens)
    feed_forward = 2 * b * inner
    return norms + attention + feed_forward + _inputs(architecture, recipe, site)


def _attention(architecture: Architecture, site: Site, row_tokens: int) -> float:
    if site.device == "cpu" and row_tokens <= TILE_TOKENS_MAX:
        together = max(1, TILE_TOKENS_MAX // row_tokens) * row_tokens
        return site.width * (architecture.heads * together + architecture.queries)
    repeated = 2 * architecture.queries if architecture.key_heads != architecture.heads else 0
    return site.width * (repeated + 2 * architecture.queries) + 4.0 * architecture.heads


def _inputs(architecture: Architecture, recipe: Recipe, site: Site) -> float:
    """Inputs kept for the gradients of what learns, by the adaptation; of DoRA what base and adapter gave, too."""
    hidden, queries, inner, keys = architecture.hidden, architecture.queries, architecture.inner, architecture.keys
    match recipe.adaptation.kind:
        case "lora" | "qlora":
            low_rank = low_rank_of(recipe)
            targets = architecture.targets(low_rank.target_modules if low_rank else [])
            wide = low_rank is not None and low_rank.dropout > 0
            return _shared_inputs(architecture, targets) * ((site.width + 4.0) if wide else site.width)
        case "dora":
            targets = architecture.targets(recipe.adaptation.lora.target_modules)
            outputs = sum(one.outputs for one in targets) / max(1, architecture.layers)
            widened = sum(one.inputs for one in targets) / max(1, architecture.layers)  # by each matrix for itself
            inputs = _shared_inputs(architecture, targets) if site.precision == "fp32" else widened
            return 4.0 * inputs + (4.0 + site.width) * outputs
        case "full" | "last_layers":
            return site.width * (4 * hidden + queries + inner)
        case "ia3":
            return 4.0 * (2 * keys + inner)
        case "bottleneck":
            return site.width * 2 * hidden
        case _:
            return 0.0


def _shared_inputs(architecture: Architecture, targets: Sequence[Linear]) -> float:
    """Numbers of one token that the chosen matrices of one layer read; those that read the same keep it once."""
    read = {(one.name.rpartition(".")[0], _READS.get(one.leaf, one.leaf)): one.inputs for one in targets}
    return sum(read.values()) / max(1, architecture.layers)
