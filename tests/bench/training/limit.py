"""How fast this machine multiplies matrices of the model's shapes: what training could reach if nothing else cost time.

Prints one JSON object: tokens a second of LoRA's forward pass and input gradients through the frozen base, with
logits at a share of the positions. Neither attention's core nor the adapters' own products are counted, so the limit is
out of reach.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

TOKENS = 1_536
SECONDS_PER_SHAPE = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--precision", choices=["bf16", "fp32"], required=True)
    parser.add_argument("--label-share", type=float, required=True)
    options = parser.parse_args()
    config = json.loads((options.base / "config.json").read_text("utf-8"))
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    layer = sum(count * seconds_per_token(shape, dtype) for shape, count in shapes(config).items())
    head = seconds_per_token((config["hidden_size"], config["vocab_size"]), dtype)
    seconds = config["num_hidden_layers"] * layer + options.label_share * head
    print(json.dumps({"tokens_per_second": 1 / seconds, "threads": torch.get_num_threads()}))


def shapes(config: Mapping[str, int]) -> dict[tuple[int, int], int]:
    """(inputs, outputs) of a layer's matrices, and how many have them."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    counts: dict[tuple[int, int], int] = {}
    for shape in [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden), *[(hidden, inner)] * 2]:
        counts[shape] = counts.get(shape, 0) + 1
    counts[inner, hidden] = counts.get((inner, hidden), 0) + 1
    return counts


def seconds_per_token(shape: tuple[int, int], dtype: torch.dtype) -> float:
    """Of x W' and of its input gradient g W; the median of as many tries as fit into the time."""
    inputs, outputs = shape
    # The head is as wide as the vocabulary: fewer tokens at a time, as in training.
    tokens = TOKENS if outputs < 10_000 else TOKENS // 8
    x_TI, w_OI = torch.randn(tokens, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
    g_TO = torch.randn(tokens, outputs, dtype=dtype)
    durations = []
    stop = time.perf_counter() + SECONDS_PER_SHAPE
    while time.perf_counter() < stop or len(durations) < 3:
        durations.append(_both(x_TI, w_OI, g_TO))
    return statistics.median(durations) / tokens


def _both(x_TI: Tensor, w_OI: Tensor, g_TO: Tensor) -> float:
    started = time.perf_counter()
    _ = x_TI @ w_OI.T
    _ = g_TO @ w_OI
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
