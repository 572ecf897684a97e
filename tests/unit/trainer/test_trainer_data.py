"""Only verified rows are learned from, and every row that cannot be is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from feinschliff.artifacts.commit import commit
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.artifacts.store import Store
from feinschliff.formats.optimisation import Optimisation
from feinschliff.formats.records import Message, Record
from feinschliff.formats.runfile import DataPart
from feinschliff.kit.errors import Invalid, NotFound, WrongState
from feinschliff.lm.chat import Encoded
from feinschliff.trainer.data import BLOCK_ROWS, LongRows, load_part
from feinschliff.trainer.table import Table

PREFIX = "projects/default/datasets/d/versions/1"


def record(line: int, *, words: int = 1, weight: int | None = None) -> Record:
    messages = [
        Message(role="user", content="q" * words),
        Message(role="assistant", content=f"a{line}", weight=weight),
    ]
    return Record(messages=messages, line=line)


def encode(records: Sequence[Record]) -> list[Encoded]:
    """A token for each letter of the question, then one for the answer."""
    rows = []
    for one in records:
        question, answer = one.messages
        if answer.content == "a9999":
            raise Invalid("CHAT_TEMPLATE_REFUSES", "Not this one.")
        tokens = len(question.content or "") + 1
        trained = answer.weight != 0
        rows.append(Encoded([one.line] * tokens if trained else [], [False] * (tokens - 1) + [True] if trained else []))
    return rows


class Rows:
    """An encoder that does with rows what is written here."""

    def __init__(self, encode: Callable[[Sequence[Record]], list[Encoded]], *, joins: bool = False) -> None:
        self.encode = encode
        self.joins = joins

    def tokens(self, row: Encoded) -> int:
        return len(row.token_ids)

    def cut(self, row: Encoded, tokens_max: int) -> Encoded:
        return Encoded(row.token_ids[:tokens_max], row.is_answer[:tokens_max], row.targets)

    def joined(self, rows: Iterator[Encoded], tokens_max: int) -> Iterator[Encoded]:
        together = [token for row in rows for token in row.token_ids]
        yield Encoded(together, [True] * len(together))


ENCODER = Rows(encode)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return DirectoryStore(tmp_path)


def part(store: Store, records: Sequence[Record], *, splits: Sequence[str] = ("train",)) -> DataPart:
    files = {f"{split}.jsonl": b"".join(one.to_json_line() for one in records) for split in splits}
    manifest = commit(store, PREFIX, files, {}, kind="dataset")
    return DataPart(dataset_version=PREFIX, prefix=PREFIX, sha256=manifest.digest, splits=list(splits))


def settings(**values: object) -> Optimisation:
    return Optimisation.model_validate({"max_row_tokens": 16, **values})


def test_rows_come_in_the_order_of_the_file_over_many_blocks(store: Store) -> None:
    count, table = 2 * BLOCK_ROWS + 3, Table()

    counts = load_part(table, store, part(store, [record(k + 1) for k in range(count)]), ENCODER, settings())

    assert counts == LongRows()
    assert [table[row].token_ids[0] for row in range(len(table))] == list(range(1, count + 1))
    assert table[0] == Encoded([1, 1], [False, True])
    assert table.tokens_of(0) == 1


def test_all_splits_of_a_part_are_read(store: Store) -> None:
    table = Table()
    load_part(table, store, part(store, [record(1), record(2)], splits=["train", "test"]), ENCODER, settings())

    assert len(table) == 4


def test_a_version_with_other_content_is_refused(store: Store) -> None:
    other = part(store, [record(1)]).model_copy(update={"sha256": "0" * 64})

    with pytest.raises(WrongState) as refusal:
        load_part(Table(), store, other, ENCODER, settings())

    assert refusal.value.reason == "DATASET_VERSION_CHANGED"


def test_damaged_bytes_are_refused(store: Store) -> None:
    whole = part(store, [record(1), record(2)])
    store.put_bytes(f"{PREFIX}/train.jsonl", record(3).to_json_line())

    with pytest.raises(WrongState) as refusal:
        load_part(Table(), store, whole, ENCODER, settings())

    assert refusal.value.reason == "ARTIFACT_CORRUPT"


def test_a_version_that_is_not_there_is_refused(store: Store) -> None:
    absent = DataPart(dataset_version=PREFIX, prefix=PREFIX, sha256="0" * 64, splits=["train"])

    with pytest.raises(NotFound) as refusal:
        load_part(Table(), store, absent, ENCODER, settings())

    assert refusal.value.reason == "DATASET_VERSION_MISSING"


def test_rows_without_a_trainable_token_are_refused_by_line(store: Store) -> None:
    rows = [record(1), record(2, weight=0), record(3), record(4, weight=0)]

    with pytest.raises(Invalid, match="lines 2, 4") as refusal:
        load_part(Table(), store, part(store, rows), ENCODER, settings())

    assert refusal.value.reason == "ROW_WITHOUT_ANSWER"
    assert [field.field for field in refusal.value.fields] == ["line 2", "line 4"]


def test_long_rows_are_refused_by_line_with_what_would_help(store: Store) -> None:
    rows = [record(1), record(2, words=30), record(3, words=20)]

    with pytest.raises(Invalid, match="lines 2, 3") as refusal:
        load_part(Table(), store, part(store, rows), ENCODER, settings())

    assert refusal.value.reason == "ROW_TOO_LONG"
    assert "31" in refusal.value.advice[0]


@pytest.mark.parametrize(("on_long_row", "expected"), [("drop", LongRows(0, 1)), ("truncate", LongRows(0, 1))])
def test_a_long_row_whose_answer_would_be_cut_is_dropped_and_counted(
    store: Store, on_long_row: str, expected: LongRows
) -> None:
    table = Table()

    counts = load_part(
        table, store, part(store, [record(1), record(2, words=30)]), ENCODER, settings(on_long_row=on_long_row)
    )

    assert counts == expected
    assert len(table) == 1


def test_a_long_row_is_cut_at_its_end_while_an_answer_remains(store: Store) -> None:
    def long_answers(records: Sequence[Record]) -> list[Encoded]:
        return [Encoded(list(range(40)), [k > 3 for k in range(40)]) for _ in records]

    table = Table()
    counts = load_part(table, store, part(store, [record(1)]), Rows(long_answers), settings(on_long_row="truncate"))

    assert counts == LongRows(truncated=1)
    assert table[0].token_ids == list(range(16))


def test_what_the_template_refuses_names_the_line(store: Store) -> None:
    with pytest.raises(Invalid, match="Line 9999 of") as refusal:
        load_part(Table(), store, part(store, [record(1), record(9999), record(3)]), ENCODER, settings())

    assert refusal.value.reason == "CHAT_TEMPLATE_REFUSES"
    assert refusal.value.metadata["line"] == "9999"


def test_rows_that_run_into_one_another_are_never_too_long(store: Store) -> None:
    table = Table()

    both = part(store, [record(1, words=30), record(2)])
    counts = load_part(table, store, both, Rows(encode, joins=True), settings())

    assert counts == LongRows()
    assert [table[row].token_ids for row in range(len(table))] == [[1] * 31 + [2] * 2]
