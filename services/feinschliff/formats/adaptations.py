"""Which weights learn: one class for each adaptation of the contract, with the paper it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from feinschliff.formats.base import Stored


class LowRank(Stored):
    """Low-rank matrices (Hu et al. 2021, arXiv:2106.09685) beside the linear layers.

    Rank 16 with alpha 2 x rank on all linear layers is the common working point (Biderman et al. 2024,
    arXiv:2405.09673, find all-linear and a high rate to matter more than rank).
    """

    rank: int = Field(16, ge=1, le=512)
    alpha: float = Field(32.0, gt=0, le=4096)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[str] = Field(default_factory=list, description="Empty: all linear layers but the head.")
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) (Kalajdzievski 2023).")
    start: Literal["random", "pissa", "olora", "qera"] = Field(
        "random",
        description="`pissa`: Meng et al. 2024, arXiv:2404.02948; `olora`: Büyükakyüz 2024, arXiv:2406.01775; `qera`: "
        "Zhang et al. 2024, arXiv:2410.06040, with qlora alone, whose default it is.",
    )


class Lora(LowRank):
    """Low-rank adapters, nothing else."""

    kind: Literal["lora"] = "lora"

    @model_validator(mode="after")
    def _consistent(self) -> Lora:
        if self.start == "qera":
            raise ValueError("start qera makes up for rounding, and this base is not rounded; take another start")
        return self


class Dora(Stored):
    """Low-rank adapters that turn each weight, and a learned magnitude (Liu et al. 2024, arXiv:2402.09353)."""

    kind: Literal["dora"] = "dora"
    lora: LowRank = LowRank()

    @model_validator(mode="after")
    def _consistent(self) -> Dora:
        if self.lora.start != "random":
            raise ValueError("the magnitudes of DoRA are those of the whole weight; take start random")
        return self


class Qlora(Stored):
    """Low-rank adapters over a base kept in 4 or 8 bits (Dettmers et al. 2023, arXiv:2305.14314)."""

    kind: Literal["qlora"] = "qlora"
    lora: LowRank = Field(LowRank(), validate_default=True)
    quantisation: Literal["nf4", "int8"] = "nf4"
    double_quantisation: bool = Field(False, description="Quantise the constants as well; only with nf4.")

    @field_validator("lora")
    @classmethod
    def _from_what_rounding_took(cls, given: LowRank) -> LowRank:
        """Unless it is told otherwise."""
        return given.settled(start="qera")

    @model_validator(mode="after")
    def _consistent(self) -> Qlora:
        if self.double_quantisation and self.quantisation != "nf4":
            raise ValueError("double_quantisation is for nf4")
        if self.lora.start in ("pissa", "olora"):
            raise ValueError("a quantised base has no directions to start from; take start qera or random")
        return self


class Full(Stored):
    """All weights of the base."""

    kind: Literal["full"] = "full"
    train_embeddings: bool = Field(False, description="False keeps the embeddings, and a head tied to them, fixed.")


class LastLayers(Stored):
    """The layers nearest to the answer; what lies below is frozen and costs no backward pass."""

    kind: Literal["last_layers"] = "last_layers"
    layers: int = Field(2, ge=0, description="Counted from the top; 0: the head alone.")
    train_head: bool = Field(True, description="Whether the head and the last norm learn too.")

    @model_validator(mode="after")
    def _refuse_nothing(self) -> LastLayers:
        if self.layers == 0 and not self.train_head:
            raise ValueError("no layers and no head leave nothing to train")
        return self


class Ia3(Stored):
    """Learned factors on keys, values and the feed-forward layer (Liu et al. 2022, arXiv:2205.05638)."""

    kind: Literal["ia3"] = "ia3"
    target_modules: list[str] = Field(
        default_factory=list, description="Empty: keys, values and the second feed-forward matrix."
    )


class Bottleneck(Stored):
    """Small two-layer networks between the layers (Houlsby et al. 2019, arXiv:1902.00751)."""

    kind: Literal["bottleneck"] = "bottleneck"
    width: int = Field(64, ge=1, le=4096)
    placement: Literal["houlsby", "pfeiffer"] = Field("pfeiffer", description="Pfeiffer et al. 2021, arXiv:2005.00247.")


class Prompt(Stored):
    """Learned vectors before the input (Lester et al. 2021, arXiv:2104.08691)."""

    kind: Literal["prompt"] = "prompt"
    virtual_tokens: int = Field(20, ge=1, le=512)
    initial_text: str = Field(
        "", max_length=4096, description="Whose embeddings they start from; empty: common tokens."
    )


class PTuning(Stored):
    """Vectors before the input that a small network makes (Liu et al. 2021, arXiv:2103.10385)."""

    kind: Literal["p_tuning"] = "p_tuning"
    virtual_tokens: int = Field(20, ge=1, le=512)
    encoder_width: int = Field(128, ge=1, le=4096)


class Prefix(Stored):
    """Learned keys and values in every layer (Li and Liang 2021, arXiv:2101.00190)."""

    kind: Literal["prefix"] = "prefix"
    virtual_tokens: int = Field(20, ge=1, le=512)
    projection_width: int = Field(0, ge=0, le=4096, description="Of a network that makes them; 0: none.")


Adaptation = Annotated[
    Lora | Dora | Qlora | Full | LastLayers | Bottleneck | Ia3 | Prompt | PTuning | Prefix, Field(discriminator="kind")
]

OF_BASE = frozenset({"full", "last_layers"})
"""Adaptations whose weights are the base's own; those of all others lie beside it."""

RECOMPUTED = frozenset({"qlora"})
"""Adaptations that compute activations twice unless told otherwise: little memory is what they are for."""

LEARNING_RATE = 2e-4
"""For adapters, as in Dettmers et al. 2023 (arXiv:2305.14314); good ones lie between 1e-4 and 2e-4."""

LEARNING_RATES: Mapping[str, float] = {
    "full": 2e-5,
    "last_layers": 5e-5,
    "ia3": 3e-3,
    "prompt": 3e-2,
    "p_tuning": 1e-3,
    "prefix": 1e-2,
}
"""By adaptation.

Where weights of the base learn: Touvron et al. 2023 (arXiv:2307.09288), Devlin et al. 2019. Factors that begin at one
need more: Liu et al. 2022 (arXiv:2205.05638, 3e-3). So do vectors before the input: Lester et al. 2021 take 0.3 with
Adafactor; with AdamW SmolLM2-135M learned much faster with 3e-2 than with 3e-3. Prefixes: the upper end of what Liu et
al. 2022 (arXiv:2110.07602) search. A network that makes vectors is trained as networks are. Bottlenecks have the rate
of other adapters (Pfeiffer et al. 2020, arXiv:2007.07779: 1e-4).
"""


def default_learning_rate(adaptation: str) -> float:
    """Args: adaptation: its `kind`."""
    return LEARNING_RATES.get(adaptation, LEARNING_RATE)
