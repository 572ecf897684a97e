"""What the hand-written pass needs to know of a model of the Llama family; other models have none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from feinschliff.lm.kernels import HEAD_MAX, SHARED_MAX

_STACK = {"embed_tokens", "layers", "norm", "rotary_emb"}
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_FAMILIES = {"LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention"}  # others may hide a step
_WINDOWED = _FAMILIES - {"LlamaAttention"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_FEED_FORWARD = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_TURNS = {"default", "linear", "llama3", "yarn"}  # position embeddings whose angles never depend on the length


@dataclass(frozen=True)
class Norm:
    """By the root mean square (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    weight: Tensor
    epsilon: float


@dataclass(frozen=True)
class Layer:
    """Names are those of the model's modules; `window` 0 sees everything before."""

    attention: str
    feed_forward: str
    norm: Norm
    feed_forward_norm: Norm
    query_norm: Norm | None
    key_norm: Norm | None
    window: int


@dataclass(frozen=True)
class Architecture:
    """A causal decoder: RMS norms, turned queries and keys, grouped heads, a gated feed-forward part."""

    layers: tuple[Layer, ...]
    last_norm: Norm
    heads: int
    groups: int
    size: int
    scale: float

    @classmethod
    def of(cls, model: PreTrainedModel) -> Architecture | None:
        """None for a model that has anything else in it; that it computes the same is to be proven all the same."""
        config: Any = model.config.get_text_config()
        stack: Any = model.base_model
        if _children(stack) != _STACK or getattr(config, "final_logit_softcapping", None):
            return None
        turns = getattr(config, "rope_parameters", None) or {}
        if turns.get("rope_type", "default") not in _TURNS or turns.get("partial_rotary_factor", 1.0) != 1.0:
            return None
        found = [_layer(layer, f"{model.base_model_prefix}.layers.{n}", config, n) for n, layer in _numbered(stack)]
        layers = tuple(layer for layer in found if layer is not None)
        last = _norm(stack.norm)
        if len(layers) != len(found) or last is None or not layers:
            return None
        attention: Any = stack.layers[0].self_attn
        heads = int(config.num_attention_heads)
        groups = int(getattr(config, "num_key_value_heads", None) or heads)
        size = int(attention.head_dim)
        if heads % groups or heads // groups > SHARED_MAX or size > HEAD_MAX or size % 2:
            return None
        wanted = {"q_proj": heads * size, "k_proj": groups * size, "v_proj": groups * size}
        for layer in stack.layers:
            if any(getattr(layer.self_attn, name).out_features != outputs for name, outputs in wanted.items()):
                return None
        return cls(layers, last, heads, groups, size, float(attention.scaling))


def _layer(layer: Any, path: str, config: Any, number: int) -> Layer | None:
    if _children(layer) != _LAYER or _children(layer.mlp) - {"act_fn"} != _FEED_FORWARD - {"act_fn"}:
        return None
    if not _ATTENTION <= _children(layer.self_attn) <= _ATTENTION | _HEAD_NORMS:
        return None
    family = type(layer.self_attn).__name__
    if family not in _FAMILIES or dict(layer.self_attn.named_parameters(recurse=False)):
        return None
    if type(layer.mlp.act_fn).__name__ not in ("SiLU", "SiLUActivation"):
        return None
    before, between = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
    if before is None or between is None:
        return None
    return Layer(
        attention=f"{path}.self_attn",
        feed_forward=f"{path}.mlp",
        norm=before,
        feed_forward_norm=between,
        query_norm=_norm(getattr(layer.self_attn, "q_norm", None)),
        key_norm=_norm(getattr(layer.self_attn, "k_norm", None)),
        window=_window(config, number) if family in _WINDOWED else 0,
    )


def _norm(module: Any) -> Norm | None:
    epsilon = getattr(module, "variance_epsilon", None)
    weight = getattr(module, "weight", None)
    return Norm(weight, float(epsilon)) if epsilon is not None and isinstance(weight, Tensor) else None


def _window(config: Any, number: int) -> int:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = kinds[number] == "sliding_attention" if kinds else True
    return int(window) if window and slides else 0


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _numbered(stack: Any) -> list[tuple[int, nn.Module]]:
    return list(enumerate(stack.layers))
