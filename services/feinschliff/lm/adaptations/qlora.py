"""Low-rank adapters beside linear layers kept in 4 or 8 bits (Dettmers et al. 2023, arXiv:2305.14314).

The adapter's files are plain LoRA in PEFT's format. `adaptation.json` beside them says how the base was kept: its
rounded weights are what the adapter was trained with, so that is the base that gives the same numbers again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from feinschliff.formats.adaptations import LowRank, Qlora
from feinschliff.lm.adaptations import lora, peft_files
from feinschliff.lm.adaptations.peft_files import TRAINED, restore, trained, transformer
from feinschliff.lm.adaptations.saved import read_settings, write_settings
from feinschliff.lm.quantised import give_back, quantisation_of, quantise, wanted_by, widen

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["attach", "merge", "restore", "resume", "save", "trained", "transformer"]


def attach(model: PreTrainedModel, settings: Qlora, *, seed: int) -> PeftModel:
    """A drawn from `seed`, B zero: the first forward pass is that of the rounded base.

    A base that was loaded quantised is taken as it is.

    Raises:
        Invalid: TARGET_MODULES_UNKNOWN.
        Unserved: QUANTISATION_UNAVAILABLE.
    """
    _keep_as_wanted(model, settings)
    adapted = peft_files.fresh(model, lora.config_of(model, settings.lora), seed=seed)
    give_back()  # PEFT looked at every widened weight
    return lora.with_fused_products(adapted)


def resume(model: PreTrainedModel, folder: Path) -> PeftModel:
    _keep_as_wanted(model, read_settings(folder, Qlora))
    adapted = peft_files.resume(model, folder)
    give_back()
    return lora.with_fused_products(adapted)


def save(model: PeftModel, folder: Path, *, base_model: str) -> None:
    peft_files.save(model, folder, base_model=base_model)
    kept = quantisation_of(model)
    assert kept is not None, "the base was quantised when the adapter was put on it"
    write_settings(folder, Qlora(lora=_settings(model), quantisation=kept.kind, double_quantisation=kept.double))


def merge(model: PeftModel) -> PreTrainedModel:
    """The rounded base, widened to fp32, with the adapter in its weights."""
    widen(model)
    return peft_files.merge(model)


def _keep_as_wanted(model: PreTrainedModel, settings: Qlora) -> None:
    wanted = wanted_by(settings)
    if wanted is not None and quantisation_of(model) is None:
        quantise(model, wanted)


def _settings(model: PeftModel) -> LowRank:
    config: Any = model.peft_config[TRAINED]
    return LowRank(
        rank=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=sorted(config.target_modules),
        use_rslora=config.use_rslora,
    )
