"""What every engine promises: exact, batched, many adapters, and nobody in another's way."""

from __future__ import annotations

import gc
import random
import weakref
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.formats.records import Message
from feinschliff.inference.engine import Delta, Done, Engine, Finish, GenerationRequest, Started
from feinschliff.inference.engines import ENGINES, EngineOptions
from feinschliff.kit.errors import Exhausted, Invalid, Refusal, Unavailable, WrongState
from tests.contract.inference.adapters import Oracle, make_adapter
from tests.contract.inference.generating import Generation, generate, texts
from tests.support.waiting import eventually

ADAPTERS = ("", "one", "two", "three")
LONG = 400


def prompt(seed: int, length: int | None = None) -> list[int]:
    chosen = random.Random(seed)
    return [chosen.randrange(3, 400) for _ in range(length or chosen.randrange(1, 90))]


def mixed(count: int = 24, **sampling: float) -> list[GenerationRequest]:
    return [
        GenerationRequest(prompt(seed), ADAPTERS[seed % 4], max_tokens=5 + seed % 30, seed=seed, **sampling)  # type: ignore[arg-type]
        for seed in range(count)
    ]


def test_a_batch_of_mixed_adapters_says_what_plain_peft_says_to_each_alone(engine: Engine, oracle: Oracle) -> None:
    requests = mixed()
    expected = [oracle.answer(list(one.prompt_ids), one.adapter_digest, one.max_tokens) for one in requests]
    answers = generate(engine, requests)
    assert [answer.text for answer in answers] == [engine.decode(ids) for ids in expected]
    assert [answer.done.completion_tokens for answer in answers] == [len(ids) for ids in expected]
    assert len({tuple(ids) for ids in expected}) == len(expected)


def test_the_same_request_alone_and_in_a_full_batch_gives_the_same_tokens(engine: Engine) -> None:
    requests = mixed()
    assert texts(engine, requests) == [texts(engine, [request])[0] for request in requests]


def test_seeded_draws_do_not_depend_on_what_else_is_in_the_batch(engine: Engine) -> None:
    requests = mixed(16, temperature=0.9, top_p=0.9)
    together = texts(engine, requests)
    assert together == [texts(engine, [request])[0] for request in reversed(requests)][::-1]
    other_seeds = [
        GenerationRequest(one.prompt_ids, one.adapter_digest, one.max_tokens, 0.9, 0.9, 999) for one in requests
    ]
    assert sum(a != b for a, b in zip(together, texts(engine, other_seeds), strict=True)) > 12


def test_adapters_change_the_answer(engine: Engine) -> None:
    answers = texts(engine, [GenerationRequest(prompt(1, 20), name, max_tokens=20) for name in ADAPTERS])
    assert len(set(answers)) == len(ADAPTERS)


def test_events_begin_with_started_and_end_with_exactly_one_done(engine: Engine) -> None:
    (generation,) = generate(engine, [GenerationRequest(prompt(3), max_tokens=7)])
    assert isinstance(generation.events[0], Started)
    assert [type(event) for event in generation.events[1:-1]] == [Delta] * 6
    assert generation.done.finish is Finish.LENGTH
    assert generation.done.completion_tokens == 7


def test_a_stop_string_ends_the_text_before_it_wherever_the_tokens_are_cut(engine: Engine) -> None:
    request = GenerationRequest(prompt(5, 20), "one", max_tokens=40)
    (whole,) = texts(engine, [request])
    for start in range(2, 20):
        stop = whole[start : start + 5]
        (stopped,) = generate(engine, [GenerationRequest(request.prompt_ids, "one", 40, stop=(stop, "never"))])
        assert stopped.text == whole[: whole.index(stop)]
        assert stopped.done.finish is Finish.STOP
        shown = ""
        for event in stopped.events:
            shown += event.text if isinstance(event, Delta | Done) else ""
            assert whole.startswith(shown)


def test_a_stop_token_ends_the_answer_is_counted_and_says_nothing(engine: Engine) -> None:
    request = GenerationRequest(prompt(6, 20), max_tokens=12)
    (free,) = generate(engine, [request])
    ids = engine.encode_text(free.text)
    stop = ids[4]
    (stopped,) = generate(engine, [GenerationRequest(request.prompt_ids, max_tokens=12, stop_token_ids=(stop,))])
    assert stopped.done.finish is Finish.STOP
    assert stopped.done.completion_tokens == ids.index(stop) + 1
    assert free.text.startswith(stopped.text)


