"""The engine `vllm` over a stub that computes with the tiny model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.inference.engine import Engine
from feinschliff.inference.engines import ENGINES, EngineOptions
from feinschliff.inference.engines.vllm.options import VllmOptions
from feinschliff.inference.engines.vllm.wire import served_name
from tests.support.vllm_brain import Computing
from tests.support.vllm_stub import Brain, Counting, Running, Stub
from tests.support.waiting import eventually

DIGEST = "sha256:tiny"


class Vllm(NamedTuple):
    """An engine and the server behind it; `brain` is the engine that the server computes with, where it does."""

    engine: Engine
    server: Running
    brain: Engine | None = None

    @property
    def stub(self) -> Stub:
        return self.server.stub

    def close(self) -> None:
        self.engine.close()
        self.server.stop()
        if self.brain is not None:
            self.brain.close()


def base_of(tiny_model: Path) -> BaseFiles:
    return BaseFiles(f"file:{tiny_model}", DIGEST, "folder", tiny_model)


def open_vllm(tiny_model: Path, folder: Path) -> Vllm:
    """As many requests at once as the server has places."""
    base = base_of(tiny_model)
    brain = ENGINES["transformers"](base, "fp32", EngineOptions(folder, rows_max=16, queue_max=200))
    return open_counting(tiny_model, folder, Computing(brain), queue_max=1000)._replace(brain=brain)


def open_counting(
    tiny_model: Path, folder: Path, brain: Brain | None = None, *, look_seconds: float = 0.1, **choices: Any
) -> Vllm:
    """Args: choices: of EngineOptions."""
    server = Running(Stub(brain or Counting(), served_name(DIGEST, "fp32"), context=1024))
    vllm = VllmOptions(urls=[server.url], folder=folder / "shared", look_seconds=look_seconds, start_seconds=30)
    options = EngineOptions(folder, **{"rows_max": 6, "queue_max": 100, "vllm": vllm, **choices})
    return Vllm(ENGINES["vllm"](base_of(tiny_model), "fp32", options), server)


def another_copy(opened: Vllm, tiny_model: Path, folder: Path) -> Engine:
    """Over the same server and the same shared folder."""
    vllm = VllmOptions(urls=[opened.server.url], folder=folder / "shared", look_seconds=0.1, start_seconds=30)
    return ENGINES["vllm"](base_of(tiny_model), "fp32", EngineOptions(folder, vllm=vllm))


def with_adapters(engine: Engine, adapters: Mapping[str, Path]) -> Engine:
    """The engine with these and no others, once it is idle."""
    eventually(lambda: engine.capacity().running == 0)
    for name in engine.adapters() - adapters.keys():
        engine.unload_adapter(name)
    for name, folder in adapters.items():
        engine.load_adapter(name, folder)
    return engine
