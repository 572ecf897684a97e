"""What the adaptations with virtual tokens share: PEFT's encoders and file format, and the way to train on from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from feinschliff.kit.errors import Invalid
from feinschliff.lm.adaptations import peft_files
from feinschliff.lm.adaptations.peft_files import TRAINED, WEIGHTS_NAME, calm
from feinschliff.lm.adaptations.virtual_tokens import prepend_vectors

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

ENCODER_NAME = "encoder.safetensors"
"""The network that makes the vectors, beside them: PEFT keeps the vectors alone, and none can train on from those."""

VECTORS = "prompt_embeddings"
COMMON_TOKENS = 5000


def resume(model: PreTrainedModel, folder: Path) -> PeftModel:
    """PEFT loads such a folder for inference only; here its numbers are put into fresh encoders that train."""
    from feinschliff.lm.adaptations.pefts import PeftConfig

    with calm():
        config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    config.base_model_name_or_path = None  # PEFT warns of a base under another name; the trainer compares digests
    adapted = peft_files.fresh(model, config, seed=0)
    restore(adapted, folder)
    return adapted


def restore(model: PeftModel, folder: Path) -> None:
    encoder = encoder_of(model)
    if (folder / ENCODER_NAME).is_file():
        encoder.load_state_dict(load_file(folder / ENCODER_NAME))
    else:
        put_vectors(encoder, load_file(folder / WEIGHTS_NAME)[VECTORS])


def save(model: PeftModel, folder: Path, *, base_model: str) -> None:
    """The vectors as plain PEFT loads them; where a network makes them, that too."""
    peft_files.save(model, folder, base_model=base_model)
    weights = {name: weight.detach().contiguous() for name, weight in encoder_of(model).state_dict().items()}
    if len(weights) > 1:
        save_file(weights, folder / ENCODER_NAME, metadata={"format": "pt"})


def merge(model: PeftModel) -> PreTrainedModel:
    """
    Raises:
        Invalid: MERGE_IMPOSSIBLE.
    """
    raise merge_impossible("virtual tokens stand before the input, and no weight of the base can hold them")


def merge_impossible(why: str) -> Invalid:
    return Invalid(
        "MERGE_IMPOSSIBLE",
        f"This adaptation cannot become part of the base: {why}.",
        advice=["Serve it beside its base, or train with an adaptation that can be merged, such as `lora`."],
        why=why,
    )


def with_vectors(model: PeftModel) -> PeftModel:
    """Let the base read the encoder's vectors before every row."""
    prepend_vectors(peft_files.transformer(model), lambda: vectors_of(model))
    return model


def vectors_of(model: PeftModel) -> Tensor:
    """What the encoder makes now, in fp32; (P, width)."""
    encoder = encoder_of(model)
    place_P = torch.arange(encoder.embedding.num_embeddings, device=encoder.embedding.weight.device)
    return cast(Tensor, encoder(place_P))


def encoder_of(model: PeftModel) -> Any:
    return model.prompt_encoder[TRAINED]


def put_vectors(encoder: Any, vectors_PH: Tensor) -> None:
    with torch.no_grad():
        encoder.embedding.weight.copy_(vectors_PH)


def common_tokens(model: PreTrainedModel, count: int, *, seed: int) -> Tensor:
    """Ids drawn from the 5,000 that a tokenizer puts first, which are about its commonest; (count,).

    So that learned vectors begin where real ones lie (Lester et al. 2021, section 3.2).
    """
    vocabulary = int(model.config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, min(COMMON_TOKENS, vocabulary), (count,), generator=generator)


def config_of(kind: Callable[..., PeftConfig], **settings: Any) -> PeftConfig:
    from feinschliff.lm.adaptations.pefts import TaskType

    return kind(task_type=TaskType.CAUSAL_LM, num_transformer_submodules=1, **settings)
