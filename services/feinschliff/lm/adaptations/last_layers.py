"""The layers nearest to the answer train; below the lowest of them nothing is differentiated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file
from torch import nn

from feinschliff.formats.adaptations import LastLayers
from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations.own_weights import let_train, merge, put, trained, transformer
from feinschliff.lm.adaptations.saved import read_settings, write_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["attach", "merge", "restore", "resume", "save", "trained", "transformer"]

WEIGHTS_NAME = "trained.safetensors"


def attach(model: PreTrainedModel, settings: LastLayers, *, seed: int) -> PreTrainedModel:
    """Nothing is drawn, so `seed` changes nothing.

    A head that trains gets a weight of its own where the base ties it to the embeddings: they lie below everything,
    and learning them would mean to differentiate every layer.

    Raises:
        Invalid: LAYERS_TOO_MANY, ARCHITECTURE_UNSUPPORTED.
    """
    layers = layers_of(model)
    if settings.layers > len(layers):
        raise Invalid(
            "LAYERS_TOO_MANY",
            f"The last {settings.layers} layers are to train, and the base has {len(layers)}.",
            advice=["Name fewer layers, or train them all with `full`."],
            layers=settings.layers,
            layers_of_base=len(layers),
        )
    chosen = [weight for layer in layers[len(layers) - settings.layers :] for weight in layer.parameters()]
    if settings.train_head:
        chosen += [*_norms_above(model, layers), *_own_head(model).parameters()]
    let_train(model, chosen)
    return model


def resume(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    adapted = attach(model, read_settings(folder, LastLayers), seed=0)
    restore(adapted, folder)
    return adapted


def restore(model: PreTrainedModel, folder: Path) -> None:
    put(model, load_file(folder / WEIGHTS_NAME))


def save(model: PreTrainedModel, folder: Path, *, base_model: str) -> None:
    """The trained tensors alone, in fp32, under the names that they have in the base."""
    tensors = {name: weight.detach().contiguous() for name, weight in trained(model).items()}
    write_settings(folder, _settings(model))
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of layers, the lowest first.

    Raises:
        Invalid: ARCHITECTURE_UNSUPPORTED where there is not exactly one list as long as the model is deep.
    """
    depth = model.config.get_text_config().num_hidden_layers
    found = [one for one in model.base_model.modules() if isinstance(one, nn.ModuleList) and len(one) == depth]
    if len(found) != 1:
        raise Invalid(
            "ARCHITECTURE_UNSUPPORTED",
            "The layers of this base cannot be told apart, so none of them can be trained alone.",
            advice=["Take `lora`, or a decoder-only base such as Llama, Qwen, Mistral or SmolLM."],
            why="no single stack of layers",
        )
    return found[0]


def _settings(model: PreTrainedModel) -> LastLayers:
    learning = sum(any(weight.requires_grad for weight in layer.parameters()) for layer in layers_of(model))
    head = any(weight.requires_grad for weight in _head(model).parameters())
    return LastLayers(layers=learning, train_head=head)


def _norms_above(model: PreTrainedModel, layers: nn.ModuleList) -> Iterator[nn.Parameter]:
    """Weights of the norm between the last layer and the head."""
    (stack,) = (one for one in model.base_model.modules() if any(child is layers for child in one.children()))
    for child in stack.children():
        weights = list(child.parameters())
        if child is not layers and all(weight.dim() == 1 for weight in weights):
            yield from weights


def _own_head(model: PreTrainedModel) -> nn.Module:
    head, embeddings = _head(model), model.get_input_embeddings()
    weight = head.weight
    if isinstance(weight, nn.Parameter) and weight is embeddings.weight:
        head.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
    return head


def _head(model: PreTrainedModel) -> nn.Module:
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert isinstance(head, nn.Module), "a base without a head was refused when it was loaded"
    return head
