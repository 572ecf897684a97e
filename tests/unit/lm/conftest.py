"""The tiny chat model, loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from feinschliff.lm.chat import Chat
from feinschliff.lm.load import load_model, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(tiny_model)


@pytest.fixture
def chat(tokenizer: PreTrainedTokenizerFast) -> Chat:
    return Chat.of(tokenizer)


@pytest.fixture
def model(tiny_model: Path) -> PreTrainedModel:
    return load_model(tiny_model, precision="fp32")