def test_abort_frees_the_place_at_once_and_others_go_on(engine: Engine) -> None:
    rows = engine.capacity().rows_max
    running = [Generation(engine, GenerationRequest(prompt(seed, 10), max_tokens=LONG)) for seed in range(rows)]
    waiting = Generation(engine, GenerationRequest(prompt(99, 10), max_tokens=5))
    running[0].wait_tokens(3)
    assert engine.capacity().waiting == 1
    running[0].abort()
    assert running[0].done.finish is Finish.CANCELLED
    assert running[0].done.completion_tokens < LONG
    assert waiting.done.finish is Finish.LENGTH
    assert running[1].done.completion_tokens == LONG
    assert [one.done.finish for one in running[1:]] == [Finish.LENGTH] * (rows - 1)


def test_abort_while_waiting_never_starts(engine: Engine) -> None:
    rows = engine.capacity().rows_max
    running = [Generation(engine, GenerationRequest(prompt(seed, 10), max_tokens=LONG)) for seed in range(rows)]
    waiting = Generation(engine, GenerationRequest(prompt(1), max_tokens=5))
    waiting.abort()
    assert waiting.done.completion_tokens == 0
    assert [type(event) for event in waiting.events] == [Done]
    for one in running:
        one.abort()
    eventually(lambda: engine.capacity().running == 0)


def test_an_idle_engine_holds_no_cache(engine: Engine) -> None:
    generate(engine, mixed(8))
    eventually(lambda: engine.capacity().running == 0)
    eventually(lambda: engine.capacity().kv_cache_bytes == 0)  # what a server holds is asked for now and then


def test_a_listener_that_fails_ends_its_own_request_only(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: object) -> None:
        raise RuntimeError("gone")

    engine.generate(GenerationRequest(prompt(1), max_tokens=LONG), broken)
    (other,) = generate(engine, [GenerationRequest(prompt(2), max_tokens=20)])
    assert other.done.finish is Finish.LENGTH
    eventually(lambda: engine.capacity().running == 0)
    assert "receiver" in caplog.text


def test_a_full_queue_refuses_with_a_delay(tiny_model: Path, tmp_path: Path) -> None:
    base = BaseFiles(f"file:{tiny_model}", "sha256:tiny", "folder", tiny_model)
    small = ENGINES["transformers"](base, "fp32", EngineOptions(cache_dir=tmp_path, rows_max=2, queue_max=1))
    running = [Generation(small, GenerationRequest(prompt(seed, 5), max_tokens=LONG)) for seed in range(3)]
    with pytest.raises(Exhausted) as refused:
        Generation(small, GenerationRequest(prompt(9, 5), max_tokens=5))
    assert refused.value.reason == "QUEUE_FULL"
    assert refused.value.retry_after_seconds
    running[0].abort()
    assert running[0].done
    assert Generation(small, GenerationRequest(prompt(9, 5), max_tokens=5)).done.finish is Finish.LENGTH
    small.close()


def test_an_adapter_that_is_not_loaded_is_refused(engine: Engine) -> None:
    with pytest.raises(WrongState) as refused:
        Generation(engine, GenerationRequest(prompt(1), "four"))
    assert refused.value.reason == "ADAPTER_NOT_LOADED"


def test_adapters_come_and_go_while_others_answer(engine: Engine, adapters: dict[str, Path]) -> None:
    alone = texts(engine, [GenerationRequest(prompt(1, 10), "one", max_tokens=60)])
    running = [Generation(engine, GenerationRequest(prompt(1, 10), "one", max_tokens=60)) for _ in range(3)]
    for _ in range(5):
        engine.unload_adapter("two")
        engine.load_adapter("two", adapters["two"])
    assert {one.text for one in running} == set(alone)
    assert engine.adapters() == {"one", "two", "three"}


