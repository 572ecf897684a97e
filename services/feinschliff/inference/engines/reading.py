"""From an adapter's files to what an engine does with it, every number checked against the base first."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from feinschliff.formats.adaptations import Bottleneck
from feinschliff.inference.engines.parts import Adapter, BottleneckPart, LinearPart, Opening, Pair
from feinschliff.kit.errors import WrongState
from feinschliff.lm.adaptations.bottleneck import NONLINEARITIES, sublayers_of
from feinschliff.lm.adaptations.bottleneck import WEIGHTS_NAME as BOTTLENECK_WEIGHTS
from feinschliff.lm.adaptations.last_layers import layers_of
from feinschliff.lm.adaptations.saved import kind_of, read_settings

# 0 x inf is NaN: a bound on the weights keeps a broken adapter from reaching the other rows of its batch.
_WEIGHT_MAX = 65504.0
_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_magnitude_vector|ia3_l)"
)
_SUBLAYER = re.compile(r"(?P<layer>\d+)\.(?P<place>attention|feed_forward)\.(?P<part>(?:down|up)\.(?:weight|bias))")
_FORBIDDEN = ("modules_to_save", "lora_bias", "trainable_token_indices", "use_qalora", "layer_replication")
_CONFIG, _WEIGHTS, _VECTORS = "adapter_config.json", "adapter_model.safetensors", "prompt_embeddings"

Config = Mapping[str, Any]
Read = Callable[[Mapping[str, Tensor], Config, PreTrainedModel], Adapter]


@torch.inference_mode()
def read_adapter(folder: Path, model: PreTrainedModel) -> Adapter:
    """An adapter that lies beside a shared base, checked against that base.

    Raises:
        WrongState: ADAPTER_UNSUPPORTED for a kind or an option that no engine computes, ADAPTER_UNFIT for another
            base's shapes, ADAPTER_CORRUPT for missing parts and numbers that are not usable.
    """
    if kind_of(folder) == "bottleneck":
        return _networks(folder, model)
    if not (folder / _CONFIG).is_file():
        raise unsupported(f"no {_CONFIG}")
    config = orjson.loads((folder / _CONFIG).read_bytes())
    used = [name for name in _FORBIDDEN if config.get(name)]
    if (config.get("bias") or "none") != "none":
        used.append(f"bias {config['bias']!r}")
    if used:
        raise unsupported(", ".join(used))
    kind = str(config.get("peft_type"))
    read = _READERS.get(kind)
    if read is None:
        raise unsupported(kind)
    tensors = load_file(folder / _WEIGHTS)
    return read(tensors, config, model)


def unsupported(what: str) -> WrongState:
    message = f"No engine of this version computes this adapter: it has {what}."
    return WrongState("ADAPTER_UNSUPPORTED", message, found=what)


def unfit(message: str, **metadata: Any) -> WrongState:
    return WrongState("ADAPTER_UNFIT", message, **metadata)


def usable(tensor: Tensor, name: str, device: torch.device) -> Tensor:
    """In fp32 beside the model, in main memory where the model is its shapes alone; finite and small enough that zero
    times it is zero.

    Raises:
        WrongState: ADAPTER_CORRUPT.
    """
    moved = tensor.to("cpu" if device.type == "meta" else device, torch.float32).contiguous()
    if not bool((moved.abs() <= _WEIGHT_MAX).all()):
        raise WrongState("ADAPTER_CORRUPT", f"The adapter's numbers at {name} are not usable.", module=name)
    return moved


def _low_rank(tensors: Mapping[str, Tensor], config: Config, model: PreTrainedModel) -> Adapter:
    parts: dict[str, LinearPart] = {}
    for name, found in _by_module(tensors, {"lora_A.weight", "lora_B.weight", "lora_magnitude_vector"}).items():
        wanted = {"lora_A.weight", "lora_B.weight"} | ({"lora_magnitude_vector"} if config.get("use_dora") else set())
        if found.keys() != wanted:
            missing = ", ".join(sorted(wanted ^ found.keys()))
            raise WrongState("ADAPTER_CORRUPT", f"The adapter has only a part of {name}: {missing}.", module=name)
        layer = _layer(model, name)
        pair = _pair(name, found["lora_A.weight"], found["lora_B.weight"], config, layer)
        magnitude = found.get("lora_magnitude_vector")
        parts[name] = LinearPart(pair) if magnitude is None else _with_magnitude(name, pair, magnitude, layer)
    return Adapter(parts)


def _pair(name: str, a_RI: Tensor, b_OR: Tensor, config: Config, layer: nn.Module) -> Pair:
    weight_OI = _weight_of(layer)
    if a_RI.dim() != 2 or b_OR.dim() != 2 or (b_OR.shape[0], a_RI.shape[1]) != tuple(weight_OI.shape):
        raise unfit(f"The adapter's shapes do not fit the base's {name}.", module=name)
    rank = a_RI.shape[0]
    if b_OR.shape[1] != rank:
        raise WrongState("ADAPTER_CORRUPT", f"The two halves of the adapter at {name} do not fit.", module=name)
    a_RI, b_OR = usable(a_RI, name, weight_OI.device), usable(b_OR, name, weight_OI.device)
    alpha = _by_pattern(name, config.get("alpha_pattern") or {}, config["lora_alpha"])
    return Pair(a_RI, b_OR.T.contiguous(), alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _with_magnitude(name: str, pair: Pair, magnitude: Tensor, layer: nn.Module) -> LinearPart:
    """DoRA's output: magnitude / |W + s B A| times that of W + s B A, the norm taken over each output's weights."""
    weight_OI = _weight_of(layer).float()
    if magnitude.shape != weight_OI.shape[:1]:
        raise unfit(f"The adapter's magnitudes do not fit the base's {name}.", module=name)
    norm_O = torch.linalg.vector_norm(weight_OI + pair.scale * (pair.b_RO.T @ pair.a_RI), dim=1)
    gain_O = usable(magnitude.to(norm_O.device, torch.float32) / norm_O, name, norm_O.device)
    bias = getattr(layer, "bias", None)
    return LinearPart(pair, gain_O, None if bias is None else (1 - gain_O) * bias.float())


def _gains(tensors: Mapping[str, Tensor], config: Config, model: PreTrainedModel) -> Adapter:
    """IA3's factors: (1, in) scales what a layer gets, (out, 1) what it gives, the bias included."""
    parts: dict[str, LinearPart] = {}
    for name, found in _by_module(tensors, {"ia3_l"}).items():
        weight_OI, factors = _weight_of(_layer(model, name)), found["ia3_l"]
        outputs, inputs = weight_OI.shape
        if tuple(factors.shape) not in ((outputs, 1), (1, inputs)):
            raise unfit(f"The adapter's factors do not fit the base's {name}.", module=name)
        gain = usable(factors, name, weight_OI.device).flatten()
        parts[name] = LinearPart(input_gain_I=gain) if factors.shape[0] == 1 else LinearPart(gain_O=gain)
    return Adapter(parts)


