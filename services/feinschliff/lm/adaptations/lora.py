"""Low-rank adapters beside frozen linear layers, in PEFT's own file format.

The base keeps its precision and the adapter trains in fp32: an update too small for bf16 is still summed up. The
adapter is never merged into a bf16 weight, which would lose such updates.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from feinschliff.formats.recipe import Adaptation
from feinschliff.kit.errors import Invalid

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
TRAINED = "default"


def attach(model: PreTrainedModel, settings: Adaptation, *, seed: int) -> PeftModel:
    """Fresh adapters: A drawn from `seed`, B zero, so that the first forward pass is the base's.

    Raises:
        Invalid: TARGET_MODULES_UNKNOWN when no layer of the base bears one of the names.
    """
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules) or "all-linear",
        use_rslora=settings.use_rslora,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )
    _refuse_unknown_targets(model, settings.target_modules)
    with torch.random.fork_rng(devices=[]), _calm():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config, adapter_name=TRAINED, autocast_adapter_dtype=True)
    return _trainable(cast("PeftModel", adapted))


def resume(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Saved adapters that go on training."""
    from peft import PeftModel

    with _calm():
        return _trainable(PeftModel.from_pretrained(model, str(folder), adapter_name=TRAINED, is_trainable=True))


def restore(model: PeftModel, folder: Path) -> None:
    """Put saved weights in the place of the trained ones."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / WEIGHTS_NAME), adapter_name=TRAINED)


def load(model: PreTrainedModel | PeftModel, folder: Path, *, name: str) -> PeftModel:
    """Saved adapters for serving, under a name; more than one may lie beside the same base."""
    from peft import PeftModel

    with _calm():
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name, is_trainable=False)
            return model
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=False)


def save(model: PeftModel, folder: Path, *, base_model: str) -> None:
    """`adapter_model.safetensors` and `adapter_config.json`; equal weights give equal bytes."""
    config = cast("LoraConfig", model.peft_config[TRAINED])
    config.base_model_name_or_path = base_model
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    model.save_pretrained(
        str(folder), selected_adapters=[TRAINED], safe_serialization=True, save_embedding_layers=False
    )
    (folder / "README.md").unlink(missing_ok=True)


@contextmanager
def _calm() -> Iterator[None]:
    """PEFT asks transformers for properties under their old names, which warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _trainable(model: PeftModel) -> PeftModel:
    from feinschliff.lm.adaptations.lora_product import use_fused_products

    use_fused_products(model, TRAINED)
    return model


def _refuse_unknown_targets(model: PreTrainedModel, targets: list[str]) -> None:
    import torch

    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    unknown = [target for target in targets if not any(_names(layer, target) for layer in linear)]
    if unknown:
        leaves = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise Invalid(
            "TARGET_MODULES_UNKNOWN",
            f"The base has no linear layer named {', '.join(unknown)}; it has {', '.join(leaves)}.",
            target_modules=",".join(unknown),
        )


def _names(layer: str, target: str) -> bool:
    return layer == target or layer.endswith("." + target)
