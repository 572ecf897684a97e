"""LoRA adapters made on the spot, with B that is not zero, in PEFT's own files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

STRENGTH = 0.25


def load_plain(base: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return model.eval()


def make_adapter(base: Path, folder: Path, *, seed: int, rank: int = 4, **settings: Any) -> Path:
    """Trains nothing: B is drawn, so that the adapter changes every answer."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        chosen = {"r": rank, "lora_alpha": 2 * rank + 1, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        model = get_peft_model(load_plain(base), LoraConfig(**{**chosen, **settings}))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, STRENGTH)
        model.save_pretrained(str(folder))
    return folder


class Oracle:
    """What plain transformers and PEFT generate, greedily, one request at a time."""

    def __init__(self, base: Path, adapters: dict[str, Path]) -> None:
        self._plain = load_plain(base)
        names = list(adapters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._tuned = PeftModel.from_pretrained(load_plain(base), str(adapters[names[0]]), adapter_name=names[0])
            for name in names[1:]:
                self._tuned.load_adapter(str(adapters[name]), adapter_name=name)

    def answer(self, prompt_ids: list[int], adapter: str, max_tokens: int) -> list[int]:
        model = self._model(adapter)
        ids = torch.tensor([prompt_ids])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False
            )
        answer: list[int] = out[0, len(prompt_ids) :].tolist()
        return answer

    def logits(self, token_ids: list[int], adapter: str) -> torch.Tensor:
        """After each token, (T, V)."""
        with torch.inference_mode():
            found: torch.Tensor = self._model(adapter)(input_ids=torch.tensor([token_ids])).logits[0]
        return found

    def _model(self, adapter: str) -> Any:
        if not adapter:
            return self._plain
        self._tuned.set_adapter(adapter)
        return self._tuned
