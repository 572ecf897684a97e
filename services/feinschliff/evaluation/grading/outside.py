"""What graders ask, answered by inference, by judges outside, and by web servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from feinschliff.evaluation.clients import Answer, Models
from feinschliff.evaluation.grading.headers import SecretHeaders
from feinschliff.evaluation.grading.measures import Measures
from feinschliff.evaluation.grading.outside_judges import OutsideJudge, Unreadable, from_answer, to_post
from feinschliff.evaluation.grading.posting import Post, Poster, PostFailed, Reach
from feinschliff.evaluation.grading.sandboxed import Sandboxed
from feinschliff.evaluation.work.failures import Fate, fate_of, pause_seconds
from feinschliff.formats.records import Message
from feinschliff.graders.grade import Fault
from feinschliff.graders.outside import Call, CannotAsk, Likelihood, Question, Reply
from feinschliff.graders.together import together
from feinschliff.kit.errors import Refusal, Unavailable
from feinschliff.sandbox import call as sandbox

T = TypeVar("T")
POSTS_MAX = 3
PAUSE_SECONDS = 0.5
PACES_KEPT = 1000
_SAMPLING = {"max_completions_tokens": "max_tokens"}
_EFFORT = "REASONING_EFFORT_"


class Waiting(Protocol):
    """How long a failing peer is waited for; `failed` raises once that is over."""

    def succeeded(self) -> None: ...

    def failed(self, refusal: Refusal) -> None: ...


@dataclass(frozen=True)
class Installation:
    """What this installation offers to graders."""

    embedding_model: str
    judges: Mapping[str, OutsideJudge]
    headers: Mapping[str, SecretHeaders]
    reach: Reach
    judge_reach: Reach
    attempts: int
    judge_timeout_seconds: float

    def headers_for(self, name: str, url: str) -> Mapping[str, str] | None:
        """What goes along to `url` under the name; None: there is nothing of this name for it. No name, no headers."""
        if not name:
            return {}
        named = self.headers.get(name)
        if named is None or not named.are_for(url):
            return None
        return {header: value.get_secret_value() for header, value in named.headers.items()}

    def reach_of(self, url: str) -> Reach:
        """Plain http goes to private addresses alone."""
        return self.reach if urlsplit(url).scheme == "https" else self.reach._replace(public=False)


@dataclass
class Paces:
    """When a project may ask a web server next, so that it does not ask more often than its grader says."""

    _next: dict[tuple[str, str], float] = field(default_factory=dict)
    _kept: int = PACES_KEPT

    def wait_seconds(self, project: str, url: str, requests_per_second: float, now: float) -> float:
        if len(self._next) > self._kept:
            self._next = {key: at for key, at in self._next.items() if at > now}
            self._kept = max(PACES_KEPT, 2 * len(self._next))
        at = max(self._next.get((project, url), now), now)
        self._next[project, url] = at + 1 / requests_per_second
        return at - now


@dataclass(frozen=True)
class RoomOutside:
    """The `Outside` of graders in this room.

    Models are asked on behalf of `project`, a resource name. `model` is the one that a run measures, empty outside of
    runs. With `waiting` an outage of inference is waited out, and ends the run where it lasts; without, a few tries
    must do.
    """

    installation: Installation
    models: Models
    measures: Measures
    poster: Poster
    paces: Paces
    sandboxed: Sandboxed
    project: str = ""
    model: str = ""
    waiting: Waiting | None = None

    async def judge(self, question: Question) -> Reply:
        judge = self.installation.judges.get(question.model)
        if judge is not None:
            post = to_post(judge, question, self.installation.judge_timeout_seconds)
            posted = await self._posted(post, self.installation.judge_reach, Fault.JUDGE)
            try:
                return from_answer(judge, posted)
            except Unreadable as error:
                raise CannotAsk(
                    Fault.JUDGE, f"{question.model} did not answer with a chat completion: {error}"
                ) from None
        messages = [Message.model_validate(turn) for turn in question.turns]

        async def ask() -> Answer:
            return await self.models.ask(self.project, question.model, messages, sampling_of(question))

        answer = await self._patiently(ask, Fault.JUDGE, f"the judge {question.model}")
        return Reply(
            text=answer.message.content or "",
            finish_reason=answer.finish_reason,
            identity=answer.identity._asdict(),
            prompt_tokens=answer.usage.prompt_tokens,
            completion_tokens=answer.usage.completion_tokens,
        )

    async def embed(self, model: str, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        named = model or self.installation.embedding_model
        if not named:
            raise CannotAsk(Fault.MODEL, "no embedding model is named, and the installation has no default one")
        vectors = await self._patiently(partial(self.measures.embed, self.project, named, texts), Fault.MODEL, named)
        if len(vectors) != len(texts):
            raise CannotAsk(Fault.MODEL, f"{named} gave {len(vectors)} vectors for {len(texts)} texts")
        return vectors

    async def likelihoods(self, model: str, prompt: str, texts: Sequence[str]) -> Sequence[Likelihood]:
        named = model or self.model
        if not named:
            raise CannotAsk(Fault.MODEL, "the grader names no model, and none is being measured")
        asked = [partial(self.measures.likelihood, self.project, named, prompt, text) for text in texts]
        return await together(self._patiently(ask, Fault.MODEL, named) for ask in asked)

    async def post(self, call: Call) -> object:
        headers = self.installation.headers_for(call.headers_secret, call.url)
        if headers is None:
            raise CannotAsk(Fault.ENDPOINT, f"the installation has no headers named {call.headers_secret} for this URL")
        pause = self.paces.wait_seconds(self.project, call.url, call.requests_per_second, time.monotonic())
        await asyncio.sleep(pause)
        post = Post(call.url, headers, call.body, call.timeout_seconds)
        return await self._posted(post, self.installation.reach_of(call.url), Fault.ENDPOINT)

    async def run(self, call: sandbox.Call) -> sandbox.Outcome:
        """As the sandbox says; in a run, what the sandbox itself failed at is tried again for as long as it waits."""
        attempt = 0
        while (outcome := await self.sandboxed.run(call)).again and self.waiting is not None:
            await self._wait(self.waiting, outcome.why, attempt)
            attempt += 1
        if self.waiting is not None and outcome.fault is not sandbox.Fault.SANDBOX:
            self.waiting.succeeded()
        return outcome

    async def _posted(self, post: Post, reach: Reach, fault: Fault) -> object:
        """What the server answers; tried a few times, and in a run waited for while it is not there.

        Raises:
            CannotAsk: it gives no usable answer.
            Halt: `waiting` is at its end.
        """
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            try:
                answer = await loop.run_in_executor(self.poster.pool, self.poster.send, post, reach)
            except PostFailed as failure:
                attempt += 1
                if failure.is_outage and self.waiting is not None:
                    await self._wait(self.waiting, str(failure), attempt - 1)
                elif failure.again and attempt < POSTS_MAX:
                    await asyncio.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
                else:
                    raise CannotAsk(fault, str(failure)) from None
            else:
                if self.waiting is not None:
                    self.waiting.succeeded()
                return answer

    async def _wait(self, waiting: Waiting, why: str, attempt: int) -> None:
        refusal = Unavailable("GRADER_UNAVAILABLE", f"What a grader asks is out of order: {why}.", why=why)
        waiting.failed(refusal)
        await asyncio.sleep(pause_seconds(refusal, attempt))

    async def _patiently(self, ask: Callable[[], Awaitable[T]], fault: Fault, who: str) -> T:
        """What inference answers; tried again as `failures` says.

        Raises:
            CannotAsk: it refuses for good, or too often.
            Halt: `waiting` is at its end.
        """
        attempt = 0
        while True:
            try:
                answer = await ask()
            except Refusal as refusal:
                fate = fate_of(refusal)
                attempt += 1
                is_waited = fate is Fate.WAIT and self.waiting is not None
                if fate is Fate.GIVE_UP or (not is_waited and attempt >= self.installation.attempts):
                    raise CannotAsk(fault, f"{who} cannot be asked: {refusal.reason}: {refusal.message}") from None
                if is_waited and self.waiting is not None:
                    self.waiting.failed(refusal)
                await asyncio.sleep(pause_seconds(refusal, attempt - 1))
            else:
                if self.waiting is not None:
                    self.waiting.succeeded()
                return answer


def sampling_of(question: Question) -> Mapping[str, object]:
    """A judge's sampling with the API's names, and the form of its answer."""
    sampling: dict[str, object] = {_SAMPLING.get(key, key): value for key, value in question.sampling.items()}
    if "reasoning_effort" in sampling:
        sampling["reasoning_effort"] = f"{_EFFORT}{sampling['reasoning_effort']}".upper()
    form = {"name": question.schema_name, "schema": dict(question.schema), "strict": True}
    return {**sampling, "response_format": {"json_schema": form}}
