"""The engines by name; the only place of this room that knows torch, and it is imported when a base is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.inference.engine import Engine
from feinschliff.inference.engines.vllm.options import VllmOptions
from feinschliff.inference.life import EngineName, Precision
from feinschliff.lm.threads import share_cores


@dataclass(frozen=True)
class EngineOptions:
    """What an engine may use of this machine.

    Args:
        cache_dir: where bases are unpacked.
        rows_max, queue_max, prefill_tokens_per_step: as in `batcher.Limits`.
        kv_cache_bytes_max: memory for attention keys and values.
        prefix_cache_bytes_max: beside it, for those of what prompts begin with; 0 computes all anew.
        threads: CPU threads of the engine; 0 leaves the choice to torch.
        native: decode by the hand-written pass where the model has one; False takes the model's own always.
        lookup_tokens_max: most tokens of an answer that are drafted at once, as they stand elsewhere in its text, and
            checked in one step; 0 drafts none. Only where the hand-written pass decodes.
        on_batch: told the number of rows of every decode step; where a server computes, of every change.
        on_drafts: told of every step with drafts how many tokens were drafted, and how many of them held.
        vllm: what is said of vLLM servers.
    """

    cache_dir: Path
    rows_max: int = 16
    queue_max: int = 64
    prefill_tokens_per_step: int = 512
    kv_cache_bytes_max: int = 2 * 1024**3
    prefix_cache_bytes_max: int = 0
    threads: int = 0
    native: bool = True
    lookup_tokens_max: int = 0
    on_batch: Callable[[int], None] = lambda rows: None
    on_drafts: Callable[[int, int], None] = lambda drafted, held: None
    vllm: VllmOptions = field(default_factory=VllmOptions)


def resolve_precision(precision: Precision, engine: EngineName = "transformers") -> Precision:
    """What `auto` means on this machine; takes seconds the first time, because it asks torch. vLLM's machine is
    another one, or its GPU: bf16 there."""
    if engine == "vllm":
        return "bf16" if precision == "auto" else precision
    if precision == "int8":
        return precision
    share_cores()
    from feinschliff.lm.load import resolve_precision as resolve

    return resolve(precision)


Load = Callable[[BaseFiles, Precision, EngineOptions], Engine]


def _transformers(base: BaseFiles, precision: Precision, options: EngineOptions) -> Engine:
    share_cores()
    from feinschliff.inference.engines.transformers import TransformersEngine

    return TransformersEngine.load(base, precision, options)


def _vllm(base: BaseFiles, precision: Precision, options: EngineOptions) -> Engine:
    share_cores()
    from feinschliff.inference.engines.vllm.engine import VllmEngine

    return VllmEngine.load(base, precision, options)


ENGINES: Mapping[EngineName, Load] = {"transformers": _transformers, "vllm": _vllm}
