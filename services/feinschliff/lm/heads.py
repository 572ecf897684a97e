"""A head over the last token of a text: a class, several, or a number, in place of the next token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from feinschliff.formats.heads import HEAD_NAME, HEAD_SETTINGS_NAME, HeadFacts

WEIGHT = "score.weight"
"""The name that transformers' models for sequence classification give it, so that they load the file as it is."""

INITIAL_DEVIATION = 0.02
"""As transformers draws new layers (`initializer_range` of most configurations)."""


class Head(nn.Module):
    """Scores from the last hidden state of a text: s = W h, without bias, as LlamaForSequenceClassification has it.

    Always in fp32, whatever the base computes in. What a number is to be added or multiplied by is in the facts, so a
    bias is not needed; nor does the norm below have to learn, whose factors W has already.
    """

    def __init__(self, facts: HeadFacts, weight_CH: Tensor) -> None:
        super().__init__()
        self.facts = facts
        self.weight_CH = nn.Parameter(weight_CH)

    def forward(self, states_NH: Tensor) -> Tensor:
        """(N, H) in any precision to (N, C) in fp32; C is 1 for a number."""
        return states_NH.float() @ self.weight_CH.T

    def logprobs(self, scores_NC: Tensor) -> Tensor:
        """Natural log-probability of each class, (N, C): of one among all, or of each for itself; fp32."""
        if self.facts.multi_label:
            return nn.functional.logsigmoid(scores_NC)
        return torch.log_softmax(scores_NC, dim=-1)

    def values(self, scores_NC: Tensor) -> Tensor:
        """The number of each text in the unit of the data, (N,); fp64."""
        return scores_NC[:, 0].double() * self.facts.deviation + self.facts.mean

    def save(self, folder: Path) -> None:
        """Equal weights give equal bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({WEIGHT: self.weight_CH.detach().contiguous()}, folder / HEAD_NAME, metadata={"format": "pt"})
        (folder / HEAD_SETTINGS_NAME).write_bytes(orjson.dumps(self.facts.model_dump(), option=orjson.OPT_SORT_KEYS))

    def restore(self, folder: Path) -> None:
        with torch.no_grad():
            self.weight_CH.copy_(load_file(folder / HEAD_NAME)[WEIGHT])


def fresh(facts: HeadFacts, width: int, *, seed: int) -> Head:
    """Weights drawn from `seed` alone.

    Args:
        width: H, of the base's hidden states.
    """
    random = torch.Generator().manual_seed(seed)
    return Head(facts, torch.randn(facts.outputs, width, generator=random) * INITIAL_DEVIATION)


def load(folder: Path) -> Head:
    """A head as `Head.save` wrote it; for serving, or to train on."""
    facts = read_facts(folder)
    if facts is None:
        raise FileNotFoundError(folder / HEAD_SETTINGS_NAME)
    return Head(facts, load_file(folder / HEAD_NAME)[WEIGHT])


def read_facts(folder: Path) -> HeadFacts | None:
    """What the head of a folder tells; None where there is none."""
    path = folder / HEAD_SETTINGS_NAME
    return HeadFacts.model_validate_json(path.read_bytes()) if path.is_file() else None


def targets_of(rows: Sequence[Sequence[float]], facts: HeadFacts) -> Tensor:
    """What the head is to say of N rows: class numbers (N,), for several classes (N, C) of 0 and 1, or numbers (N,).

    Args:
        rows: `targets` of each row, see `lm.chat.Encoded`; numbers are in the unit of the data.

    Returns:
        int64 for one class, fp32 else; numbers are brought to the head's own unit.
    """
    if facts.kind == "regress":
        return torch.tensor([(row[0] - facts.mean) / facts.deviation for row in rows], dtype=torch.float32)
    if not facts.multi_label:
        return torch.tensor([int(row[0]) for row in rows], dtype=torch.long)
    wanted_NC = torch.zeros(len(rows), facts.outputs)
    for place, row in enumerate(rows):
        wanted_NC[place, [int(one) for one in row]] = 1
    return wanted_NC
