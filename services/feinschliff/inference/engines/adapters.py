"""LoRA adapters beside a frozen base, many at once: each row of a batch gets its own and nothing of the others.

The adapters in use are laid side by side: x A is computed for all of them in one product, the columns of foreign
adapters are multiplied by zero, and one product with B follows. Weights are never merged into the base.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from feinschliff.kit.errors import WrongState

# 0 x inf is NaN: a bound on the weights keeps a broken adapter from reaching the other rows of its batch.
_WEIGHT_MAX = 65504.0
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_FORBIDDEN = ("use_dora", "modules_to_save", "lora_bias", "trainable_token_indices", "use_qalora", "layer_replication")


class Pair(NamedTuple):
    """A (rank, in) and B (out, rank) beside one linear layer, in fp32, and the factor of their product."""

    a_RI: Tensor
    b_OR: Tensor
    scale: float


Adapter = Mapping[str, Pair]


@dataclass(frozen=True)
class _Side:
    """The adapters in use, side by side at one layer; `scale_BR` is 0 where a column is another row's."""

    a_RI: Tensor
    b_OR: Tensor
    scale_BR: Tensor


def read_adapter(folder: Path, model: nn.Module) -> Adapter:
    """An adapter in PEFT's format, checked against the base.

    Raises:
        WrongState: ADAPTER_UNSUPPORTED for what is not plain LoRA, ADAPTER_UNFIT for another base's shapes,
            ADAPTER_CORRUPT for missing halves and numbers that are not finite.
    """
    if not (folder / "adapter_config.json").is_file():
        what = "no adapter_config.json"
        raise WrongState("ADAPTER_UNSUPPORTED", f"This engine serves plain LoRA; the adapter has {what}.", found=what)
    config = orjson.loads((folder / "adapter_config.json").read_bytes())
    used = [name for name in _FORBIDDEN if config.get(name)]
    if config.get("peft_type") != "LORA" or used or config.get("bias", "none") != "none":
        what = ", ".join(used) or f"{config.get('peft_type')} with bias {config.get('bias', 'none')!r}"
        raise WrongState("ADAPTER_UNSUPPORTED", f"This engine serves plain LoRA; the adapter has {what}.", found=what)
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise WrongState("ADAPTER_UNSUPPORTED", f"This engine serves plain LoRA; the adapter has {key}.", found=key)
        halves.setdefault(match["module"], {})[match["side"]] = tensor
    return {name: _pair(name, sides, config, model) for name, sides in halves.items()}


class AdapterBank:
    """The loaded adapters of one model; hooks add the selected ones. Only for the thread that runs the model."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._adapters: dict[str, Adapter] = {}
        self._hooks: dict[str, RemovableHandle] = {}
        self._rows: tuple[str, ...] = ()
        self._sides: dict[str, _Side] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._adapters

    @property
    def digests(self) -> frozenset[str]:
        return frozenset(self._adapters)

    def add(self, digest: str, adapter: Adapter) -> None:
        if digest in self._adapters:
            return
        self._adapters[digest] = adapter
        for name in adapter:
            if name not in self._hooks:
                self._hooks[name] = self._model.get_submodule(name).register_forward_hook(self._hook(name))

    def remove(self, digest: str) -> None:
        self._adapters.pop(digest, None)
        needed = {name for adapter in self._adapters.values() for name in adapter}
        for name in self._hooks.keys() - needed:
            self._hooks.pop(name).remove()
        self._rows, self._sides = (), {}

    def clear(self) -> None:
        for digest in self.digests:
            self.remove(digest)

    def select(self, rows: Sequence[str]) -> None:
        """From now on row i of the batch gets the adapter `rows[i]`, or none where that is empty."""
        if tuple(rows) == self._rows:
            return
        self._rows = tuple(rows)
        in_use = {digest: self._adapters[digest] for digest in dict.fromkeys(rows) if digest}
        names = dict.fromkeys(name for adapter in in_use.values() for name in adapter)
        self._sides = {name: _side_by_side(name, rows, in_use) for name in names}

    def _hook(self, name: str) -> Any:
        def add_low_rank(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            side = self._sides.get(name)
            if side is None:
                return None
            low_BTR = nn.functional.linear(args[0].to(side.a_RI.dtype), side.a_RI) * side.scale_BR[:, None]
            return (output + nn.functional.linear(low_BTR, side.b_OR)).to(output.dtype)

        return add_low_rank


def _side_by_side(name: str, rows: Sequence[str], in_use: Mapping[str, Adapter]) -> _Side:
    pairs = {digest: adapter[name] for digest, adapter in in_use.items() if name in adapter}
    first = next(iter(pairs.values()))
    owners = [digest for digest, pair in pairs.items() for _ in range(pair.a_RI.shape[0])]
    scale = [[pairs[owner].scale if owner == row else 0.0 for owner in owners] for row in rows]
    scale_BR = torch.tensor(scale, dtype=first.a_RI.dtype, device=first.a_RI.device)
    if len(pairs) == 1:
        return _Side(first.a_RI, first.b_OR, scale_BR)
    a_RI = torch.cat([pair.a_RI for pair in pairs.values()])
    b_OR = torch.cat([pair.b_OR for pair in pairs.values()], dim=1)
    return _Side(a_RI, b_OR, scale_BR)


def _pair(name: str, sides: Mapping[str, Tensor], config: Mapping[str, Any], model: nn.Module) -> Pair:
    if sides.keys() != {"A", "B"}:
        raise WrongState("ADAPTER_CORRUPT", f"The adapter has only one half of {name}.", module=name)
    weight = dict(model.named_parameters(remove_duplicate=False)).get(f"{name}.weight")
    if weight is None:
        raise WrongState("ADAPTER_UNFIT", f"The base has no layer {name}.", module=name)
    a_RI, b_OR = (sides[side].to(weight.device, torch.float32).contiguous() for side in "AB")
    rank = a_RI.shape[0]
    if (b_OR.shape[0], a_RI.shape[1]) not in (tuple(weight.shape), tuple(weight.shape)[::-1]):
        raise WrongState("ADAPTER_UNFIT", f"The adapter's shapes do not fit the base's {name}.", module=name)
    if b_OR.shape[1] != rank or not all(bool((half.abs() <= _WEIGHT_MAX).all()) for half in (a_RI, b_OR)):
        raise WrongState("ADAPTER_CORRUPT", f"The adapter's numbers at {name} are not usable.", module=name)
    alpha = _by_pattern(name, config.get("alpha_pattern") or {}, config["lora_alpha"])
    return Pair(a_RI, b_OR, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _by_pattern(name: str, patterns: Mapping[str, float], default: float) -> float:
    """PEFT's rule: the first pattern that ends the module's name."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)
