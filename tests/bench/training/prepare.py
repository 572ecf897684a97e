"""Makes what every subject of a benchmark gets: the same model folder, the same rows, the same tokens and labels.

It runs as a process of its own, so that the benchmark itself stays small: a child's peak memory counts its parent's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from feinschliff.artifacts.bases import DEFAULT_BASE, resolve
from feinschliff.artifacts.commit import commit
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.formats.records import Record
from feinschliff.kit.settings import Settings
from feinschliff.lm.chat import Chat, Encoded
from feinschliff.lm.load import load_tokenizer, prepare
from tests.bench.training.rows import chat_rows

DATASET = "projects/bench/datasets/rows/versions/1"
ROW_TOKENS_MAX = 512
VALIDATION_ROWS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=["gsm8k", "banking77"], required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    cache = Settings(home=options.home).home.absolute() / "cache" / "bases"
    (options.out / "store").mkdir(parents=True)
    store = DirectoryStore(options.out / "store")
    base = prepare(resolve(DEFAULT_BASE, store, cache, offline=True), cache)
    records = list(chat_rows(options.workload, options.data, options.rows * 2))
    encoded = Chat.of(load_tokenizer(base)).encode(records)
    fitting = [pair for pair in zip(records, encoded, strict=True) if len(pair[1].token_ids) <= ROW_TOKENS_MAX]
    held_out = [record for record, _ in fitting[options.rows :][:VALIDATION_ROWS]]
    write(options.out, store, base, fitting[: options.rows], held_out)


def write(
    out: Path, store: DirectoryStore, base: Path, rows: Sequence[tuple[Record, Encoded]], held_out: Sequence[Record]
) -> None:
    """The rows for us, as tokens for a peer that takes tokens, and as conversations for one that does not."""
    lines = b"".join(record.to_json_line() for record, _ in rows)
    validation = b"".join(record.to_json_line() for record in held_out)
    files = {"train.jsonl": lines, "validation.jsonl": validation}
    manifest = commit(store, DATASET, files, {}, kind="dataset")
    tokens = [
        {
            "input_ids": row.token_ids,
            "labels": [token if is_answer else -100 for token, is_answer in zip(*row[:2], strict=True)],
        }
        for _, row in rows
    ]
    _write_lines(out / "tokens.jsonl", tokens)
    chats = [{"messages": [one.model_dump(include={"role", "content"}) for one in row.messages]} for row, _ in rows]
    _write_lines(out / "chats.jsonl", chats)
    about = {"base": str(base), "digest": manifest.digest, "row_tokens": [len(row.token_ids) - 1 for _, row in rows]}
    about["labels"] = sum(row.answer_tokens for _, row in rows)
    (out / "about.json").write_text(json.dumps(about), "utf-8")


def _write_lines(path: Path, rows: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main()
