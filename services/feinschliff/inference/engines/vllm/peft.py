"""A version's adapter in the form in which vLLM reads one: plain LoRA in PEFT's files, and nothing left to guess.

vLLM (0.31, `lora/peft_helper.py`) reads one rank and one alpha for all layers; it passes over what `rank_pattern` and
`alpha_pattern` say and would compute something else. So every pair is written with its own factor in B, at one rank,
with zeros where it has less: the same numbers come out.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import orjson
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from feinschliff.formats.heads import HEAD_SETTINGS_NAME
from feinschliff.inference.engines.parts import LinearPart, Pair
from feinschliff.inference.engines.reading import read_adapter
from feinschliff.kit.errors import WrongState
from feinschliff.lm.adaptations.saved import kind_of

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_FLOAT_BYTES = 4


def read_pairs(folder: Path, model: PreTrainedModel, *, rank_max: int) -> dict[str, Pair]:
    """The pairs of a LoRA by module, checked against the base's shapes.

    Raises:
        WrongState: ADAPTER_UNSUPPORTED, ADAPTER_UNFIT, ADAPTER_CORRUPT.
    """
    if (folder / HEAD_SETTINGS_NAME).is_file():
        raise _unable("it has a head that judges texts")
    kind = kind_of(folder)
    if kind != "lora":
        raise _unable(f"it is `{kind}`, not `lora`")
    parts = read_adapter(folder, model).parts
    pairs = {name: part.pair for name, part in parts.items() if isinstance(part, LinearPart) and part.pair}
    if not pairs:
        raise _unable("it changes no linear layer")
    rank = max(pair.a_RI.shape[0] for pair in pairs.values())
    if rank > rank_max:
        raise _unable(f"its rank is {rank}, and this installation's servers take at most {rank_max}")
    return pairs


def _unable(why: str) -> WrongState:
    message = f"vLLM does not compute this adapter: {why}."
    return WrongState("ADAPTER_UNSUPPORTED", message, advice=["Deploy it on the engine TRANSFORMERS."], found=why)


def bytes_of_pairs(pairs: Mapping[str, Pair]) -> int:
    return sum(_FLOAT_BYTES * (pair.a_RI.numel() + pair.b_RO.numel()) for pair in pairs.values())


def write(pairs: Mapping[str, Pair], folder: Path) -> None:
    """Puts the files there at once; a folder that holds the same already is left as it is."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        _write(pairs, aside)
        aside.chmod(0o755)  # the server may be another user's
        if _hashes(folder) == _hashes(aside):
            return
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(pairs: Mapping[str, Pair], folder: Path) -> None:
    rank = max(pair.a_RI.shape[0] for pair in pairs.values())
    tensors: dict[str, Tensor] = {}
    for name, pair in sorted(pairs.items()):
        own = pair.a_RI.shape[0]
        a_RI = torch.zeros(rank, pair.a_RI.shape[1])
        b_OR = torch.zeros(pair.b_RO.shape[1], rank)
        a_RI[:own] = pair.a_RI
        b_OR[:, :own] = pair.b_RO.T * pair.scale
        tensors[f"base_model.model.{name}.lora_A.weight"] = a_RI
        tensors[f"base_model.model.{name}.lora_B.weight"] = b_OR
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in pairs}),
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    for file in folder.iterdir():
        file.chmod(0o644)


def _hashes(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}
