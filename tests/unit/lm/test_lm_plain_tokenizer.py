"""Who plans a job counts the tokens that its trainer sees: chats without transformers equal those with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from feinschliff.artifacts.bases import DEFAULT_BASE, BaseFiles, lies_at
from feinschliff.formats.records import Message, Record
from feinschliff.lm.chat import Chat
from feinschliff.lm.load import load_tokenizer
from feinschliff.lm.plain_tokenizer import PlainTokenizer

ROWS = [
    Record(
        messages=[
            Message(role="system", content="You help."),
            Message(role="user", content="Hallo, wo ist meine Lieferung?\n\n  <|im_end|> <|endoftext|>"),
            Message(role="assistant", content="refund: 12,50 €  "),
            Message(role="user", content="danke 🙂"),
            Message(role="assistant", content="bitte"),
        ]
    ),
    Record(messages=[Message(role="user", content="x"), Message(role="assistant", content="y " * 200)]),
]


def smollm2() -> tuple[BaseFiles, PreTrainedTokenizerFast]:
    place = lies_at(DEFAULT_BASE)
    assert place is not None
    kind, path = place
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    assert isinstance(theirs, PreTrainedTokenizerFast)
    return BaseFiles(DEFAULT_BASE, "sha256:x", kind, path), theirs


def tiny(folder: Path) -> tuple[BaseFiles, PreTrainedTokenizerFast]:
    return BaseFiles(f"file:{folder}", f"sha256:{folder}", "folder", folder), load_tokenizer(folder)


@pytest.fixture(params=["tiny", "smollm2"])
def both(request: pytest.FixtureRequest, tiny_model: Path) -> tuple[Chat, Chat]:
    files, theirs = smollm2() if request.param == "smollm2" else tiny(tiny_model)
    return Chat.of(PlainTokenizer.of(files)), Chat.of(theirs)


def test_conversations_have_the_tokens_of_training(both: tuple[Chat, Chat]) -> None:
    plain, training = both
    assert plain.encode(ROWS) == training.encode(ROWS)
    assert plain.prompt_ids(ROWS[0].messages[:2]) == training.prompt_ids(ROWS[0].messages[:2])


def test_the_tokens_are_those_of_transformers_own_template(both: tuple[Chat, Chat]) -> None:
    plain, training = both
    turns = [{"role": "user", "content": "Hallo, wo?"}, {"role": "assistant", "content": "hier"}]
    tokenizer = training.tokenizer
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    theirs = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    row = Record(messages=[Message(role="user", content="Hallo, wo?"), Message(role="assistant", content="hier")])
    ours = plain.whole_ids([row])[0]
    assert ours == theirs


def test_control_tokens_and_stop_ids_are_the_same(both: tuple[Chat, Chat]) -> None:
    plain, training = both
    assert plain.stop_token_ids == training.stop_token_ids
    assert plain.template_hash == training.template_hash
    assert plain.tokenizer.special_tokens_map == training.tokenizer.special_tokens_map
    assert set(plain.tokenizer.all_special_tokens) == set(training.tokenizer.all_special_tokens)
    assert plain.decode(plain.prompt_ids(ROWS[1].messages[:1])) == training.decode(
        training.prompt_ids(ROWS[1].messages[:1])
    )


def _names_a_pad_token(folder: Path, stated: dict[str, object]) -> None:
    stated["pad_token"] = "<|pad|>"


def _lists_more_tokens(folder: Path, stated: dict[str, object]) -> None:
    stated["extra_special_tokens"] = ["<|tool|>"]
    stated["sep_token"] = {"__type": "AddedToken", "content": "<|sep|>", "special": True, "normalized": False}


def _keeps_names_in_the_older_file(folder: Path, stated: dict[str, object]) -> None:
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": stated.pop("eos_token")}), "utf-8")


@pytest.mark.parametrize("change", [_names_a_pad_token, _lists_more_tokens, _keeps_names_in_the_older_file])
def test_tokens_that_only_the_configuration_names_are_known(
    tiny_model: Path, tmp_path: Path, change: Callable[[Path, dict[str, object]], None]
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "other")
    path = folder / "tokenizer_config.json"
    stated = json.loads(path.read_text("utf-8"))
    change(folder, stated)
    path.write_text(json.dumps(stated), "utf-8")
    files, theirs = tiny(folder)
    plain = Chat.of(PlainTokenizer.of(files))
    row = Record(messages=[Message(role="user", content="a<|pad|>b<|tool|>c<|sep|>"), ROWS[0].messages[2]])
    assert plain.encode([row]) == Chat.of(theirs).encode([row])
    assert plain.stop_token_ids == Chat.of(theirs).stop_token_ids
