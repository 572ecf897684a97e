"""Files and jobs, made as a client would make them."""

from __future__ import annotations

from typing import Any

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.contract.gateway.rows import chat_rows
from tests.contract.gateway.tuned import BASE


def file(client: OpenAI, rows: int = 12, word: str = "hello") -> str:
    return client.files.create(file=("x.jsonl", chat_rows(rows, word=word)), purpose="fine-tune").id


def job(client: OpenAI, **wanted: Any) -> FineTuningJob:
    return client.fine_tuning.jobs.create(**({"model": BASE, "training_file": file(client)} | wanted))
