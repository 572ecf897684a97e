"""Engines and adapters that the tests of this folder share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import torch

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.inference.engine import Engine
from feinschliff.inference.engines import ENGINES, EngineOptions
from tests.contract.inference.adapters import Oracle, make_adapter
from tests.contract.inference.site import Site, open_site
from tests.contract.inference.vllm_place import Vllm, open_vllm, with_adapters

NAMES = ("one", "two", "three")


@pytest.fixture
def tables_of() -> str:
    return "inference"


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters of different rank on the tiny model, by name."""
    folder = tmp_path_factory.mktemp("adapters")
    return {name: make_adapter(tiny_model, folder / name, seed=seed, rank=2 + seed) for seed, name in enumerate(NAMES)}


@pytest.fixture(scope="session")
def oracle(tiny_model: Path, adapters: dict[str, Path]) -> Oracle:
    return Oracle(tiny_model, adapters)


@pytest.fixture(scope="session")
def vllm(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """A vLLM stub that computes with the tiny model, and an engine over it, for all tests that ask."""
    opened = open_vllm(tiny_model, tmp_path_factory.mktemp("vllm"))
    yield opened
    opened.close()


@pytest.fixture(params=list(ENGINES))
def engine(
    request: pytest.FixtureRequest, tiny_model: Path, adapters: dict[str, Path], tmp_path: Path
) -> Iterator[Engine]:
    """Every engine, in fp32, with the three adapters loaded under their names."""
    if request.param == "vllm":
        yield with_adapters(request.getfixturevalue("vllm").engine, adapters)
        return
    base = BaseFiles(f"file:{tiny_model}", "sha256:tiny", "folder", tiny_model)
    options = EngineOptions(cache_dir=tmp_path, rows_max=6, queue_max=100, prefill_tokens_per_step=32)
    loaded = ENGINES[request.param](base, "fp32", options)
    for name, folder in adapters.items():
        loaded.load_adapter(name, folder)
    yield loaded
    loaded.close()


@pytest.fixture
async def site(tmp_path: Path, tiny_model: Path) -> AsyncIterator[Site]:
    """A running room without deployments."""
    async with open_site(tmp_path, tiny_model) as opened:
        yield opened
