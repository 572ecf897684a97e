"""Rows as tokens, by what is learned from them; without torch, so that who plans a job counts what it trains on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.objectives import CLASSES_MAX, Classify, Objective, Pretrain, Regress, Sft
from feinschliff.formats.records import Message, Record
from feinschliff.kit.errors import Invalid
from feinschliff.lm.chat import Chat, Encoded

SYSTEM_ROLES = ("system", "developer")
LABEL_CHARACTERS_SHOWN = 60


@dataclass(frozen=True)
class RowEncoder:
    """Turns rows into tokens with their labels marked.

    facts: what the head tells, for `classify` and `regress`; see `survey`.
    """

    chat: Chat
    objective: Objective
    facts: HeadFacts | None = None

    @property
    def joins(self) -> bool:
        """Whether rows run into one another, so that none is too long."""
        return isinstance(self.objective, Pretrain)

    def encode(self, records: Sequence[Record]) -> list[Encoded]:
        """One for each row; one without a marked token has nothing to learn from.

        Raises:
            Invalid: a reason of `Chat.encode`, ROW_KIND_UNFIT, ROW_WITHOUT_TARGET, LABEL_UNKNOWN.
        """
        match self.objective:
            case Sft():
                for record in records:
                    _refuse_text(record)
                return self.chat.encode(records, loss_on=self.objective.loss_on)
            case Pretrain():
                return [_all_labels(ids) for ids in self._whole(records)]
            case Classify() | Regress():
                return [self._judged(record) for record in records]

    def tokens(self, row: Encoded) -> int:
        """What counts towards the longest row that is allowed: all but what stands for a head's answer."""
        return len(row.token_ids) - (self.facts is not None)

    def cut(self, row: Encoded, tokens_max: int) -> Encoded:
        """The first tokens of a row; a head then judges the text's beginning, any other label beyond is lost."""
        if self.facts is None:
            return Encoded(row.token_ids[:tokens_max], row.is_answer[:tokens_max], row.targets)
        return _before_head(row.token_ids[:tokens_max], row.targets)

    def joined(self, rows: Iterable[Encoded], tokens_max: int) -> Iterator[Encoded]:
        """Texts end to end, cut into sequences of `sequence_tokens`, or else `tokens_max`; the last may be shorter.

        A sequence begins with the last token of the one before, so that every token but the very first is a label
        exactly once. Attention reaches over the end of a text, as usual in pre-training (Brown et al. 2020).
        """
        assert isinstance(self.objective, Pretrain)
        length = self.objective.sequence_tokens or tokens_max
        waiting: list[int] = []
        for row in rows:
            waiting += row.token_ids
            start = 0
            while len(waiting) - start >= length:
                yield _all_labels(waiting[start : start + length])
                start += length - 1
            del waiting[:start]
        if len(waiting) > 1:
            yield _all_labels(waiting)

    def text_ids(self, text: str) -> list[int]:
        """A text as a head reads it, in training and in serving alike.

        Raises:
            Invalid: CHAT_TEMPLATE_MISSING, CHAT_TEMPLATE_REFUSES.
        """
        if self.facts is None or not self.facts.as_chat:
            before, after = self._around
            return [*before, *self.chat.plain_ids([text])[0], *after]
        turns = [Message(role="system", content=self.facts.system)] if self.facts.system else []
        return self.chat.prompt_ids([*turns, Message(role="user", content=text)])

    def _judged(self, record: Record) -> Encoded:
        assert self.facts is not None
        if isinstance(self.objective, Regress):
            targets: tuple[float, ...] = (number_of(record),)
        else:
            labels = labels_of(record, multi_label=self.facts.multi_label)
            targets = tuple(float(self._class_number(label)) for label in labels)
        if record.text is not None:
            return _before_head(self.text_ids(record.text), targets)
        return _before_head(self.chat.prompt_ids(record.messages[: _answer_at(record)], record.tools), targets)

    def _class_number(self, label: str) -> int:
        number = self._numbers.get(label)
        if number is None:
            known = len(self._numbers)
            raise Invalid(
                "LABEL_UNKNOWN",
                f"The class {_shown(label)} is none of the {known} that the head tells apart.",
                advice=["Correct the class, name it in `labels`, or give it rows to train on."],
                label=_shown(label),
            )
        return number

    @cached_property
    def _numbers(self) -> dict[str, int]:
        assert self.facts is not None
        return {label: number for number, label in enumerate(self.facts.classes)}

    def _whole(self, records: Sequence[Record]) -> Iterator[list[int]]:
        """Every row to its end, with the token that ends a text."""
        end = self.chat.tokenizer.eos_token_id
        texts = iter(self.chat.plain_ids([record.text for record in records if record.text is not None]))
        talks = iter(self.chat.whole_ids([record for record in records if record.text is None]))
        for record in records:
            ids = [*self._around[0], *next(texts)] if record.text is not None else next(talks)
            yield ids if end is None or ids[-1:] == [end] else [*ids, end]

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer itself puts before and behind a text, such as the token that begins one."""
        backend = self.chat.tokenizer.backend_tokenizer
        inner, whole = (backend.encode("a", add_special_tokens=add).ids for add in (False, True))
        at = next((k for k in range(len(whole)) if whole[k : k + len(inner)] == inner), 0)
        return whole[:at], whole[at + len(inner) :]


def survey(records: Iterable[Record], objective: Objective, before: HeadFacts | None = None) -> HeadFacts | None:
    """What a head has to tell, from the training rows; None where the objective has no head.

    Rows that are unfit are passed over here: `RowEncoder.encode` refuses them by line.

    Args:
        before: facts of the head that is trained on; its classes, unit and way to read a text stay.

    Raises:
        Invalid: CLASSES_TOO_FEW, CLASSES_TOO_MANY.
    """
    match objective:
        case Classify():
            return _survey_classes(records, objective, before)
        case Regress():
            return _survey_numbers(records, objective, before)
    return None


def labels_of(record: Record, *, multi_label: bool) -> list[str]:
    """The classes of a row: its own, or the last answer of a conversation, one class a line where several may be right.

    Raises:
        Invalid: ROW_WITHOUT_TARGET.
    """
    if record.messages:
        answer = _answer(record)
        labels = [line.strip() for line in answer.splitlines() if line.strip()] if multi_label else [answer]
    else:
        named = [record.label] if record.label is not None else record.labels
        if named is None:
            raise _without_target("The row names no class.")
        labels = named
    if not multi_label and len(labels) != 1:
        raise _without_target(f"The row names {len(labels)} classes where one is right.")
    return sorted(set(labels))


def number_of(record: Record) -> float:
    """The number of a row: its own, or the last answer of a conversation.

    Raises:
        Invalid: ROW_WITHOUT_TARGET.
    """
    if record.value is not None:
        return record.value
    if not record.messages:
        raise _without_target("The row has no number.")
    try:
        number = float(_answer(record))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _without_target("The last answer is no number.")
    return number


def _survey_classes(records: Iterable[Record], objective: Classify, before: HeadFacts | None) -> HeadFacts:
    counts: Counter[str] = Counter()
    reading = _Reading()
    for record in records:
        reading.add(record)
        try:
            counts.update(labels_of(record, multi_label=objective.multi_label))
        except Invalid:
            continue
    classes = list(objective.labels) or (before.classes if before else sorted(counts))
    if len(classes) < 2:
        raise Invalid(
            "CLASSES_TOO_FEW",
            f"The training rows name {len(classes)} classes; a head tells at least two apart.",
            advice=["Name the classes in `labels`, or add rows of other classes."],
            classes=len(classes),
        )
    if len(classes) > CLASSES_MAX:
        raise Invalid(
            "CLASSES_TOO_MANY",
            f"The training rows name {len(classes)} classes; a head tells at most {CLASSES_MAX} apart.",
            advice=["Check that the labels are classes, not free text; else train with the objective sft."],
            classes=len(classes),
        )
    return HeadFacts(
        kind="classify",
        classes=classes,
        multi_label=objective.multi_label,
        rows=reading.rows,
        rows_by_class=[counts[label] for label in classes],
        as_chat=before.as_chat if before else reading.as_chat,
        system=before.system if before else reading.system,
    )


def _survey_numbers(records: Iterable[Record], objective: Regress, before: HeadFacts | None) -> HeadFacts:
    numbers, reading = [], _Reading()
    for record in records:
        reading.add(record)
        try:
            numbers.append(number_of(record))
        except Invalid:
            continue
    mean, deviation = 0.0, 1.0
    if before:
        mean, deviation = before.mean, before.deviation
    elif objective.standardise and numbers:
        mean = math.fsum(numbers) / len(numbers)
        deviation = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers)) or 1.0
    return HeadFacts(
        kind="regress",
        rows=reading.rows,
        mean=mean,
        deviation=deviation,
        as_chat=before.as_chat if before else reading.as_chat,
        system=before.system if before else reading.system,
    )


class _Reading:
    """How the texts of all rows are brought before a head: as conversations where any row is one."""

    def __init__(self) -> None:
        self.rows = 0
        self.as_chat = False
        self._systems: set[str] = set()

    def add(self, record: Record) -> None:
        self.rows += 1
        if not record.messages:
            return
        self.as_chat = True
        first = record.messages[0]
        if len(self._systems) < 2:
            self._systems.add((first.content or "") if first.role in SYSTEM_ROLES else "")

    @property
    def system(self) -> str:
        """The same in all conversations; else none."""
        return next(iter(self._systems)) if len(self._systems) == 1 else ""


def _answer_at(record: Record) -> int:
    """Where the last answer stands.

    Raises:
        Invalid: ROW_WITHOUT_TARGET.
    """
    turns = [place for place, message in enumerate(record.messages) if message.role == "assistant"]
    if not turns or record.messages[turns[-1]].weight == 0 or not (record.messages[turns[-1]].content or "").strip():
        raise _without_target("The conversation has no last answer with text.")
    return turns[-1]


def _answer(record: Record) -> str:
    return (record.messages[_answer_at(record)].content or "").strip()


def _all_labels(token_ids: list[int]) -> Encoded:
    """Every token but the first is learned."""
    return Encoded(token_ids, [False] + [True] * (len(token_ids) - 1) if token_ids else [])


def _before_head(token_ids: list[int], targets: tuple[float, ...]) -> Encoded:
    """A text and, in the place of the token after it, what a head is to say."""
    return Encoded([*token_ids, 0], [False] * len(token_ids) + [True], targets)


def _refuse_text(record: Record) -> None:
    if record.text is not None:
        raise Invalid(
            "ROW_KIND_UNFIT",
            "The row is a text without an answer; answers are learned from conversations.",
            advice=["Train on texts with the objective pretrain, or on their classes with classify."],
        )


def _without_target(message: str) -> Invalid:
    return Invalid("ROW_WITHOUT_TARGET", message, advice=["Give the row what is to be learned of it, or remove it."])


def _shown(label: str) -> str:
    return label if len(label) <= LABEL_CHARACTERS_SHOWN else label[:LABEL_CHARACTERS_SHOWN] + "..."
