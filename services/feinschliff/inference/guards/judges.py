"""Guards that ask a model: one with a head for the probabilities of its classes, another for words in its answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing

from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.records import Message
from feinschliff.inference import judging
from feinschliff.inference.answers import Answers
from feinschliff.inference.callers import Caller
from feinschliff.inference.engine import GenerationRequest
from feinschliff.inference.guards.guard import Guard, Model
from feinschliff.inference.models import Granted, Models
from feinschliff.kit.errors import Refusal, Unavailable, WrongState
from feinschliff.kit.threads import offload

VERDICT_TOKENS_MAX = 32
RETRY_SECONDS = 2.0


class Judges:
    """Asks models of this room; their own guards do not run."""

    def __init__(self, models: Models, answers: Answers) -> None:
        self._models = models
        self._answers = answers

    async def scores(
        self, guard: Guard, texts: Sequence[str], *, caller: Caller, seconds_left: float | None
    ) -> list[Mapping[str, float]]:
        """For each text, 0 to 1 for each of the guard's labels.

        Args:
            caller: whose guard it is; a base is answered by its project's deployment.

        Raises:
            Unavailable: GUARD_UNAVAILABLE, whatever the model was refused for.
        """
        of = guard.of
        assert isinstance(of, Model)
        try:
            with (granted := await self._granted(of, caller, seconds_left)).lease as lease:
                if facts := lease.engine.head(lease.adapter_digest):
                    return await self._classified(granted, texts, of.labels, facts)
            return [await self._asked(of, text, caller, seconds_left) for text in texts]
        except Refusal as refusal:
            raise Unavailable(
                "GUARD_UNAVAILABLE",
                f"The guard {guard.name!r} cannot judge: {refusal.message}",
                advice=refusal.advice,
                retry_after_seconds=refusal.retry_after_seconds or RETRY_SECONDS,
                guard=guard.name,
                cause=refusal.reason,
            ) from refusal

    async def _granted(self, of: Model, caller: Caller, seconds_left: float | None) -> Granted:
        return await self._models.grant(of.model, seconds_left=seconds_left, caller=caller, is_within_call=True)

    async def _classified(
        self, granted: Granted, texts: Sequence[str], labels: Sequence[str], facts: HeadFacts
    ) -> list[Mapping[str, float]]:
        if unknown := [label for label in labels if label not in facts.classes]:
            message = f"{granted.deployment.name} has no class {unknown[0]!r}."
            raise WrongState("GUARD_LABEL_UNKNOWN", message, label=unknown[0])
        engine, digest = granted.lease.engine, granted.lease.adapter_digest
        rows = await offload(engine.encode_for_head, list(texts), facts)
        lengths = [len(row) for row in rows]
        judging.refuse_lengths(lengths, granted.context_tokens)
        judged: dict[int, list[float]] = {}
        for places in judging.passes(lengths, virtual_tokens=engine.virtual_tokens(digest)):
            found = await offload(engine.judge, [rows[place] for place in places], digest)
            judged.update(zip(places, found, strict=True))
        self._answers.count_read(sum(lengths))
        number = {name: place for place, name in enumerate(facts.classes)}
        return [{label: judged[place][number[label]] for label in labels} for place in range(len(rows))]

    async def _asked(self, of: Model, text: str, caller: Caller, seconds_left: float | None) -> Mapping[str, float]:
        with (granted := await self._granted(of, caller, seconds_left)).lease as lease:
            prompt_ids = await offload(lease.engine.encode_chat, [Message(role="user", content=text)])
            judging.refuse_lengths([len(prompt_ids)], granted.context_tokens - VERDICT_TOKENS_MAX)
            request = GenerationRequest(
                prompt_ids=prompt_ids,
                adapter_digest=lease.adapter_digest,
                max_tokens=VERDICT_TOKENS_MAX,
                stop_token_ids=granted.version.stop_token_ids if granted.version else (),
            )
            async with aclosing(self._answers.stream(lease, request)) as events:
                verdict = "".join([event.text async for event in events])
        return {label: float(says(verdict, label)) for label in of.labels}


def says(verdict: str, label: str) -> bool:
    """Whether a label stands in a verdict as words of its own: `unsafe` is no `safe`."""
    return re.search(rf"(?<!\w){re.escape(label)}(?!\w)", verdict, re.IGNORECASE) is not None
