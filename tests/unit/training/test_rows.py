"""Rows are counted as the trainer takes them: the same steps, the same passes, the same refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.artifacts.commit import commit
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.formats.objectives import Classify, Pretrain, Sft
from feinschliff.formats.optimisation import Optimisation
from feinschliff.formats.records import Message, Record
from feinschliff.formats.runfile import DataPart
from feinschliff.lm.chat import Chat
from feinschliff.lm.encoding import RowEncoder, survey
from feinschliff.lm.plain_tokenizer import PlainTokenizer
from feinschliff.trainer.data import load_part
from feinschliff.trainer.order import Course, Source
from feinschliff.trainer.table import Table
from feinschliff.training.rows import Looked, fair_part, largest, look, work_of
from tests.support.trainer import rows

DATASET = "projects/default/datasets/file-1/versions/1"


@pytest.fixture
def chat(tiny_model: Path) -> Chat:
    return Chat.of(PlainTokenizer.of(BaseFiles(f"file:{tiny_model}", "sha256:tiny", "folder", tiny_model)))


def seen(chat: Chat, records: list[Record], in_all: int = 0, **settings: Any) -> Looked:
    optimisation = Optimisation(**settings)
    return look(RowEncoder(chat, Sft()), records, optimisation, dataset_version=DATASET, rows=in_all or len(records))


@pytest.mark.parametrize("batch_size", [1, 4, 7])
@pytest.mark.parametrize(("epochs", "steps_max"), [(1.0, 0), (2.5, 0), (3.0, 5)])
def test_steps_and_tokens_are_those_of_the_course(chat: Chat, batch_size: int, epochs: float, steps_max: int) -> None:
    records = rows(25)
    settings: dict[str, Any] = {"batch_size": batch_size, "epochs": epochs, "steps_max": steps_max}
    looked = seen(chat, records, **settings)
    optimisation = Optimisation(**settings)
    course = Course.of([Source(0, 25, 1.0)], optimisation, seed=0, lengths=looked.lengths)
    work = work_of([looked], optimisation)
    assert (work.steps, work.rows_per_epoch) == (course.steps_total, course.rows_per_epoch)
    assert work.rows == sum(len(course.rows_of(step)) for step in range(course.steps_total))
    if epochs == 1.0:
        tokens = [len(row.token_ids) - 1 for row in chat.encode(records)]
        assert work.tokens == sum(tokens)
        assert work.labels == sum(row.answer_tokens for row in chat.encode(records))


def test_tasks_that_learn_apart_step_side_by_side(chat: Chat) -> None:
    optimisation = Optimisation(epochs=2, batch_size=4, micro_batch_tokens=64)
    large, small = seen(chat, rows(18)), replace(seen(chat, rows(7)), task="small")
    alone = [work_of([one], optimisation) for one in (large, small)]
    together = work_of([large, small], optimisation)
    assert [one.steps for one in alone] == [10, 4]
    assert together.steps == 10
    assert (together.rows, together.rows_per_epoch) == (50, 25)
    assert together.tokens == sum(one.tokens for one in alone)
    assert together.labels == sum(one.labels for one in alone)

    passes = [largest([one], optimisation, 10) for one in (large, small)]
    both = largest([large, small], optimisation, 10)
    assert both.passes == sum(one.passes for one in passes)
    assert both.tokens == max(one.tokens for one in passes)


def test_a_sample_stands_for_all_rows(chat: Chat) -> None:
    looked = seen(chat, rows(20), in_all=1000)
    assert looked.sampled
    assert looked.rows_per_epoch == 1000
    assert work_of([looked], Optimisation(epochs=1)).tokens == pytest.approx(50 * sum(looked.lengths), rel=1e-3)


def test_rows_without_an_answer_and_long_rows_are_named_by_line(chat: Chat) -> None:
    records = [
        *rows(3),
        Record(messages=[Message(role="user", content="hello")], line=4),
        Record(
            messages=[Message(role="user", content="x" * 100), Message(role="assistant", content="help " * 60)], line=5
        ),
        Record(messages=[Message(role="user", content="x" * 300), Message(role="assistant", content="a")], line=6),
    ]
    looked = seen(chat, records, max_row_tokens=150, on_long_row="truncate")
    assert [line.line for line in looked.unanswered] == [4]
    assert [line.line for line in looked.long] == [5, 6]
    assert all(line.tokens > 150 for line in looked.long)
    assert len(looked.lengths) == 4, "three short ones and the one that keeps some of its answer"
    assert max(looked.lengths) == 149
    dropped = seen(chat, records, max_row_tokens=150, on_long_row="drop")
    assert len(dropped.lengths) == 3


def test_rows_that_the_template_refuses_are_told_apart(chat: Chat) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    bad = Record(messages=[Message(role="user", content="a"), Message(role="assistant", tool_calls=[call])], line=9)
    looked = seen(chat, [*rows(2), bad])
    assert [(line.line, line.reason) for line in looked.refused] == [(9, "TOOL_CALLS_UNSUPPORTED")]
    assert len(looked.lengths) == 2


def test_texts_are_joined_into_sequences(chat: Chat) -> None:
    texts = [Record(text=f"hello please help {k}", line=k + 1) for k in range(30)]
    optimisation = Optimisation(max_row_tokens=64)
    encoder = RowEncoder(chat, Pretrain())
    looked = look(encoder, texts, optimisation, dataset_version=DATASET, rows=30)
    in_all = sum(len(row.token_ids) for row in encoder.encode(texts))
    assert looked.labels == looked.lengths
    assert sum(looked.labels) == in_all - 1, "each token but the first is learned once"
    assert set(looked.lengths[:-1]) == {63}


def test_a_text_with_a_class_has_one_label(chat: Chat) -> None:
    texts = [Record(text=f"hello {k}", label="ab"[k % 2], line=k + 1) for k in range(6)]
    facts = survey(texts, Classify())
    looked = look(RowEncoder(chat, Classify(), facts), texts, Optimisation(), dataset_version=DATASET, rows=6)
    assert set(looked.labels) == {1}


def test_the_largest_pass_obeys_the_limit_and_always_takes_a_row(chat: Chat) -> None:
    looked = seen(chat, rows(40), batch_size=8, micro_batch_tokens=64)
    longest = max(looked.lengths)
    found = largest([looked], Optimisation(batch_size=8, micro_batch_tokens=64), 100)
    assert found.row_tokens == longest
    assert found.tokens_low <= found.tokens <= found.tokens_high <= max(64, longest)
    whole = largest([looked], Optimisation(batch_size=8, micro_batch_tokens=100_000), 100)
    assert whole.tokens <= whole.tokens_high == sum(sorted(looked.lengths)[-8:])
    few = largest([seen(chat, rows(3))], Optimisation(batch_size=8, micro_batch_tokens=100_000), 100)
    assert few.tokens == sum(seen(chat, rows(3)).lengths), "a step has no more rows than there are"


def test_what_rows_begin_with_counts_once_in_a_pass(chat: Chat) -> None:
    system = Message(role="system", content="please help with the order " * 5)
    told = [one.model_copy(update={"messages": [system, *one.messages]}) for one in rows(40)]
    looked, optimisation = seen(chat, told, batch_size=8), Optimisation(batch_size=8, micro_batch_tokens=100_000)
    once = len(looked.opening)
    assert once > 20
    alone, shared = (largest([looked], optimisation, 100, shared=shared) for shared in (False, True))
    assert (shared.rows, shared.passes, shared.labels) == (8, 1, alone.labels)
    for name in ("tokens", "tokens_low", "tokens_high"):
        assert getattr(shared, name) == getattr(alone, name) - 6 * once, f"{name}: seven rows less, eight eighths more"
    tight = optimisation.model_copy(update={"micro_batch_tokens": shared.tokens_high})
    assert largest([looked], tight, 100, shared=True).passes == 1 < largest([looked], tight, 100).passes
    others = seen(chat, rows(40), batch_size=8)
    assert largest([looked, others], optimisation, 100, shared=True).tokens > shared.tokens + once


def test_too_much_text_is_looked_at_in_part_the_same_part_each_time() -> None:
    records = rows(200)
    part = fair_part(records, text_bytes_max=4000)
    assert 1 < len(part) < 200
    assert list(part) == list(fair_part(records, text_bytes_max=4000))
    assert [record.line for record in part] != sorted(record.line for record in part)
    assert fair_part(records) is records


def test_the_same_rows_are_refused_that_the_trainer_refuses(chat: Chat, tmp_path: Path) -> None:
    """The plan's sorting against the trainer's own, on a file with rows of every kind."""
    long = Record(messages=[Message(role="user", content="a"), Message(role="assistant", content="b" * 300)], line=11)
    records = [*rows(10), long]
    store = DirectoryStore(tmp_path)
    lines = b"".join(record.to_json_line() for record in records)
    manifest = commit(store, DATASET, {"train.jsonl": lines}, {}, kind="dataset")
    part = DataPart(dataset_version=DATASET, prefix=DATASET, sha256=manifest.digest, splits=["train"])
    for on_long_row in ("truncate", "drop"):
        optimisation = Optimisation(max_row_tokens=100, on_long_row=on_long_row)
        table, encoder = Table(), RowEncoder(chat, Sft())
        load_part(table, store, part, encoder, optimisation)
        looked = look(encoder, records, optimisation, dataset_version=DATASET, rows=len(records))
        assert list(looked.lengths) == table.lengths()
