"""What we must know of a base whose weights somebody else holds: its words, and the shapes of its layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.kit.errors import Invalid
from feinschliff.lm.chat import Chat
from feinschliff.lm.load import load_tokenizer, prepare

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Base:
    """Args: model: layers without numbers, for the shapes alone."""

    files: BaseFiles
    folder: Path
    precision: str
    tokenizer: PreTrainedTokenizerFast
    chat: Chat
    model: PreTrainedModel

    @classmethod
    def of(cls, files: BaseFiles, precision: str, cache_dir: Path) -> Base:
        """
        Raises:
            Invalid: BASE_MODEL_UNREADABLE, CHAT_TEMPLATE_MISSING.
        """
        folder = prepare(files, cache_dir)
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[precision])  # type: ignore[no-untyped-call]
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            message = f"The base model at {folder} cannot be read: {error}"
            raise Invalid("BASE_MODEL_UNREADABLE", message, path=str(folder)) from error
        tokenizer = load_tokenizer(folder)
        chat = Chat.of(tokenizer, generation_stop_ids=_stop_ids(folder))
        return cls(files, folder, precision, tokenizer, chat, model)


def _stop_ids(folder: Path) -> list[int]:
    try:
        configured = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    except OSError:  # it has none
        return []
    return configured if isinstance(configured, list) else [] if configured is None else [configured]