def test_an_adapter_in_use_is_not_unloaded(engine: Engine) -> None:
    running = Generation(engine, GenerationRequest(prompt(1, 10), "one", max_tokens=LONG))
    with pytest.raises(WrongState) as refused:
        engine.unload_adapter("one")
    assert refused.value.reason == "ADAPTER_IN_USE"
    running.abort()
    assert running.done
    engine.unload_adapter("one")
    assert engine.adapters() == {"two", "three"}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"lora_bias": True}, "ADAPTER_UNSUPPORTED"),
        ({"modules_to_save": ["lm_head"]}, "ADAPTER_UNSUPPORTED"),
        ({"bias": "all"}, "ADAPTER_UNSUPPORTED"),
    ],
)
def test_adapters_that_the_engine_would_apply_wrongly_are_refused(
    engine: Engine, tiny_model: Path, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Refusal) as refused:
        engine.load_adapter("new", make_adapter(tiny_model, tmp_path / "new", seed=1, **settings))
    assert refused.value.reason == reason
    assert "new" not in engine.adapters()


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 40}},
        {"target_modules": ["q_proj", "down_proj"]},
        {"use_dora": True},
    ],
)
def test_every_form_of_lora_is_applied_as_peft_does(
    engine: Engine, tiny_model: Path, tmp_path: Path, settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    if "use_dora" in settings and "vllm" in request.node.callspec.params.values():
        pytest.skip("vLLM has no DoRA; that it is refused is tested with the other refusals of that engine")
    folder = make_adapter(tiny_model, tmp_path / "new", seed=5, **settings)
    engine.load_adapter("new", folder)
    oracle = Oracle(tiny_model, {"new": folder})
    ids = prompt(11, 30)
    assert texts(engine, [GenerationRequest(ids, "new", 30)]) == [engine.decode(oracle.answer(ids, "new", 30))]


def test_adapters_with_numbers_that_could_reach_other_rows_are_refused(
    engine: Engine, tiny_model: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_adapter(tiny_model, tmp_path / "new", seed=1)
    weights = load_file(folder / "adapter_model.safetensors")
    for bad in (float("nan"), float("inf"), 1e30):
        name = next(iter(weights))
        weights[name][0, 0] = bad
        save_file(weights, folder / "adapter_model.safetensors")
        with pytest.raises(WrongState) as refused:
            engine.load_adapter("new", folder)
        assert refused.value.reason == "ADAPTER_CORRUPT"


def test_an_adapter_of_another_shape_is_refused(engine: Engine, tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_adapter(tiny_model, tmp_path / "new", seed=1)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: tensor[:, :-1].contiguous() for name, tensor in weights.items()}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(WrongState) as refused:
        engine.load_adapter("new", folder)
    assert refused.value.reason == "ADAPTER_UNFIT"


def test_chats_are_rendered_by_the_base_s_template(engine: Engine) -> None:
    messages = [Message(role="system", content="Be brief."), Message(role="user", content="Hallo <|im_end|>")]
    rendered = engine.render_chat(messages)
    assert rendered.endswith("<|im_start|>assistant\n")
    ids = engine.encode_chat(messages)
    assert engine.decode(ids, skip_special_tokens=False) == rendered
    end = engine.encode_text("<|im_end|>")
    assert sum(ids.count(token) for token in end) == 2


def test_closing_ends_what_runs_and_gives_the_memory_back(tiny_model: Path, tmp_path: Path) -> None:
    base = BaseFiles(f"file:{tiny_model}", "sha256:tiny", "folder", tiny_model)
    closing = ENGINES["transformers"](base, "fp32", EngineOptions(cache_dir=tmp_path))
    running = Generation(closing, GenerationRequest(prompt(1, 5), max_tokens=LONG))
    running.wait_tokens(2)
    closing.close()
    closing.close()
    assert running.done.finish is Finish.CANCELLED
    with pytest.raises(Unavailable):
        Generation(closing, GenerationRequest(prompt(1, 5)))
    with pytest.raises(Unavailable):
        closing.unload_adapter("one")
    gone = weakref.ref(closing)
    del closing, running
    gc.collect()
    assert gone() is None


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    base = BaseFiles(f"file:{tmp_path}", "sha256:none", "folder", tmp_path)
    with pytest.raises(Invalid) as refused:
        ENGINES["transformers"](base, "fp32", EngineOptions(cache_dir=tmp_path))
    assert refused.value.reason == "BASE_MODEL_UNREADABLE"


def test_an_adapters_memory_is_that_of_its_numbers(engine: Engine, adapters: dict[str, Path]) -> None:
    for name, folder in adapters.items():
        tensors = load_file(folder / "adapter_model.safetensors").values()
        assert engine.adapter_bytes(name) == pytest.approx(sum(4 * tensor.numel() for tensor in tensors), rel=0.05)
    assert engine.adapter_bytes("none") == 0


def test_what_runs_in_the_background_makes_room_at_once_and_changes_nothing(engine: Engine) -> None:
    request = GenerationRequest(engine.encode_text("hello"), max_tokens=20)
    (alone,) = texts(engine, [request])
    background = Generation(engine, GenerationRequest(request.prompt_ids, max_tokens=400, is_background=True))
    background.wait_tokens(3)
    assert texts(engine, [request]) == [alone]
    assert background.done.finish is Finish.CANCELLED
    again = Generation(engine, GenerationRequest(request.prompt_ids, max_tokens=20, is_background=True))
    assert again.text == alone
