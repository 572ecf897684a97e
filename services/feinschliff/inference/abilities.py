"""What each engine can serve, as far as that is known before anything is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from feinschliff.inference.life import EngineName, Version
from feinschliff.kit.errors import Unserved

_ADAPTATIONS: Mapping[EngineName, Collection[str]] = {"vllm": ("lora",)}
"""An engine that is not here computes all that `versions.ADAPTATIONS` names. vLLM (0.31, `lora/peft_helper.py`) says
itself that it has no DoRA; what takes a second model, or a rounded one, is none of its adapters."""


def refuse_unable(engine: EngineName, version: Version) -> None:
    """
    Raises:
        Unserved: ENGINE_UNSERVED for a version that the engine is known not to compute. What made an import is seen
            when its files are read.
    """
    able = _ADAPTATIONS.get(engine)
    if able is None:
        return
    if version.has_head:
        problem = "it has a head that judges texts"
    elif version.adaptation and version.adaptation not in able:
        problem = f"it was trained as `{version.adaptation}`"
    else:
        return
    raise Unserved(
        "ENGINE_UNSERVED",
        f"The engine {engine} cannot serve {version.name}: {problem}; it serves {', '.join(able)}.",
        advice=["Deploy it on the engine TRANSFORMERS."],
        engine=engine,
        model=version.name,
        adaptation=version.adaptation,
    )


def is_able(engine: EngineName, version: Version) -> bool:
    """See `refuse_unable`."""
    try:
        refuse_unable(engine, version)
    except Unserved:
        return False
    return True


def no_vectors(model: str) -> Unserved:
    message = f"The engine that serves {model} gives no vectors: a vLLM server that generates has none."
    advice = ["Deploy the model on the engine TRANSFORMERS for that."]
    return Unserved("ENGINE_UNSERVED", message, advice=advice, engine="vllm", model=model)
