"""Low-rank adapters with a learned magnitude for each output; PEFT's own layers and file format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feinschliff.formats.adaptations import Dora
from feinschliff.lm.adaptations import peft_files
from feinschliff.lm.adaptations.lora import config_of
from feinschliff.lm.adaptations.peft_files import merge, restore, resume, save, trained, transformer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["attach", "merge", "restore", "resume", "save", "trained", "transformer"]


def attach(model: PreTrainedModel, settings: Dora, *, seed: int) -> PeftModel:
    """A drawn from `seed`, B zero, magnitudes those of the base: the first pass is the base's but for rounding.

    The norm that divides the magnitude is computed anew in each pass, which costs a product as large as the weight.

    Raises:
        Invalid: TARGET_MODULES_UNKNOWN when no layer of the base bears one of the names.
    """
    return peft_files.fresh(model, config_of(model, settings.lora, use_dora=True), seed=seed)
