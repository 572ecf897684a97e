"""Low-rank adapters beside frozen linear layers, in PEFT's own file format.

The base keeps its precision and the adapter trains in fp32: an update too small for bf16 is still summed up. The
adapter is never merged into a bf16 weight, which would lose such updates.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from feinschliff.formats.recipe import Lora, LowRank
from feinschliff.lm.adaptations import peft_files
from feinschliff.lm.adaptations.peft_files import TRAINED, calm, restore, save, trained, transformer

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

__all__ = ["attach", "load", "restore", "resume", "save", "trained", "transformer"]


def attach(model: PreTrainedModel, settings: Lora, *, seed: int) -> PeftModel:
    """Fresh adapters: A drawn from `seed`, B zero, so that the first forward pass is the base's.

    Raises:
        Invalid: TARGET_MODULES_UNKNOWN when no layer of the base bears one of the names.
    """
    return _with_fused_products(peft_files.fresh(model, config_of(model, settings), seed=seed))


def resume(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Saved adapters that go on training."""
    return _with_fused_products(peft_files.resume(model, folder))


def load(model: PreTrainedModel | PeftModel, folder: Path, *, name: str) -> PeftModel:
    """Saved adapters for serving, under a name; more than one may lie beside the same base."""
    from peft import PeftModel

    with calm():
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name, is_trainable=False)
            return model
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=False)


def config_of(model: PreTrainedModel, settings: LowRank, *, use_dora: bool = False) -> LoraConfig:
    """PEFT's settings; refuses targets that the base does not have."""
    from peft import LoraConfig, TaskType

    peft_files.refuse_unknown_targets(model, settings.target_modules)
    return LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules) or "all-linear",
        use_rslora=settings.use_rslora,
        use_dora=use_dora,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )


def _with_fused_products(model: PeftModel) -> PeftModel:
    from feinschliff.lm.adaptations.lora_product import use_fused_products

    use_fused_products(model, TRAINED)
    return model
