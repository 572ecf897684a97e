"""A version of every kind, written by the very code that trains it, and what that code's model says with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from feinschliff.formats.adaptations import (
    Adaptation,
    Bottleneck,
    Dora,
    Full,
    Ia3,
    LastLayers,
    Lora,
    LowRank,
    Prefix,
    Prompt,
    PTuning,
    Qlora,
)
from feinschliff.formats.heads import HeadFacts
from feinschliff.lm import heads
from feinschliff.lm.adaptations import ADAPTATIONS
from feinschliff.lm.chat import Chat
from feinschliff.lm.load import load_model, load_tokenizer
from tests.support.tiny_model import EOS_ID

RANK = LowRank(rank=4, alpha=8)
KINDS: Mapping[str, Adaptation] = {
    "lora": Lora(rank=3, alpha=9),
    "lora-pissa": Lora(rank=3, alpha=9, start="pissa"),
    "dora": Dora(lora=RANK),
    "qlora-nf4": Qlora(lora=RANK),
    "qlora-double": Qlora(lora=RANK, double_quantisation=True),
    "qlora-int8": Qlora(lora=RANK, quantisation="int8"),
    "ia3": Ia3(),
    "ia3-all": Ia3(target_modules=["q_proj", "o_proj", "up_proj", "down_proj"]),
    "bottleneck": Bottleneck(width=8),
    "bottleneck-both": Bottleneck(width=6, placement="houlsby"),
    "prompt": Prompt(virtual_tokens=7),
    "p_tuning": PTuning(virtual_tokens=5, encoder_width=16),
    "prefix": Prefix(virtual_tokens=6),
    "prefix-network": Prefix(virtual_tokens=4, projection_width=16),
    "last_layers": LastLayers(layers=1),
    "last_layers-headless": LastLayers(layers=1, train_head=False),
    "full": Full(),
    "full-embeddings": Full(train_embeddings=True),
}
"""By a name of the test's own; what stands before a dash is the recipe's."""

STRENGTH = {"ia3": 0.4, "full": 0.05, "last_layers": 0.05, "prompt": 0.3, "p_tuning": 0.3, "prefix": 0.6}


class Made:
    """A saved version, and its model as the trainer has it."""

    def __init__(self, base: Path, folder: Path, name: str, *, seed: int = 1) -> None:
        self.folder = folder
        self._stop_ids = Chat.of(load_tokenizer(base), generation_stop_ids=[EOS_ID]).stop_token_ids
        settings = KINDS[name]
        adaptation: Any = ADAPTATIONS[settings.kind]
        model = load_model(base, precision="fp32")
        adapted = adaptation.attach(model, settings, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in adaptation.trained(adapted).values():
                noise = torch.randn(weight.shape, generator=generator) * STRENGTH.get(settings.kind, 0.12)
                weight.add_(noise)
        adaptation.save(adapted, folder, base_model=f"file:{base}")
        self._adapted = adapted
        self.model: Any = adaptation.transformer(adapted).eval()

    def logits(self, ids: list[int]) -> Tensor:
        """After every token, (T, V)."""
        with torch.inference_mode():
            logits: Tensor = self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        return logits

    def answer(self, prompt_ids: list[int], max_tokens: int) -> list[int]:
        """Greedy, and without a cache of keys and values; a token that ends the turn is the last."""
        ids = list(prompt_ids)
        for _ in range(max_tokens):
            ids.append(int(self.logits(ids)[-1].argmax()))
            if ids[-1] in self._stop_ids:
                break
        return ids[len(prompt_ids) :]


def with_head(made: Made, facts: HeadFacts) -> heads.Head:
    """Puts a drawn head beside a version's weights."""
    head = heads.fresh(facts, int(made.model.config.hidden_size), seed=5)
    with torch.no_grad():
        head.weight_CH.mul_(20)
    head.save(made.folder)
    return head
