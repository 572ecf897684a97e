"""The engine over vLLM: what is sent, what is believed, and what follows when a server goes away and comes back."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from feinschliff.inference.answers import refuse_broken
from feinschliff.inference.engine import Delta, Done, Engine, Finish, GenerationRequest
from feinschliff.inference.engines import ENGINES, EngineOptions
from feinschliff.inference.engines.vllm.base import Base
from feinschliff.inference.engines.vllm.options import VllmOptions
from feinschliff.inference.engines.vllm.peft import read_pairs, write
from feinschliff.inference.scores import ScoringRequest
from feinschliff.kit.errors import Unavailable, Unserved, WrongState
from tests.contract.inference.adapters import Oracle, make_adapter
from tests.contract.inference.generating import Generation
from tests.contract.inference.vllm_place import DIGEST, Vllm, another_copy, base_of, open_counting, with_adapters
from tests.support import vllm_stub
from tests.support.vllm_stub import Counting, Running, Stub
from tests.support.waiting import eventually

PROMPT = list(range(3, 20))
LONG = 400


@pytest.fixture
def counting(tiny_model: Path, tmp_path: Path) -> Iterator[Vllm]:
    """An engine over a server that counts, which a test may break."""
    opened = open_counting(tiny_model, tmp_path)
    yield opened
    opened.close()


def begun(engine: Engine, adapter: str = "", tokens: int = LONG) -> Generation:
    generation = Generation(engine, GenerationRequest(PROMPT, adapter, max_tokens=tokens))
    generation.wait_tokens(1)
    return generation


def said(engine: Engine, adapter: str) -> list[int]:
    generation = Generation(engine, GenerationRequest(PROMPT, adapter, max_tokens=6, logprobs=0))
    assert generation.done.finish is Finish.LENGTH
    return [event.score.token_id for event in generation.events if isinstance(event, Delta | Done) and event.score]


def refused_later(engine: Engine) -> bool:
    try:
        Generation(engine, GenerationRequest(PROMPT, max_tokens=2)).abort()
    except Unavailable as refused:
        return refused.reason == "ENGINE_LOST" and refused.retry_after_seconds == 5.0
    return False


def test_scores_are_those_of_the_model_with_each_adapter(vllm: Vllm, adapters: dict[str, Path], oracle: Oracle) -> None:
    with_adapters(vllm.engine, adapters)
    for name in ("", "two"):
        scores = vllm.engine.score(ScoringRequest(PROMPT, 4, name, top_logprobs=3)).result(60)
        expected = oracle.logits(PROMPT, name).log_softmax(-1)
        for place, score in enumerate(scores, start=4):
            best = expected[place - 1].topk(3)
            assert score.token_id == PROMPT[place]
            assert score.logprob == pytest.approx(float(expected[place - 1, PROMPT[place]]), abs=1e-3)
            assert [one.token_id for one in score.top] == best.indices.tolist()
            assert [one.logprob for one in score.top] == pytest.approx(best.values.tolist(), abs=1e-3)


def test_the_cached_tokens_of_a_prompt_are_told_where_the_server_ends_the_answer(vllm: Vllm) -> None:
    done = Generation(vllm.engine, GenerationRequest(PROMPT, max_tokens=3)).done
    assert (done.finish, done.cached_tokens) == (Finish.LENGTH, len(PROMPT) // 2)


def test_what_is_written_for_the_server_computes_what_the_version_does(tiny_model: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"k_proj": 3}, "use_rslora": True}
    given = make_adapter(tiny_model, tmp_path / "given", seed=3, **settings)
    model = Base.of(base_of(tiny_model), "fp32", tmp_path).model
    write(read_pairs(given, model, rank_max=64), tmp_path / "written")
    oracle = Oracle(tiny_model, {"given": given, "written": tmp_path / "written"})
    assert torch.allclose(oracle.logits(PROMPT, "given"), oracle.logits(PROMPT, "written"), atol=1e-4)
    assert not torch.allclose(oracle.logits(PROMPT, "given"), oracle.logits(PROMPT, ""), atol=1e-1)


def test_who_leaves_closes_the_connection_by_which_the_server_stops(counting: Vllm) -> None:
    generation = begun(counting.engine)
    generation.abort()
    assert generation.done.finish is Finish.CANCELLED
    eventually(lambda: counting.stub.aborted == 1)
    eventually(lambda: counting.stub.running == 0)


def test_capacity_is_what_the_server_says_of_itself(counting: Vllm) -> None:
    generation = begun(counting.engine)
    capacity = counting.engine.capacity()
    assert (capacity.running, capacity.is_up, capacity.losses) == (1, True, 0)
    assert capacity.kv_cache_bytes_max == 16_000 * 2 * 2 * 2 * 16 * 4  # tokens, layers, sides, heads, size, fp32
    generation.abort()


def test_a_server_that_dies_fails_what_runs_and_has_its_adapters_before_the_next_request(
    counting: Vllm, adapters: dict[str, Path]
) -> None:
    engine, stub = counting.engine, counting.stub
    with_adapters(engine, adapters)
    known = {name: said(engine, name) for name in ("", *adapters)}
    assert len(set(map(tuple, known.values()))) == len(known)
    running = begun(engine, "one")
    waiting = engine.score(ScoringRequest(PROMPT))
    assert waiting.result(30)
    counting.server.crash()
    with pytest.raises(Unavailable) as lost:
        refuse_broken(running.done)
    assert (lost.value.reason, lost.value.retry_after_seconds) == ("ENGINE_LOST", 5.0)
    eventually(lambda: refused_later(engine))
    with pytest.raises(Unavailable) as refused:
        engine.load_adapter("four", adapters["one"])
    assert refused.value.reason == "ENGINE_LOST"
    assert engine.capacity().losses == 1
    stub.requests.clear()
    counting.server.listen()
    eventually(lambda: engine.capacity().is_up)
    assert {name: said(engine, name) for name in known} == known
    told = [path for path, _ in stub.requests if path.startswith("/v1/") and path != "/v1/models"]
    assert told[:3] == ["/v1/load_lora_adapter"] * 3
    assert "/v1/completions" in told[3:]


def test_everybody_who_waits_hears_of_a_loss_however_many_there_are(tiny_model: Path, tmp_path: Path) -> None:
    opened = open_counting(tiny_model, tmp_path, queue_max=1000, rows_max=1)
    begun(opened.engine)
    waiting = [Generation(opened.engine, GenerationRequest(PROMPT, max_tokens=2)) for _ in range(600)]
    opened.stub.name = "sha256:other@fp32"
    assert {(one.done.finish, one.done.retry_after_seconds) for one in waiting} == {(Finish.FAILED, 5.0)}
    opened.close()


def test_an_engine_that_is_dead_behind_its_server_fails_what_runs(counting: Vllm) -> None:
    running = begun(counting.engine)
    counting.stub.is_dead = True
    assert running.done.finish is Finish.FAILED
    assert running.done.retry_after_seconds
    counting.stub.is_dead = False
    eventually(lambda: not refused_later(counting.engine))


def test_a_server_that_forgot_an_adapter_answers_nothing_in_its_name(
    tiny_model: Path, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    opened = open_counting(tiny_model, tmp_path, look_seconds=60)
    with_adapters(opened.engine, adapters)
    known = said(opened.engine, "two")
    opened.stub.forget()
    done = Generation(opened.engine, GenerationRequest(PROMPT, "two", max_tokens=6)).done
    assert (done.finish, done.completion_tokens, bool(done.retry_after_seconds)) == (Finish.FAILED, 0, True)
    eventually(lambda: opened.engine.capacity().is_up)
    assert said(opened.engine, "two") == known
    opened.close()
    assert not opened.stub.adapters


def test_a_copy_that_leaves_takes_no_adapters_from_the_one_that_has_come(
    tiny_model: Path, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    before = open_counting(tiny_model, tmp_path, look_seconds=60)
    with_adapters(before.engine, adapters)
    known = said(before.engine, "two")
    after = with_adapters(another_copy(before, tiny_model, tmp_path), adapters)
    before.engine.close()
    assert said(after, "two") == known
    assert after.capacity().losses == 0
    before.server.crash()
    eventually(lambda: not after.capacity().is_up)
    before.server.listen()
    eventually(lambda: after.capacity().is_up)
    assert said(after, "two") == known
    after.close()
    assert not before.stub.adapters
    assert not list((tmp_path / "shared").glob("*"))
    before.server.stop()


def test_an_adapter_that_a_server_refuses_is_lost_alone(counting: Vllm, adapters: dict[str, Path]) -> None:
    engine = with_adapters(counting.engine, adapters)
    known = {name: said(engine, name) for name in ("", "one")}
    counting.server.crash()
    eventually(lambda: not engine.capacity().is_up)
    counting.stub.refused = {"two"}
    counting.server.listen()
    eventually(lambda: engine.capacity().is_up)
    assert {name: said(engine, name) for name in known} == known
    assert engine.adapters() == adapters.keys() - {"two"}
    with pytest.raises(WrongState) as refused:
        Generation(engine, GenerationRequest(PROMPT, "two", max_tokens=2))
    assert refused.value.reason == "ADAPTER_NOT_LOADED"
    with pytest.raises(WrongState) as again:
        engine.load_adapter("two", adapters["two"])
    assert again.value.reason == "ADAPTER_UNSUPPORTED"
    assert engine.capacity().is_up


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt_token_ids": [1]}, "other tokens"),
        ({"token_ids": [9, 9]}, "cannot be read"),
        ({"finish_reason": "length"}, "by itself"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_none(counting: Vllm, change: dict[str, Any], told: str) -> None:
    def changed(event: dict[str, Any]) -> dict[str, Any]:
        choices = [{**choice, **change} for choice in event["choices"]]
        return {**event, "choices": choices}

    counting.stub.changes = changed
    asked = GenerationRequest(PROMPT, max_tokens=4, logprobs=0)
    if "finish_reason" in change:
        counting.stub.brain = Short()
    done = Generation(counting.engine, asked).done
    assert done.finish is Finish.FAILED
    assert told in done.error
    assert done.retry_after_seconds is None


class Short(Counting):
    """Ends all answers after one token."""

    def begin(self, body: dict[str, Any], adapter: str, say: vllm_stub.Say, end: vllm_stub.End) -> Any:
        return super().begin({**body, "max_tokens": 1}, adapter, say, end)


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"use_dora": True}, "it is `dora`"), ({"rank": 65}, "rank is 65"), ({"bias": "all"}, "bias")],
)
def test_adapters_that_vllm_would_not_or_wrongly_compute_are_refused(
    counting: Vllm, tiny_model: Path, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    folder = make_adapter(tiny_model, tmp_path / "new", seed=1, **settings)
    with pytest.raises(WrongState) as refused:
        counting.engine.load_adapter("new", folder)
    assert refused.value.reason == "ADAPTER_UNSUPPORTED"
    assert told in refused.value.message
    assert counting.engine.adapters() == frozenset()
    assert not list((tmp_path / "shared").glob("*"))


def test_vectors_and_heads_are_not_for_this_engine(counting: Vllm) -> None:
    with pytest.raises(Unserved) as refused:
        counting.engine.embed([PROMPT], "", 64)
    assert refused.value.reason == "ENGINE_UNSERVED"
    with pytest.raises(WrongState) as other:
        counting.engine.judge([PROMPT], "")
    assert other.value.reason == "NOT_A_CLASSIFIER"


@pytest.mark.parametrize(
    ("served", "told"),
    [
        ({"name": "sha256:other@fp32"}, "serves sha256:other@fp32"),
        ({"name": f"{DIGEST}@bf16"}, f"--served-model-name {DIGEST}@fp32"),
        ({"name": f"{DIGEST}@fp32", "version": "0.9.2"}, "0.9.2"),
    ],
)
def test_a_server_of_something_else_is_none(
    tiny_model: Path, tmp_path: Path, served: dict[str, Any], told: str
) -> None:
    server = Running(Stub(Counting(), **served))
    options = EngineOptions(tmp_path, vllm=VllmOptions(urls=[server.url], start_seconds=30))
    with pytest.raises(WrongState) as refused:
        ENGINES["vllm"](base_of(tiny_model), "fp32", options)
    assert refused.value.reason == "ENGINE_START_FAILED"
    assert told in refused.value.message
    server.stop()


@pytest.mark.parametrize("said", [{"models": []}, [], {"data": [{"name": "a"}]}, {"data": {"id": "a"}}, {"data": 3}])
def test_a_server_that_is_no_vllm_is_named_in_the_refusal(tiny_model: Path, tmp_path: Path, said: Any) -> None:
    server = Running(Stub(Counting(), f"{DIGEST}@fp32"))
    server.stub.listing = said
    options = EngineOptions(tmp_path, vllm=VllmOptions(urls=[server.url], start_seconds=30))
    with pytest.raises(WrongState) as refused:
        ENGINES["vllm"](base_of(tiny_model), "fp32", options)
    assert refused.value.reason == "ENGINE_START_FAILED"
    assert server.url in refused.value.message
    server.stop()


def test_a_server_that_may_not_load_adapters_says_how_it_may(
    tiny_model: Path, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    opened = open_counting(tiny_model, tmp_path)
    opened.stub.updates = False
    with pytest.raises(WrongState) as refused:
        opened.engine.load_adapter("one", adapters["one"])
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in refused.value.advice[0]
    opened.close()


def own(tiny_model: Path, folder: Path, **options: Any) -> Engine:
    command = f"{sys.executable} -P {vllm_stub.__file__} serve"  # -P: files beside it are no modules of its own
    vllm = VllmOptions(**{"command": command, "look_seconds": 0.1, "start_seconds": 60, **options})
    return ENGINES["vllm"](base_of(tiny_model), "fp32", EngineOptions(folder, vllm=vllm))


def servers() -> list[int]:
    """Processes of ours that run the stub."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            except OSError:
                continue
            if b"vllm_stub.py" in words and int(parent) == os.getpid():
                found.append(int(entry.name))
    return found


@pytest.mark.timeout(180)
def test_a_server_of_our_own_is_started_again_when_it_is_killed_and_ends_with_the_engine(
    tiny_model: Path, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    engine = own(tiny_model, tmp_path, arguments="--max-model-len 300")
    assert engine.facts.context_tokens == 299
    engine.load_adapter("one", adapters["one"])
    known = said(engine, "one")
    (first,) = servers()
    running = begun(engine, "one", 200)
    os.kill(first, signal.SIGKILL)
    assert running.done.retry_after_seconds
    eventually(lambda: not refused_later(engine) and engine.capacity().losses == 1, 60)
    assert said(engine, "one") == known
    (second,) = servers()
    assert second != first
    engine.close()
    assert servers() == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"arguments": "--no-such-option 1"}, "unrecognized arguments: --no-such-option"),
        ({"command": "/no/such/vllm serve"}, "ended with"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    tiny_model: Path, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    began = time.monotonic()
    with pytest.raises(WrongState) as refused:
        own(tiny_model, tmp_path, **options)
    assert refused.value.reason == "ENGINE_START_FAILED"
    assert told in refused.value.message
    assert time.monotonic() - began < 60
    assert servers() == []
