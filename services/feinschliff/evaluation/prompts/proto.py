"""Stored prompts between the API's messages and our own words."""

from __future__ import annotations

from feinschliff.evaluation.drafts import Once
from feinschliff.evaluation.messages import from_sampling, from_tool, to_sampling, to_tool
from feinschliff.evaluation.prompts.book import PromptDraft
from feinschliff.evaluation.prompts.store import StoredPrompt
from feinschliff.evaluation.proto import from_turns, to_time, to_turns
from feinschliff.kit.idempotency import digest_of
from feinschliff.v1 import evaluation_pb2 as pb


def from_create_prompt(request: pb.CreatePromptRequest) -> tuple[PromptDraft, Once]:
    wanted = request.prompt
    draft = PromptDraft(
        parent=request.parent,
        prompt_id=request.prompt_id,
        messages=from_turns(wanted.messages),
        tools=[from_tool(tool) for tool in wanted.tools],
        sampling=from_sampling(wanted.sampling),
        description=wanted.description,
        labels=dict(wanted.labels),
        annotations=dict(wanted.annotations),
    )
    return draft, Once(request.request_id, digest_of(request))


def to_prompt_version(prompt: StoredPrompt) -> pb.Prompt:
    return pb.Prompt(
        name=prompt.name,
        messages=to_turns(prompt.messages),
        tools=map(to_tool, prompt.tools),
        sampling=to_sampling(prompt.sampling),
        description=prompt.description,
        sha256=prompt.sha256,
        labels=prompt.labels,
        annotations=prompt.annotations,
        create_time=to_time(prompt.created),
    )
