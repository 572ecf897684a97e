"""Golden probes: what the trained model says to fixed prompts, for every later form of it to be held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from feinschliff.formats.records import Message
from feinschliff.formats.report import GoldenProbe
from feinschliff.lm.chat import Chat
from feinschliff.lm.encoding import RowEncoder
from feinschliff.trainer.learner import Learner

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
    fixed = [_prompt(chat, text) for text in FIXED_PROMPTS]
    prompts = fixed + [list(prompt) for prompt in row_prompts if len(prompt) <= PROMPT_TOKENS_MAX]
    return [_probe(model, chat, prompt) for prompt in prompts]


@torch.no_grad()
def golden_scores(learner: Learner, encoder: RowEncoder, row_prompts: Sequence[Sequence[int]]) -> list[GoldenProbe]:
    """What the head says to the fixed texts and to texts of the training rows; as `golden_probes`."""
    head, model = learner.head, learner.transformer
    assert head is not None
    prompts = [encoder.text_ids(text) for text in FIXED_PROMPTS]
    prompts += [list(prompt) for prompt in row_prompts if len(prompt) <= PROMPT_TOKENS_MAX]
    probes = []
    for prompt in prompts:
        fed = torch.tensor([prompt], device=model.device)
        scores_1C = head(model.base_model(input_ids=fed, use_cache=False).last_hidden_state[:, -1])
        said = head.values(scores_1C) if head.facts.kind == "regress" else head.logprobs(scores_1C)[0]
        scores = [round(float(one), 6) for one in said]
        text = str(encoder.chat.tokenizer.decode(prompt))
        probes.append(GoldenProbe(prompt=text, prompt_token_ids=prompt, token_ids=[], logprobs=[], scores=scores))
    return probes


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


def _prompt(chat: Chat, text: str) -> list[int]:
    """The text as a user's turn, or plainly where the base knows no turns."""
    if chat.template:
        return chat.prompt_ids([Message(role="user", content=text)])
    return chat.plain_ids([text])[0]
