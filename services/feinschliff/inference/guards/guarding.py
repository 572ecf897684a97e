"""The guards of one call: the conversation before the model sees it, the answer while it grows, texts alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple

from feinschliff.formats.records import Message
from feinschliff.inference.callers import Caller
from feinschliff.inference.engine import Delta, Done, Finish
from feinschliff.inference.guards.findings import Finding, Findings
from feinschliff.inference.guards.guard import Action, Guard, Model, Stage, Topics
from feinschliff.inference.guards.incoming import (
    OFF_TOPIC,
    Block,
    names_a_topic,
    newest_from_outside,
    read_conversation,
)
from feinschliff.inference.guards.judges import Judges
from feinschliff.inference.guards.reading import Reading, read
from feinschliff.inference.models import ANYONE
from feinschliff.inference.proto import Asked, refuse_unserved
from feinschliff.kit.errors import FieldViolation, Invalid, Unavailable
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.threads import offload

MASKED = "[MASKED]"
RULES_INLINE_MAX = 128
"""Rules that read a piece of an answer on the event loop, some microseconds each; more of them do it in a thread."""


class Checked(NamedTuple):
    """What guards found in a text alone; `text` of a finding is what MASK leaves of it."""

    is_blocked: bool
    findings: list[Finding]


class Guards:
    """Where the guards of calls come from."""

    def __init__(self, judges: Judges, metrics: Metrics) -> None:
        self._judges = judges
        self._metrics = metrics

    def over(
        self,
        guards: Sequence[Guard],
        deployment: str,
        *,
        skip: bool,
        seconds_left: float | None,
        on_hit: Callable[[], None] = lambda: None,
    ) -> Guarded:
        """The guards of one call.

        Args:
            skip: leaves out those that may be.
            on_hit: is told whenever one finds something.
        """
        running = [guard for guard in guards if not (skip and guard.may_be_skipped)]
        findings = Findings(running, deployment, self._metrics, on_hit)
        owner = Caller(deployment.partition("/deployments/")[0])
        return Guarded(running, self._judges, findings, seconds_left, owner)


class Guarded:
    """One call under guards; without any, everything passes untouched."""

    def __init__(
        self,
        guards: Sequence[Guard],
        judges: Judges,
        findings: Findings,
        seconds_left: float | None,
        owner: Caller = ANYONE,
    ) -> None:
        self._owner = owner
        self._guards = guards
        self._judges = judges
        self._findings = findings
        self._seconds_left = seconds_left

    @property
    def findings(self) -> list[Finding]:
        return self._findings.all()

    def refuse_scores(self, asked: bool, path: str) -> None:
        """Tokens in words would show what guards take out of the answer.

        Raises:
            Unserved: FIELD_UNSERVED.
        """
        refuse_unserved([Asked(path, asked and hides(self._guards))])

    async def admit_text(self, text: str, path: str) -> str:
        """A text as the model may see it; the path is its own. Raises as `admit`."""
        (turn,) = await self.admit([Message(role="user", content=text)], path, is_one_text=True)
        return turn.content or ""

    async def admit(self, messages: Sequence[Message], path: str, *, is_one_text: bool = False) -> list[Message]:
        """The conversation as the model may see it.

        Args:
            is_one_text: the path is that of the only turn, not that of the turns.

        Raises:
            Invalid: GUARD_BLOCKED.
            Unavailable: GUARD_UNAVAILABLE.
        """
        guards, judging = self._at(Stage.INPUT)
        if not guards and not judging:
            return list(messages)
        admitted = await offload(read_conversation, guards, messages)
        for guard in guards:
            self._findings.note(guard, Stage.INPUT, admitted.found.get(guard.name, {}))
        if admitted.block:
            raise blocked(admitted.block._replace(turn=None) if is_one_text else admitted.block, path)
        left = admitted.messages
        for guard in judging:
            left = await self._judge_turns(guard, left, path, is_one_text=is_one_text)
        return left

    async def watch(self, events: AsyncGenerator[Delta | Done]) -> AsyncGenerator[Delta | Done]:
        """The answer as the caller may see it: held back while it may become a hit, ended where a guard blocks.

        Raises:
            Unavailable: GUARD_UNAVAILABLE.
        """
        guards, judging = self._at(Stage.OUTPUT)
        reading, held, tokens = Reading(guards), "", 0
        async with aclosing(events):
            if not guards and not judging:
                async for event in events:
                    yield event
                return
            try:
                async for event in events:
                    is_done = isinstance(event, Done)
                    tokens = event.completion_tokens if isinstance(event, Done) else tokens + 1
                    text = await self._fed(reading, event.text, is_whole=is_done)
                    is_blocked = reading.blocked_by is not None
                    if judging:
                        held, text = held + text, ""
                    if isinstance(event, Delta) and not is_blocked:
                        yield replace(event, text=text)
                        continue
                    done = event if isinstance(event, Done) else Done(Finish.STOP, tokens)
                    await events.aclose()  # its place in the batch is free before a model judges
                    if judging:
                        text, is_judged = await self._judge_answer(judging, held)
                        is_blocked |= is_judged
                    self._note(guards, reading)
                    yield replace(done, finish=Finish.FILTERED if is_blocked else done.finish, text=text)
                    return
            finally:
                self._note(guards, reading)

    async def check(self, texts: Sequence[str]) -> list[Checked]:
        """Runs each guard alone over each text, whatever its stage.

        Raises:
            Unavailable: GUARD_UNAVAILABLE.
        """
        findings = [[Finding(guard) for guard in self._guards] for _ in texts]
        for number, guard in enumerate(self._guards):
            of_texts = [of_text[number] for of_text in findings]
            if isinstance(guard.of, Model):
                await self._judge_texts(guard, texts, of_texts)
            else:
                self._findings.note(guard, Stage.TEXT, await offload(_find, guard, texts, of_texts))
        return [
            Checked(any(one.triggered and one.guard.action is Action.BLOCK for one in of_text), of_text)
            for of_text in findings
        ]

    def _at(self, stage: Stage) -> tuple[list[Guard], list[Guard]]:
        """The guards that read by rules, and those that ask a model."""
        here = [guard for guard in self._guards if guard.runs_at(stage)]
        judging = [guard for guard in here if isinstance(guard.of, Model)]
        return [guard for guard in here if guard not in judging], judging

    def _note(self, guards: Sequence[Guard], reading: Reading) -> None:
        """What was found in an answer, also in one that nobody waited for; once."""
        for number, rules in reading.found.items():
            self._findings.note(guards[number], Stage.OUTPUT, rules)
        reading.found = {}

    async def _fed(self, reading: Reading, piece: str, *, is_whole: bool) -> str:
        if reading.rules > RULES_INLINE_MAX:
            return await offload(reading.feed, piece, is_whole=is_whole)
        return reading.feed(piece, is_whole=is_whole)

    async def _judge_turns(
        self, guard: Guard, messages: list[Message], path: str, *, is_one_text: bool
    ) -> list[Message]:
        turns = [turn for turn in newest_from_outside(messages) if messages[turn].content]
        triggering = await self._judged(guard, Stage.INPUT, [messages[turn].content or "" for turn in turns])
        for turn, labels in zip(turns, triggering, strict=True):
            if labels and guard.action is Action.BLOCK:
                raise blocked(Block(guard, labels[0], None if is_one_text else turn), path)
            if labels and guard.action is Action.MASK:
                messages = list(messages)
                messages[turn] = messages[turn].model_copy(update={"content": MASKED})
        return messages

    async def _judge_answer(self, judging: Sequence[Guard], text: str) -> tuple[str, bool]:
        """What model guards leave of an answer, and whether one blocks it."""
        for guard in judging:
            (labels,) = await self._judged(guard, Stage.OUTPUT, [text]) if text else [[]]
            if labels and guard.action is Action.BLOCK:
                return "", True
            if labels and guard.action is Action.MASK:
                text = MASKED
        return text, False

    async def _judge_texts(self, guard: Guard, texts: Sequence[str], findings: Sequence[Finding]) -> None:
        told = [place for place, text in enumerate(texts) if text]
        scores = await self._scores(guard, [texts[place] for place in told])
        for place, of_text in zip(told, scores, strict=True):
            assert isinstance(guard.of, Model)
            findings[place].scores.update(of_text)
            findings[place].triggered = bool(self._findings.judged(guard, Stage.TEXT, of_text, guard.of.threshold))
            if guard.action is Action.MASK:
                findings[place].text = MASKED if findings[place].triggered else texts[place]

    async def _scores(self, guard: Guard, texts: Sequence[str]) -> list[Mapping[str, float]]:
        return await self._judges.scores(guard, texts, caller=self._owner, seconds_left=self._seconds_left)

    async def _judged(self, guard: Guard, stage: Stage, texts: Sequence[str]) -> list[list[str]]:
        """The labels that trigger, for each text; none where a guard that only notes cannot judge."""
        assert isinstance(guard.of, Model)
        if not texts:
            return []
        try:
            scores = await self._scores(guard, texts)
        except Unavailable as refusal:
            self._findings.failed(guard, stage, refusal)
            if guard.action is Action.LOG:
                return [[] for _ in texts]
            raise
        return [self._findings.judged(guard, stage, of_text, guard.of.threshold) for of_text in scores]


def hides(guards: Sequence[Guard]) -> bool:
    """Whether any of them takes something out of answers, or ends them."""
    return any(guard.runs_at(Stage.OUTPUT) and guard.action is not Action.LOG for guard in guards)


def blocked(block: Block, path: str) -> Invalid:
    """The refusal that names the guard and its rule, and nothing of the text."""
    guard, rule, turn = block
    message = f"The guard {guard.name!r} blocks this: its rule {rule!r} found something."
    field = path if turn is None else f"{path}[{turn}]"
    return Invalid(
        "GUARD_BLOCKED",
        message,
        fields=[FieldViolation(field, message, "GUARD_BLOCKED")],
        guard=guard.name,
        kind=guard.of.kind,
        rule=rule,
    )


def _find(guard: Guard, texts: Sequence[str], findings: Sequence[Finding]) -> Counter[str]:
    """Writes what a guard finds in each text into its findings; how often each rule counted in all."""
    reader = guard if guard.action is Action.MASK else guard.model_copy(update={"action": Action.LOG})
    total: Counter[str] = Counter()
    for text, finding in zip(texts, findings, strict=True):
        left, reading = read([reader], text)
        rules = reading.found.get(0, Counter())
        if isinstance(guard.of, Topics) and not names_a_topic(guard.of, [text]):
            rules[OFF_TOPIC] += 1
        finding.triggered = bool(rules)
        finding.scores = dict.fromkeys(rules, 1.0)
        finding.text = left if guard.action is Action.MASK else ""
        total += rules
    return total
