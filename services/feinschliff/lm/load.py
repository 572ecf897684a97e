"""Load a base model and its tokenizer the same way for training and for serving."""

from __future__ import annotations

import fcntl
import functools
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from feinschliff.kit.errors import Invalid
from feinschliff.lm.gguf_once import read_once

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from feinschliff.artifacts.bases import BaseFiles
    from feinschliff.lm.quantised import Quantisation

logger = logging.getLogger(__name__)

Precision = Literal["bf16", "fp32"]
Kept = Literal["bf16", "fp32", "int8"]
"""How weights lie in memory: as the numbers computed with, or as bytes that are widened to those."""

PREPARED_LAYOUT = "prepared-v1"
SHARD_BYTES_MAX = "4GB"


@dataclass(frozen=True)
class LoadedBase:
    """A base model in memory, frozen and in evaluation mode.

    `digest` is the digest of the files that the URI names, whatever precision they were loaded in. `precision` says how
    the weights are kept; the numbers computed with are the model's dtype.
    """

    uri: str
    digest: str
    folder: Path
    precision: Kept
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @property
    def device(self) -> torch.device:
        return self.model.device


def load_base(base: BaseFiles, *, precision: Literal["auto"] | Kept = "auto", cache_dir: Path) -> LoadedBase:
    """Weights and tokenizer of a base, on the best device here.

    Args:
        base: local files, as `artifacts.bases.resolve` gives them.
        precision: of the frozen weights; `auto` is bf16 where the hardware multiplies bf16, else fp32. `int8` keeps
            those of linear layers, the head among them, in a byte each; numbers are then those of `auto`.
        cache_dir: where a GGUF is unpacked once, and rounded once; shared by all processes of a machine.

    Raises:
        Invalid: BASE_MODEL_UNREADABLE when the files are no model that transformers knows.
    """
    chosen = resolve_precision("auto" if precision == "int8" else precision)
    folder = prepare(base, cache_dir)
    weights = _rounded(folder) if base.kind == "gguf" and chosen == "bf16" else folder
    return LoadedBase(
        uri=base.uri,
        digest=base.digest,
        folder=folder,
        precision="int8" if precision == "int8" else chosen,
        model=_load_in_bytes(weights, chosen) if precision == "int8" else load_model(weights, precision=chosen),
        tokenizer=load_tokenizer(folder),
    )


def resolve_precision(precision: Literal["auto", "bf16", "fp32"]) -> Precision:
    """bf16 only where it is multiplied in hardware: elsewhere converting costs more than it gains."""
    if precision != "auto":
        return precision
    import torch

    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if any(capabilities.get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16")) else "fp32"


def best_device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare(base: BaseFiles, cache_dir: Path) -> Path:
    """A folder of safetensors and tokenizer files for a base; a GGUF is dequantised once per machine.

    The dequantised weights are kept in fp32, which is exact: every precision that training or serving asks for is
    rounded from these very numbers.
    """
    if base.kind == "folder":
        return base.path
    target = cache_dir / PREPARED_LAYOUT / base.digest.removeprefix("sha256:")
    return _made_once(target, functools.partial(_dequantise, base.path))


def _rounded(folder: Path) -> Path:
    """The weights of an unpacked GGUF in bf16, made once: files of the dtype asked for are mapped, others copied."""

    def save(aside: Path) -> None:
        load_model(folder, precision="bf16").save_pretrained(aside, max_shard_size=SHARD_BYTES_MAX)

    return _made_once(folder.with_name(f"{folder.name}-bf16"), save)


def _made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills; whole or not there, whoever else makes it meanwhile."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _file_lock(target.with_name(target.name + ".lock")):
        if not target.is_dir():
            for leftover in target.parent.glob(f"{target.name}.*/"):
                shutil.rmtree(leftover, ignore_errors=True)
            aside = Path(tempfile.mkdtemp(prefix=target.name + ".", dir=target.parent))
            try:
                make(aside)
                aside.rename(target)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
    return target


def load_model(folder: Path, *, precision: Precision, quantisation: Quantisation | None = None) -> PreTrainedModel:
    """Weights of a folder, frozen, in evaluation mode, on the best device here.

    Args:
        quantisation: of the linear layers but the head; the whole model is never in memory unquantised.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    _no_progress_bars()
    with _readable(folder):
        if quantisation is not None:
            from feinschliff.lm.quantised_load import load_quantised

            return load_quantised(folder, dtype, quantisation, best_device())
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)
    nn.Module.to(model, best_device()).requires_grad_(False).train(False)
    return cast("PreTrainedModel", model)


def _load_in_bytes(folder: Path, precision: Precision) -> PreTrainedModel:
    from feinschliff.lm.quantised import Quantisation, quantise_head

    quantisation = Quantisation("int8")
    model = load_model(folder, precision=precision, quantisation=quantisation)
    quantise_head(model, quantisation)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    _no_progress_bars()
    with _readable(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not getattr(tokenizer, "is_fast", False):
        raise Invalid("BASE_MODEL_UNREADABLE", f"The tokenizer in {folder} has no fast form (tokenizer.json).")
    return cast("PreTrainedTokenizerFast", tokenizer)


def _dequantise(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.info("unpacking a GGUF, once for this machine", extra={"file": gguf.name})
    where = {"gguf_file": gguf.name, "local_files_only": True}
    _no_progress_bars()
    with _readable(gguf), read_once():
        quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    config = type(quantised.config).from_dict(
        {key: value for key, value in quantised.config.to_dict().items() if key != "quantization_config"}
    )
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    plain.load_state_dict(quantised.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = quantised.generation_config
    plain.save_pretrained(folder, max_shard_size=SHARD_BYTES_MAX)
    tokenizer.save_pretrained(folder)


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what transformers raises on files that it cannot read into one refusal."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise Invalid(
            "BASE_MODEL_UNREADABLE",
            f"The base model at {path} cannot be read: {error}",
            advice=["Name a folder with config.json, tokenizer.json and *.safetensors, or a GGUF file."],
            path=str(path),
        ) from error


def _no_progress_bars() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
