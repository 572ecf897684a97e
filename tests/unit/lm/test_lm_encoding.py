"""Rows become the tokens that their objective learns from, and a head what the training rows say."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing

from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.objectives import Classify, Pretrain, Regress, Sft
from feinschliff.formats.records import Message, Record
from feinschliff.kit.errors import Invalid
from feinschliff.lm.chat import Chat, Encoded
from feinschliff.lm.encoding import RowEncoder, survey
from feinschliff.lm.load import load_tokenizer

EOS = 2


def talk(*turns: str, weight: int | None = None, system: str = "") -> Record:
    roles = ("user", "assistant")
    messages = [
        Message(role=roles[k % 2], content=text, weight=weight if k % 2 else None)  # type: ignore[arg-type]
        for k, text in enumerate(turns)
    ]
    return Record(messages=[*([Message(role="system", content=system)] if system else []), *messages])


def text_of(chat: Chat, row: Encoded) -> str:
    return str(chat.tokenizer.decode(row.token_ids))


def test_every_token_of_a_text_is_learned_and_its_end_told(chat: Chat) -> None:
    (row,) = RowEncoder(chat, Pretrain()).encode([Record(text="hello <|im_end|> you")])

    assert text_of(chat, row) == "hello <|im_end|> you<|im_end|>"
    assert row.token_ids.count(EOS) == 1, "what a text says is text"
    assert row.is_answer == [False] + [True] * (len(row.token_ids) - 1)


def test_a_conversation_is_taken_as_its_rendered_text(chat: Chat) -> None:
    (row,) = RowEncoder(chat, Pretrain()).encode([talk("hello", "refund")])

    whole = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nrefund<|im_end|>\n"
    assert text_of(chat, row) == whole + "<|im_end|>"


def test_sequences_give_every_token_but_the_first_as_a_label_once(chat: Chat) -> None:
    encoder = RowEncoder(chat, Pretrain(sequence_tokens=16))
    rows = encoder.encode([Record(text="hello please " * n) for n in (1, 9, 2, 30)])
    stream = [token for row in rows for token in row.token_ids]

    sequences = list(encoder.joined(rows, 999))

    assert {len(one.token_ids) for one in sequences[:-1]} == {16}
    labels = [token for one in sequences for token, said in zip(one.token_ids, one.is_answer, strict=True) if said]
    assert labels == stream[1:]
    assert sequences[0].token_ids + [t for one in sequences[1:] for t in one.token_ids[1:]] == stream


def test_what_the_tokenizer_puts_around_a_text_is_there_once(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    chat = Chat.of(tokenizer)
    plain = RowEncoder(chat, Pretrain()).encode([Record(text="hello")])[0].token_ids
    judged = RowEncoder(chat, Regress(), HeadFacts(kind="regress")).text_ids("hello")

    assert plain == [*tokenizer("hello").input_ids, EOS]
    assert judged == tokenizer("hello").input_ids


def test_a_base_without_template_takes_texts_but_no_conversation(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = None
    with pytest.raises(Invalid, match="no chat template"):
        Chat.of(tokenizer)
    chat = Chat.of(tokenizer, template_needed=False)

    assert chat.stop_token_ids == (EOS,)
    assert RowEncoder(chat, Pretrain()).encode([Record(text="hello")])
    with pytest.raises(Invalid) as refused:
        RowEncoder(chat, Pretrain()).encode([talk("a", "b")])
    assert refused.value.reason == "CHAT_TEMPLATE_MISSING"


def test_texts_have_no_answers_to_learn(chat: Chat) -> None:
    with pytest.raises(Invalid) as refused:
        RowEncoder(chat, Sft()).encode([Record(text="hello")])
    assert refused.value.reason == "ROW_KIND_UNFIT"


def test_classes_are_those_of_the_training_rows_in_order() -> None:
    rows = [Record(text="a", label="y"), Record(text="b", labels=["x"]), talk("c", " y "), Record(text="d")]
    facts = survey(rows, Classify())

    assert facts is not None
    assert (facts.classes, facts.rows_by_class, facts.rows) == (["x", "y"], [1, 2], 4)
    assert facts.as_chat


def test_classes_that_are_named_keep_their_order() -> None:
    facts = survey([Record(text="a", label="y")], Classify(labels=["z", "y"]))
    assert facts is not None
    assert (facts.classes, facts.rows_by_class) == (["z", "y"], [0, 1])


def test_several_classes_stand_one_a_line_in_an_answer(chat: Chat) -> None:
    rows = [talk("a", "x\n y \n"), Record(text="b", labels=[]), Record(text="c", label="x")]
    objective = Classify(multi_label=True)
    encoder = RowEncoder(chat, objective, survey(rows, objective))

    assert [row.targets for row in encoder.encode(rows)] == [(0.0, 1.0), (), (0.0,)]


@pytest.mark.parametrize(
    ("rows", "reason"), [([Record(text="a", label="x")] * 3, "CLASSES_TOO_FEW"), ([], "CLASSES_TOO_FEW")]
)
def test_a_single_class_needs_no_head(rows: list[Record], reason: str) -> None:
    with pytest.raises(Invalid) as refused:
        survey(rows, Classify())
    assert refused.value.reason == reason


def test_more_classes_than_a_head_can_have_are_refused() -> None:
    with pytest.raises(Invalid) as refused:
        survey((Record(text="a", label=str(k)) for k in range(10_001)), Classify())
    assert refused.value.reason == "CLASSES_TOO_MANY"


@pytest.mark.parametrize(
    "row",
    [
        Record(text="a"),
        Record(text="a", labels=["x", "y"]),
        Record(text="a", labels=[]),
        talk("a", "x", weight=0),
        Record(messages=[Message(role="user", content="a")]),
    ],
)
def test_a_row_without_one_class_is_refused(chat: Chat, row: Record) -> None:
    encoder = RowEncoder(chat, Classify(), HeadFacts(kind="classify", classes=["x", "y"], rows_by_class=[1, 1]))
    with pytest.raises(Invalid) as refused:
        encoder.encode([row])
    assert refused.value.reason == "ROW_WITHOUT_TARGET"


def test_numbers_are_standardised_by_the_training_rows(chat: Chat) -> None:
    rows = [Record(text="a", value=1.0), talk("b", "3"), Record(text="c")]
    facts = survey(rows, Regress())

    assert facts is not None
    assert (facts.mean, facts.deviation) == (2.0, 1.0)
    assert survey(rows, Regress(standardise=False)) == facts.model_copy(update={"mean": 0.0})
    assert survey([Record(text="a", value=5.0)] * 2, Regress()) == HeadFacts(kind="regress", rows=2, mean=5.0)
    assert [row.targets for row in RowEncoder(chat, Regress(), facts).encode(rows[:2])] == [(1.0,), (3.0,)]
    for bad in (rows[2], talk("a", "much"), talk("a", "nan"), talk("a", "inf")):
        with pytest.raises(Invalid) as refused:
            RowEncoder(chat, Regress(), facts).encode([bad])
        assert refused.value.reason == "ROW_WITHOUT_TARGET"


def test_a_head_that_is_trained_on_keeps_what_it_tells() -> None:
    before = HeadFacts(kind="regress", mean=4.0, deviation=2.0, as_chat=True, system="s")
    facts = survey([Record(text="a", value=1.0)], Regress(), before)
    assert facts == before.model_copy(update={"rows": 1})


def test_a_shared_system_turn_stands_before_every_text(chat: Chat) -> None:
    rows = [talk("hello", "1", system="Be brief."), talk("please", "2", system="Be brief.")]
    facts = survey(rows, Regress())
    assert facts is not None
    encoder = RowEncoder(chat, Regress(), facts)

    assert encoder.text_ids("hello") == encoder.encode(rows)[0].token_ids[:-1]
    other = survey([*rows, talk("a", "3", system="Be long.")], Regress())
    assert other is not None
    assert other.system == ""


def test_a_text_that_is_cut_is_still_judged(chat: Chat) -> None:
    encoder = RowEncoder(chat, Regress(), HeadFacts(kind="regress"))
    (row,) = encoder.encode([Record(text="hello please " * 8, value=1.5)])

    cut = encoder.cut(row, 5)

    assert encoder.tokens(row) == len(row.token_ids) - 1
    assert encoder.tokens(cut) == 5
    assert cut.token_ids[:5] == row.token_ids[:5]
    assert (cut.is_answer, cut.targets) == ([False] * 5 + [True], (1.5,))
