"""What all of PEFT's adaptations share: fresh ones, saved ones, and PEFT's own file format."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from feinschliff.kit.errors import Invalid

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel

WEIGHTS_NAME = "adapter_model.safetensors"
TRAINED = "default"


def fresh(model: PreTrainedModel, config: PeftConfig, *, seed: int) -> PeftModel:
    """Weights drawn from `seed` alone, in fp32."""
    import torch

    from feinschliff.lm.adaptations.pefts import get_peft_model

    with torch.random.fork_rng(devices=[]), calm():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config, adapter_name=TRAINED, autocast_adapter_dtype=True)
    return cast("PeftModel", adapted)


def resume(model: PreTrainedModel, folder: Path) -> PeftModel:
    from feinschliff.lm.adaptations.pefts import PeftModel

    with calm():
        return PeftModel.from_pretrained(model, str(folder), adapter_name=TRAINED, is_trainable=True)


def restore(model: PeftModel, folder: Path) -> None:
    from safetensors.torch import load_file

    from feinschliff.lm.adaptations.pefts import set_peft_model_state_dict

    set_peft_model_state_dict(model, load_file(folder / WEIGHTS_NAME), adapter_name=TRAINED)


def save(model: PeftModel, folder: Path, *, base_model: str) -> None:
    """`adapter_model.safetensors` and `adapter_config.json`, as plain PEFT loads them."""
    config = model.peft_config[TRAINED]
    config.base_model_name_or_path = base_model
    for name in ("target_modules", "feedforward_modules"):
        if isinstance(getattr(config, name, None), set):
            setattr(config, name, sorted(getattr(config, name)))
    model.save_pretrained(
        str(folder), selected_adapters=[TRAINED], safe_serialization=True, save_embedding_layers=False
    )
    (folder / "README.md").unlink(missing_ok=True)


def merge(model: PeftModel) -> PreTrainedModel:
    """The base in fp32 with the adapter in its weights; uses up `model`.

    In bf16 an update would be lost that is smaller than the weight's last bit.
    """
    with calm():
        merged = model.float().merge_and_unload(safe_merge=True)
    return cast("PreTrainedModel", merged.requires_grad_(False).train(False))


def transformer(model: PeftModel) -> PreTrainedModel:
    return cast("PreTrainedModel", model.get_base_model())


def trained(model: PeftModel) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    import torch

    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


def refuse_unknown_targets(model: PreTrainedModel, targets: list[str]) -> None:
    """
    Raises:
        Invalid: TARGET_MODULES_UNKNOWN when no layer of the base bears one of the names.
    """
    linear = linear_layers(model)
    unknown = [target for target in targets if not any(names(layer, target) for layer in linear)]
    if unknown:
        leaves = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise Invalid(
            "TARGET_MODULES_UNKNOWN",
            f"The base has no linear layer named {', '.join(unknown)}; it has {', '.join(leaves)}.",
            target_modules=",".join(unknown),
        )


def names(layer: str, target: str) -> bool:
    """Whether `target` is the layer's name or the end of it."""
    return layer == target or layer.endswith("." + target)


@contextmanager
def calm() -> Iterator[None]:
    """PEFT asks transformers for properties under their old names, which warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
