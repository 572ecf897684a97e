"""Versions with weights of their own beside their base: what was not trained is the base's memory, not a copy."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from feinschliff.formats.heads import HEAD_NAME
from feinschliff.inference.engines.packed import PackedLinear, as_kept, held_by, layers_in_bytes
from feinschliff.inference.engines.reading import unfit, unsupported
from feinschliff.kit.errors import WrongState
from feinschliff.lm.adaptations.last_layers import WEIGHTS_NAME
from feinschliff.lm.quantised import Quantisation, QuantisedLinear, quantisable, refuse_where_unavailable

_HEAD = "lm_head.weight"


def shell_of(model: PreTrainedModel) -> PreTrainedModel:
    """A second model on the same tensors; neither's hooks and replaced weights are the other's."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


@torch.inference_mode()
def with_own_weights(shell: PreTrainedModel, folder: Path, kind: str) -> PreTrainedModel:
    """The model that `full` or `last_layers` left in a folder, its weights kept as those of its base are.

    Tensors are read one at a time; one that equals the base's is the base's, so that a frozen part costs nothing.

    Args:
        shell: of the base; used up.

    Raises:
        WrongState: ADAPTER_UNFIT for tensors that the base does not have or in other shapes, ADAPTER_CORRUPT for
            numbers that are not finite and for half a model, ADAPTER_UNSUPPORTED where nothing of the kind is in the
            folder.
    """
    before: dict[str, Tensor] = dict(shell.named_parameters(remove_duplicate=False))
    in_bytes = {f"{name}.weight": layer for name, layer in layers_in_bytes(shell)}
    before |= {name: held_by(layer) for name, layer in in_bytes.items()}
    shapes = {name: tensor.shape for name, tensor in before.items()}
    shapes |= {name: torch.Size((layer.out_features, layer.in_features)) for name, layer in in_bytes.items()}
    given: set[str] = set()
    for name, tensor in _tensors(folder, kind):
        if tensor.shape != shapes.get(name):
            raise unfit(f"The base has no weight {name} of shape {tuple(tensor.shape)}.", weight=name)
        if not bool(tensor.isfinite().all()):
            raise WrongState("ADAPTER_CORRUPT", f"The version's numbers at {name} are not finite.", module=name)
        if name in in_bytes:
            _put_in_bytes(shell, name, tensor)
        else:
            _put(shell, name, before[name], tensor)
        given.add(name)
    if kind == "full":
        _tie(shell, before, given)
        if _HEAD in in_bytes and _HEAD not in given and shell.config.tie_word_embeddings:
            _put_in_bytes(shell, _HEAD, cast(nn.Embedding, shell.get_input_embeddings()).weight)
            given.add(_HEAD)
        _refuse_missing(before, given)
    return shell


@torch.inference_mode()
def as_quantised(shell: PreTrainedModel, quantisation: Quantisation) -> PreTrainedModel:
    """The model whose weights are those that a base kept in few bits computes with.

    They lie in the base's precision, widened once and not anew for each token: serving pays memory, not time.

    Args:
        shell: of the base; used up.

    Raises:
        Unserved: QUANTISATION_UNAVAILABLE.
        WrongState: ADAPTER_UNSUPPORTED where the base here is kept in few bits already.
    """
    if any(layers_in_bytes(shell)):
        raise unsupported(f"weights in {quantisation.kind}, which cannot be had from weights in int8")
    refuse_where_unavailable(quantisation)
    for layer in quantisable(shell).values():
        kept = QuantisedLinear(layer.weight, None, quantisation)
        layer.weight = nn.Parameter(kept.weight, requires_grad=False)
    return shell


def _tensors(folder: Path, kind: str) -> Iterator[tuple[str, Tensor]]:
    names = [WEIGHTS_NAME] if kind == "last_layers" else sorted(path.name for path in folder.glob("*.safetensors"))
    files = [folder / name for name in names if name != HEAD_NAME and (folder / name).is_file()]
    if not files:
        raise unsupported(f"no weights of `{kind}`")
    try:
        for path in files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - a file of tensors is no dictionary
                    yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise WrongState("ADAPTER_CORRUPT", f"The weights cannot be read: {error}") from error


def _put(model: nn.Module, name: str, base: Tensor, tensor: Tensor) -> None:
    own = tensor.to(base.device, base.dtype)
    if not torch.equal(own, base):
        _set(model, name, nn.Parameter(own, requires_grad=False))


def _put_in_bytes(model: nn.Module, name: str, tensor: Tensor) -> None:
    module = name.removesuffix(".weight")
    layer = model.get_submodule(module)
    assert isinstance(layer, PackedLinear | QuantisedLinear)
    model.set_submodule(module, as_kept(layer, tensor))


def _tie(model: nn.Module, before: dict[str, Tensor], given: Iterable[str]) -> None:
    """A weight that the base has under two names and the folder under one is still a single one."""
    now = dict(model.named_parameters(remove_duplicate=False))
    for name in given:
        for other, tensor in before.items():
            if other not in given and tensor is before[name]:
                _set(model, other, now[name])


def _refuse_missing(before: dict[str, Tensor], given: Iterable[str]) -> None:
    there = {id(before[name]) for name in given}
    missing = sorted(name for name, tensor in before.items() if id(tensor) not in there)
    if missing:
        message = f"The whole model lacks {len(missing)} weights of its base, the first {missing[0]}."
        raise WrongState("ADAPTER_CORRUPT", message, weight=missing[0])


def _set(model: nn.Module, name: str, weight: nn.Parameter) -> None:
    module, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(module), leaf, weight)
