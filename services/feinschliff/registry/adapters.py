"""Low-rank adapters in PEFT's file format, read and written without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import orjson
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from feinschliff.kit.errors import WrongState
from feinschliff.registry.arithmetic import Factors, Matrix, Method, combine

SETTINGS_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
A_END, B_END = ".lora_A.weight", ".lora_B.weight"
_DTYPES = ("F32", "F16")


class Form(NamedTuple):
    """What an adapter's settings say of it."""

    name: str
    rank: int
    alpha: float
    use_rslora: bool
    targets: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def scale(self) -> float:
        """What its product is multiplied with: alpha / rank, or alpha / sqrt(rank)."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


class Source(NamedTuple):
    """One adapter to combine: what it is called, where its files are, and how much of it."""

    name: str
    folder: Path
    weight: float


def read_form(name: str, settings: bytes) -> Form:
    """The settings of an adapter that can be combined.

    Raises:
        WrongState: ADAPTER_NOT_COMBINABLE for anything but plain low-rank adapters of one rank.
    """
    said = _object(name, settings)
    targets = said.get("target_modules")
    problems = {
        f"it is of the kind {said.get('peft_type')}": said.get("peft_type") != "LORA",
        "it has learned magnitudes (DoRA)": bool(said.get("use_dora")),
        "its ranks differ by layer": bool(said.get("rank_pattern") or said.get("alpha_pattern")),
        "it holds whole modules beside its matrices": bool(said.get("modules_to_save")),
        "it trains biases": said.get("bias", "none") != "none" or bool(said.get("lora_bias")),
        "it changes only some of the layers that its names match": said.get("layers_to_transform") is not None,
        "its layers are not named one by one": not isinstance(targets, list),
    }
    for problem, is_one in problems.items():
        if is_one:
            raise not_combinable(name, problem)
    rank, alpha = said.get("r"), said.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise not_combinable(name, f"its rank is {rank!r} and its alpha {alpha!r}")
    return Form(name, rank, float(alpha), bool(said.get("use_rslora")), tuple(targets or ()), said)


def refuse_unlike(forms: Sequence[Form], method: Method) -> None:
    """
    Raises:
        WrongState: ADAPTERS_UNLIKE where the method needs one rank and there are more.
    """
    ranks = sorted({form.rank for form in forms})
    if method.keeps_rank and len(ranks) > 1:
        raise WrongState(
            "ADAPTERS_UNLIKE",
            f"The adapters have the ranks {', '.join(map(str, ranks))}; {method.kind} needs them to be equal.",
            advice=["Combine them with `concatenate`, which takes any ranks and is exact."],
            differs="rank",
        )


def write_combined(
    sources: Sequence[Source], method: Method, target: Path, *, tick: Callable[[int, int], None]
) -> None:
    """The combined adapter, in `target`; it loads as any other, with scale 1 on every layer.

    A layer that only some adapters change is combined from those. Of what is read only one layer is in memory at a
    time, beside the result.

    Args:
        tick: told after each layer how many are done, of how many.

    Raises:
        WrongState: ADAPTER_NOT_COMBINABLE, ADAPTERS_UNLIKE.
    """
    forms = [read_form(one.name, (one.folder / SETTINGS_NAME).read_bytes()) for one in sources]
    refuse_unlike(forms, method)
    files = [_Weights(form, one.folder / WEIGHTS_NAME) for form, one in zip(forms, sources, strict=True)]
    layers = sorted({layer for file in files for layer in file.layers})
    tensors: dict[str, Matrix] = {}
    for done, layer in enumerate(layers, start=1):
        there = [place for place, file in enumerate(files) if layer in file.layers]
        parts = [files[place].factors(layer) for place in there]
        _refuse_other_shapes(layer, parts)
        pair = combine(layer, parts, [sources[place].weight for place in there], method)
        tensors[layer + A_END], tensors[layer + B_END] = _padded(pair.a, pair.b, _rank_of(forms, method))
        tick(done, len(layers))
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target / WEIGHTS_NAME, metadata={"format": "pt"})
    (target / SETTINGS_NAME).write_bytes(_settings(forms, method))


def not_combinable(name: str, why: str) -> WrongState:
    return WrongState(
        "ADAPTER_NOT_COMBINABLE",
        f"{name} cannot be combined: {why}. Only plain low-rank adapters can.",
        model_version=name,
        why=why,
    )


def _object(name: str, settings: bytes) -> dict[str, Any]:
    try:
        said = orjson.loads(settings)
    except orjson.JSONDecodeError as error:
        raise not_combinable(name, f"its settings are no JSON ({error})") from error
    if not isinstance(said, dict):
        raise not_combinable(name, "its settings are no JSON object")
    return said


class _Weights:
    """The matrices of one adapter, read when they are asked for."""

    def __init__(self, form: Form, path: Path) -> None:
        self._form = form
        try:
            self._file = cast(Any, safe_open(path, framework="numpy"))
        except (SafetensorError, OSError) as error:
            raise not_combinable(form.name, f"its weights cannot be read ({error})") from error
        names = set(self._file.keys())
        self.layers = frozenset(name.removesuffix(A_END) for name in names if name.endswith(A_END))
        wanted = {layer + end for layer in self.layers for end in (A_END, B_END)}
        strange = sorted(names ^ wanted)
        if strange or not names:
            raise not_combinable(form.name, f"its file holds other tensors, such as {', '.join(strange[:3]) or 'none'}")

    def factors(self, layer: str) -> Factors:
        return Factors(self._read(layer + A_END), self._read(layer + B_END), self._form.scale)

    def _read(self, name: str) -> Matrix:
        kind = self._file.get_slice(name).get_dtype()
        if kind not in _DTYPES:
            raise not_combinable(self._form.name, f"its numbers are {kind}; {' and '.join(_DTYPES)} are read")
        matrix: Matrix = self._file.get_tensor(name).astype(np.float32)
        return matrix


def _refuse_other_shapes(layer: str, parts: Sequence[Factors]) -> None:
    shapes = {(part.a.shape[1], part.b.shape[0]) for part in parts}
    if len(shapes) > 1 or any(part.a.shape[0] != part.b.shape[1] for part in parts):
        raise WrongState("ADAPTERS_UNLIKE", f"The shapes at {layer} differ: {sorted(shapes)}.", differs="shape")


def _rank_of(forms: Sequence[Form], method: Method) -> int:
    return forms[0].rank if method.keeps_rank else sum(form.rank for form in forms)


def _padded(a: Matrix, b: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """All layers have one rank; where some adapters leave a layer alone, zeros fill up, which change nothing."""
    missing = rank - a.shape[0]
    if not missing:
        return a, b
    return np.pad(a, ((0, missing), (0, 0))), np.pad(b, ((0, 0), (0, missing)))


def _settings(forms: Sequence[Form], method: Method) -> bytes:
    rank = _rank_of(forms, method)
    settings = {
        **forms[0].settings,
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "target_modules": sorted({target for form in forms for target in form.targets}),
        "rank_pattern": {},
        "alpha_pattern": {},
        "lora_dropout": max(float(form.settings.get("lora_dropout", 0)) for form in forms),
        "init_lora_weights": True,
    }
    return orjson.dumps(settings, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