def _vectors(tensors: Mapping[str, Tensor], config: Config, model: PreTrainedModel) -> Adapter:
    """Learned inputs of prompt tuning and P-tuning; what a network made of them is saved, not the network."""
    width = int(model.config.get_text_config().hidden_size)
    vectors_VH = _opening_tensor(tensors, model, width)
    return Adapter(vectors_VH=vectors_VH.to(model.dtype))


def _keys_and_values(tensors: Mapping[str, Tensor], config: Config, model: PreTrainedModel) -> Adapter:
    """Prefix tuning's rows hold, for each layer, all heads' keys and then all heads' values, as a cache does."""
    shape = model.config.get_text_config()
    layers, heads = int(shape.num_hidden_layers), int(shape.num_key_value_heads or shape.num_attention_heads)
    size = int(getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads)
    flat = _opening_tensor(tensors, model, 2 * layers * heads * size).to(model.dtype)
    sides = flat.view(-1, 2 * layers, heads, size).permute(1, 2, 0, 3)[:, None].contiguous()  # (2L, 1, heads, V, size)
    return Adapter(opening=Opening(tuple(sides[0::2]), tuple(sides[1::2])))


def _networks(folder: Path, model: PreTrainedModel) -> Adapter:
    """Bottlenecks behind attention or feed-forward layers."""
    settings = read_settings(folder, Bottleneck)
    names = {module: name for name, module in model.named_modules()}
    layers, parts = layers_of(model), {}
    for number, found in _by_sublayer(load_file(folder / BOTTLENECK_WEIGHTS)).items():
        if number[0] >= len(layers):
            raise unfit(f"The base has {len(layers)} layers; the adapter has a network behind layer {number[0]}.")
        name = names[sublayers_of(layers[number[0]])[number[1]]]
        parts[name] = _network(name, found, settings, model)
    return Adapter(parts)


