"""Golden probes: what the trained model says to fixed prompts, for every later form of it to be held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from feinschliff.formats.records import Message
from feinschliff.formats.report import GoldenProbe
from feinschliff.lm.chat import Chat

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_TOKENS_MAX = 12
PROMPT_TOKENS_MAX = 512
FIXED_PROMPTS = ("What is the capital of France?", "Nenne drei Farben.", "Write one short sentence about rain.")


def golden_probes(model: PreTrainedModel, chat: Chat, row_prompts: Sequence[Sequence[int]]) -> list[GoldenProbe]:
    """Greedy continuations of the fixed prompts and of prompts taken from the training rows.

    Args:
        model: with its trained adapter, in evaluation mode and with its usual attention.
        row_prompts: token ids of prompts; those beyond 512 tokens are left out.
    """
    fixed = [chat.prompt_ids([Message(role="user", content=text)]) for text in FIXED_PROMPTS]
    prompts = fixed + [list(prompt) for prompt in row_prompts if len(prompt) <= PROMPT_TOKENS_MAX]
    return [_probe(model, chat, prompt) for prompt in prompts]


@torch.no_grad()
def _probe(model: PreTrainedModel, chat: Chat, prompt: list[int]) -> GoldenProbe:
    token_ids: list[int] = []
    logprobs: list[float] = []
    fed, cache = torch.tensor([prompt], device=model.device), None
    while len(token_ids) < PROBE_TOKENS_MAX:
        output = model(input_ids=fed, past_key_values=cache, use_cache=True)
        logp_V = torch.log_softmax(output.logits[0, -1].float(), dim=-1)
        token = int(logp_V.argmax())
        token_ids.append(token)
        logprobs.append(round(float(logp_V[token]), 6))
        if token in chat.stop_token_ids:
            break
        fed, cache = torch.tensor([[token]], device=model.device), output.past_key_values
    text = str(chat.tokenizer.decode(prompt))
    return GoldenProbe(prompt=text, prompt_token_ids=prompt, token_ids=token_ids, logprobs=logprobs)
