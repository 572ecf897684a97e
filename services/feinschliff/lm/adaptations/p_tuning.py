"""Vectors before the input that a small network makes; PEFT's encoder and file format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from feinschliff.formats.adaptations import PTuning
from feinschliff.lm.adaptations import prompt_files
from feinschliff.lm.adaptations.peft_files import fresh, trained, transformer
from feinschliff.lm.adaptations.prompt_files import merge, restore, save

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["attach", "merge", "restore", "resume", "save", "trained", "transformer"]


def attach(model: PreTrainedModel, settings: PTuning, *, seed: int) -> PeftModel:
    """An embedding for each virtual token and three linear layers with ReLU between them, drawn from `seed`.

    Widths: hidden -> encoder width -> encoder width -> hidden. Once trained, only what it makes is needed.
    """
    from feinschliff.lm.adaptations.pefts import PromptEncoderConfig

    config = prompt_files.config_of(
        PromptEncoderConfig, num_virtual_tokens=settings.virtual_tokens, encoder_hidden_size=settings.encoder_width
    )
    return prompt_files.with_vectors(fresh(model, config, seed=seed))


def resume(model: PreTrainedModel, folder: Path) -> PeftModel:
    return prompt_files.with_vectors(prompt_files.resume(model, folder))
