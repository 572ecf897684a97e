"""Learned vectors before the input, nothing else; PEFT's file format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from feinschliff.formats.adaptations import Prompt
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations import prompt_files
from feinschliff.lm.adaptations.peft_files import fresh, trained, transformer
from feinschliff.lm.adaptations.prompt_files import merge, restore, save
from feinschliff.lm.load import load_tokenizer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["attach", "merge", "restore", "resume", "save", "trained", "transformer"]


def attach(model: PreTrainedModel, settings: Prompt, *, seed: int) -> PeftModel:
    """Vectors (virtual tokens, hidden width) that begin as the embeddings of a text, or of common tokens.

    A text that is shorter than the virtual tokens is repeated, a longer one is cut, as PEFT does.

    Raises:
        Invalid: INITIAL_TEXT_EMPTY when the text has no token.
    """
    from feinschliff.lm.adaptations.pefts import PromptTuningConfig

    config = prompt_files.config_of(PromptTuningConfig, num_virtual_tokens=settings.virtual_tokens)
    adapted = fresh(model, config, seed=seed)
    embeddings = model.get_input_embeddings()
    ids_P = _start_ids(model, settings, seed=seed).to(model.device)
    with torch.no_grad():
        prompt_files.put_vectors(prompt_files.encoder_of(adapted), embeddings(ids_P))
    return prompt_files.with_vectors(adapted)


def resume(model: PreTrainedModel, folder: Path) -> PeftModel:
    return prompt_files.with_vectors(prompt_files.resume(model, folder))


def _start_ids(model: PreTrainedModel, settings: Prompt, *, seed: int) -> Tensor:
    if not settings.initial_text:
        return prompt_files.common_tokens(model, settings.virtual_tokens, seed=seed)
    tokenizer = load_tokenizer(Path(str(model.name_or_path)))
    ids = list(tokenizer.encode(settings.initial_text, add_special_tokens=False))
    if not ids:
        raise Invalid("INITIAL_TEXT_EMPTY", "The text that the virtual tokens are to start from has no token.")
    repeats = -(-settings.virtual_tokens // len(ids))
    return torch.tensor((ids * repeats)[: settings.virtual_tokens])
