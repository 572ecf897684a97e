"""From a chat as it was asked for to one that may begin: everything that can be refused is refused here."""

from __future__ import annotations

from feinschliff.inference import conversation as words
from feinschliff.inference import judging
from feinschliff.inference.callers import caller_of_chat
from feinschliff.inference.chatting import Prepared
from feinschliff.inference.dialects import dialect_of
from feinschliff.inference.guards.guarding import Guards
from feinschliff.inference.models import Models
from feinschliff.inference.recorder import refuse_foreign
from feinschliff.inference.requests import generation, refuse, sampling_violations, unknown_biases
from feinschliff.inference.several import drawn_apart
from feinschliff.inference.tools import tool_form, tool_violations
from feinschliff.inference.wishes import read_sampling, read_tools, read_wishes, wish_violations
from feinschliff.kit.threads import offload
from feinschliff.v1 import inference_pb2 as pb


async def prepare(
    models: Models, guards: Guards, request: pb.ChatRequest, path: str, *, seconds_left: float | None
) -> Prepared:
    """
    Args:
        path: of the chat in the request, with a dot behind it; empty where it is the request.

    Raises:
        Refusal: whatever is wrong with the chat, or with the model at present.
    """
    sampling, box = read_sampling(request.sampling), read_tools(request)
    wrong = [*sampling_violations(sampling, f"{path}sampling"), *wish_violations(request.sampling, f"{path}sampling")]
    refuse([*wrong, *tool_violations(box, path)])
    wishes = read_wishes(request.sampling, f"{path}sampling")
    asked = words.to_messages(request.messages, f"{path}messages")
    caller = caller_of_chat(request, path, asked)
    granted = await models.grant(request.model, seconds_left=seconds_left, caller=caller)
    try:
        refuse_foreign(request, f"projects/{granted.deployment.project}", path)
        engine = granted.lease.engine
        if facts := engine.head(granted.lease.adapter_digest):
            raise judging.not_a_chat_model(request.model, facts)
        refuse(unknown_biases(sampling, engine.facts.vocabulary_tokens, f"{path}sampling"))
        dialect = dialect_of(engine.facts.chat_template) if box.is_used else None
        form = tool_form(box, dialect, wishes.form, path) if dialect else wishes.form
        grammar = await offload(engine.grammar, form) if form else None
        deployment, skip = granted.deployment, request.skip_guards
        guarded = guards.over(
            deployment.spec.guards,
            deployment.name,
            skip=skip,
            seconds_left=seconds_left,
            on_hit=granted.lease.call.guard_hit,
        )
        guarded.refuse_scores(wishes.logprobs is not None, f"{path}sampling.logprobs")
        messages = await guarded.admit(asked, f"{path}messages")
        prompt_ids = await offload(engine.encode_chat, messages, box.for_template)
        wanted = generation(
            prompt_ids,
            sampling,
            deployment.spec.defaults,
            granted.version,
            context_tokens=granted.context_tokens,
            answer_tokens=granted.answer_tokens,
            logprobs=wishes.logprobs,
            grammar=grammar,
            shown_tokens=dialect.markers if dialect else (),
        )
        masked = None if messages == asked else messages
        return Prepared(granted, guarded, drawn_apart(wanted, wishes.answers), box, dialect, masked)
    except BaseException:
        granted.lease.give_back()
        raise
