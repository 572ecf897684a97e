"""A tuned model, made as a client would make it."""

from __future__ import annotations

from typing import NamedTuple

from openai import OpenAI

from tests.contract.gateway.harness import Gateway
from tests.contract.gateway.rows import chat_rows

BASE = "smollm2-135m-instruct"


class Tuned(NamedTuple):
    """Its public name, the job that made it, and the model version behind it."""

    name: str
    job_id: str
    version: str


def make_tuned(client: OpenAI, gateway: Gateway, *, project: str = "default", suffix: str = "bot") -> Tuned:
    data = client.files.create(file=("x.jsonl", chat_rows(12)), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model=BASE, training_file=data, suffix=suffix)
    version = gateway.backends.run_to_success(job.id, project=project)
    name = client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    assert name is not None
    return Tuned(name, job.id, version)
