"""Low-rank adapters beside frozen linear layers, in PEFT's own file format.

The base keeps its precision and the adapter trains in fp32: an update too small for bf16 is still summed up. The
adapter is never merged into a bf16 weight, which would lose such updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from feinschliff.formats.adaptations import Lora, LowRank
from feinschliff.lm.adaptations import peft_files
from feinschliff.lm.adaptations.peft_files import TRAINED, calm, merge, trained, transformer
from feinschliff.lm.adaptations.saved import SETTINGS_NAME, read_settings

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

    from feinschliff.lm.adaptations.lora_start import Starts

__all__ = ["attach", "load", "merge", "restore", "resume", "save", "trained", "transformer"]

_STARTED = "feinschliff_started"


@dataclass(frozen=True)
class _Started:
    """Remembered on a model whose adapters were taken out of its base, see `lora_start`."""

    settings: Lora
    starts: Starts


def attach(model: PreTrainedModel, settings: Lora, *, seed: int) -> PeftModel:
    """Fresh adapters: A drawn from `seed`, B zero, so that the first forward pass is the base's.

    With another start than `random` both are parts of the base's weights, which are taken out of them.

    Raises:
        Invalid: TARGET_MODULES_UNKNOWN when no layer of the base bears one of the names; RANK_TOO_LARGE.
    """
    adapted = peft_files.fresh(model, config_of(model, settings), seed=seed)
    if settings.start != "random":
        from feinschliff.lm.adaptations import lora_start

        _remember(adapted, _Started(settings, lora_start.begin(adapted, settings.start, seed=seed)))
    return with_fused_products(adapted)


def resume(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Saved adapters that go on training; a start is taken out of the base again."""
    if not (folder / SETTINGS_NAME).is_file():
        return with_fused_products(peft_files.resume(model, folder))
    from feinschliff.lm.adaptations import lora_start

    settings = read_settings(folder, Lora)
    adapted = peft_files.fresh(model, config_of(model, settings), seed=0)
    now, starts = lora_start.read_difference(adapted, folder)
    lora_start.take_out(adapted, starts)
    lora_start.put_all(adapted, now)
    _remember(adapted, _Started(settings, starts))
    return with_fused_products(adapted)


def restore(model: PeftModel, folder: Path) -> None:
    if _started(model) is None:
        peft_files.restore(model, folder)
        return
    from feinschliff.lm.adaptations import lora_start

    lora_start.put_all(model, lora_start.read_difference(model, folder)[0])


def save(model: PeftModel, folder: Path, *, base_model: str) -> None:
    """PEFT's files, for the base as it is whatever the start; `adaptation.json` beside them where there was one."""
    peft_files.save(model, folder, base_model=base_model)
    started = _started(model)
    if started is not None:
        from feinschliff.lm.adaptations import lora_start

        lora_start.save_difference(model, started.starts, started.settings, folder)


def load(model: PreTrainedModel | PeftModel, folder: Path, *, name: str) -> PeftModel:
    """Saved adapters for serving, under a name; more than one may lie beside the same base."""
    from feinschliff.lm.adaptations.pefts import PeftModel

    with calm():
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name, is_trainable=False)
            return model
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=False)


def config_of(model: PreTrainedModel, settings: LowRank, *, use_dora: bool = False) -> LoraConfig:
    """PEFT's settings; refuses targets that the base does not have."""
    from feinschliff.lm.adaptations.pefts import LoraConfig, TaskType

    peft_files.refuse_unknown_targets(model, settings.target_modules)
    return LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules) or "all-linear",
        use_rslora=settings.use_rslora,
        use_dora=use_dora,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )


def with_fused_products(model: PeftModel) -> PeftModel:
    from feinschliff.lm.adaptations.lora_product import use_fused_products

    use_fused_products(model, TRAINED)
    return model


def _remember(model: PeftModel, started: _Started) -> None:
    model.__dict__[_STARTED] = started


def _started(model: PeftModel) -> _Started | None:
    return cast("_Started | None", model.__dict__.get(_STARTED))