def _network(name: str, found: Mapping[str, Tensor], settings: Bottleneck, model: PreTrainedModel) -> BottleneckPart:
    hidden, width = int(model.config.get_text_config().hidden_size), settings.width
    shapes = {"down.weight": (width, hidden), "down.bias": (width,), "up.weight": (hidden, width), "up.bias": (hidden,)}
    if {key: tuple(tensor.shape) for key, tensor in found.items()} != shapes:
        raise unfit(f"The adapter's network does not fit the base's {name}.", module=name)
    down_RH, down_bias_R, up_HR, up_bias_H = (usable(found[key], name, model.device) for key in shapes)
    return BottleneckPart(down_RH, down_bias_R, up_HR, up_bias_H, NONLINEARITIES[settings.placement])


def _by_sublayer(tensors: Mapping[str, Tensor]) -> dict[tuple[int, str], dict[str, Tensor]]:
    found: dict[tuple[int, str], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _SUBLAYER.fullmatch(key)
        if match is None:
            raise unsupported(key)
        found.setdefault((int(match["layer"]), match["place"]), {})[match["part"]] = tensor
    return found


def _opening_tensor(tensors: Mapping[str, Tensor], model: PreTrainedModel, width: int) -> Tensor:
    found = tensors.get(_VECTORS)
    if found is None or len(tensors) != 1 or found.dim() != 2 or not found.shape[0]:
        raise WrongState("ADAPTER_CORRUPT", f"The adapter is not a table {_VECTORS} alone.", found=",".join(tensors))
    if found.shape[1] != width:
        raise unfit(f"The adapter's vectors are {found.shape[1]} wide; the base takes {width}.", width=found.shape[1])
    return usable(found, _VECTORS, model.device)


def _by_module(tensors: Mapping[str, Tensor], known: set[str]) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or match["part"] not in known:
            raise unsupported(key)
        found.setdefault(match["module"], {})[match["part"]] = tensor
    return found


def _layer(model: nn.Module, name: str) -> nn.Module:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        layer = nn.Identity()
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        raise unfit(f"The base has no linear layer {name}.", module=name)
    return layer


def _weight_of(layer: nn.Module) -> Tensor:
    """(out, in); GPT-2's layers keep theirs turned."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight if isinstance(layer, nn.Linear) else weight.T


def _by_pattern(name: str, patterns: Mapping[str, float], default: float) -> float:
    """PEFT's rule: the first pattern that ends the module's name."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)


_READERS: Mapping[str, Read] = {
    "LORA": _low_rank,
    "IA3": _gains,
    "PROMPT_TUNING": _vectors,
    "P_TUNING": _vectors,
    "PREFIX_TUNING": _keys_and_values,
}
