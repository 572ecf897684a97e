"""Scores are the log-probabilities of the model itself: of the base, of every kind of version, in whatever parts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
import torch

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.records import Message, Record
from feinschliff.inference.engine import Engine, GenerationRequest
from feinschliff.inference.engines import ENGINES, EngineOptions, texts
from feinschliff.inference.scores import ScoringRequest
from feinschliff.kit.errors import Exhausted, Internal, Invalid, Refusal, Unavailable, WrongState
from feinschliff.lm.chat import Chat
from feinschliff.lm.flat import flatten
from feinschliff.lm.load import load_tokenizer
from feinschliff.lm.logprobs import score_labels
from feinschliff.lm.rows_attention import rows_apart
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.adapters import load_plain
from tests.contract.inference.generating import Generation
from tests.contract.inference.kinds import Made, with_head
from tests.contract.inference.site import PARENT, Site, refusing

NAMES = ("lora", "dora", "qlora-nf4", "ia3", "bottleneck", "prompt", "p_tuning", "prefix", "last_layers", "full")
PART = 16
TOLERANCE = 1e-4
TALK = [
    Message(role="system", content="Be short."),
    Message(role="user", content="Where is my order?"),
    Message(role="assistant", content="I can help with that."),
    Message(role="user", content="danke"),
    Message(role="assistant", content="Bitte <|im_end|> ✓ ok"),
]


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    folder = tmp_path_factory.mktemp("kinds")
    return {name: Made(tiny_model, folder / name, name, seed=seed) for seed, name in enumerate(NAMES)}


@pytest.fixture(scope="module", params=["transformers"])
def engine(request: pytest.FixtureRequest, tiny_model: Path, made: dict[str, Made]) -> Iterator[Engine]:
    loaded = load(request.param, tiny_model)
    for name, one in made.items():
        loaded.load_adapter(name, one.folder)
    yield loaded
    loaded.close()


def load(name: str, tiny_model: Path, **options: Any) -> Engine:
    base = BaseFiles(f"file:{tiny_model}", "sha256:tiny", "folder", tiny_model)
    quick = {"cache_dir": tiny_model.with_name("cache"), "rows_max": 4, "queue_max": 3, "prefill_tokens_per_step": PART}
    return ENGINES[name](base, "fp32", EngineOptions(**{**quick, **options}))


def tokens(seed: int, length: int) -> list[int]:
    chosen = random.Random(seed)
    return [chosen.randrange(3, 400) for _ in range(length)]


def expected_of(model: Any, ids: list[int], first: int = 1) -> torch.Tensor:
    """Log-softmax over everything at once, (T, V)."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    found: torch.Tensor = torch.log_softmax(logits, -1)[first - 1 : -1]
    return found


@pytest.mark.parametrize("name", ["", *NAMES])
def test_scores_equal_the_log_softmax_of_the_model_itself(
    engine: Engine, made: dict[str, Made], tiny_model: Path, name: str
) -> None:
    model = made[name].model if name else load_plain(tiny_model)
    for length, first in ((2, 1), (PART, 3), (90, 1), (90, 60)):
        ids = tokens(length, length)
        expected = expected_of(model, ids, first)
        scores = engine.score(ScoringRequest(ids, first, name, top_logprobs=5)).result(60)
        assert [one.token_id for one in scores] == ids[first:]
        labels = torch.tensor(ids[first:])[:, None]
        assert torch.tensor([one.logprob for one in scores]) == pytest.approx(
            expected.gather(1, labels)[:, 0], abs=TOLERANCE
        )
        best = expected.topk(5, -1)
        assert torch.tensor([[like.logprob for like in one.top] for one in scores]) == pytest.approx(
            best.values, abs=TOLERANCE
        )
        assert [like.token_id for like in scores[0].top] == best.indices[0].tolist()


def test_logits_are_never_held_for_more_positions_than_the_bound(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, held = tokens(5, 50), []
    whole = engine.score(ScoringRequest(ids, 9, "lora", 2)).result(60)
    scores_of = texts.scores_of

    def watched(logits_TV: torch.Tensor, labels: Any, top: int) -> Any:
        held.append(len(logits_TV))
        return scores_of(logits_TV, labels, top)

    monkeypatch.setattr(texts, "LOGITS_BYTES_MAX", 4 * 512 * 3)
    monkeypatch.setattr(texts, "scores_of", watched)
    parts = engine.score(ScoringRequest(ids, 9, "lora", 2)).result(60)
    assert set(held) <= {1, 2, 3}
    assert sum(held) == 41
    assert [one.logprob for one in parts] == pytest.approx([one.logprob for one in whole], abs=1e-5)


def test_texts_are_scored_between_the_steps_of_those_who_chat(engine: Engine) -> None:
    alone = engine.score(ScoringRequest(tokens(3, 400), 1, "dora")).result(60)
    chat = Generation(engine, GenerationRequest(tokens(1, 20), "lora", max_tokens=200))
    chat.wait_tokens(1)
    scores = engine.score(ScoringRequest(tokens(3, 400), 1, "dora"))
    assert [one.logprob for one in scores.result(60)] == pytest.approx([one.logprob for one in alone], abs=1e-5)
    assert chat.done.completion_tokens
    lonely = Generation(engine, GenerationRequest(tokens(1, 20), "lora", max_tokens=200))
    assert lonely.text == chat.text


def test_who_leaves_is_not_read_and_too_many_are_refused(engine: Engine) -> None:
    long = ScoringRequest(tokens(3, 500), 1, "full")
    scorings = [engine.score(long) for _ in range(3)]
    with pytest.raises(Exhausted) as refused:
        engine.score(long)
    assert refused.value.reason == "QUEUE_FULL"
    for scoring in scorings:
        scoring.cancel()
    after = engine.score(ScoringRequest(tokens(1, 9)))
    assert len(after.result(60)) == 8
    for scoring in scorings:
        with pytest.raises(CancelledError):
            scoring.result(60)


def test_a_version_that_is_not_there_is_refused(engine: Engine) -> None:
    with pytest.raises(WrongState) as refused:
        engine.score(ScoringRequest(tokens(1, 9), 1, "nobody"))
    assert refused.value.reason == "ADAPTER_NOT_LOADED"


@pytest.mark.parametrize("name", ["transformers"])
def test_what_is_unread_when_the_engine_closes_is_refused(tiny_model: Path, name: str) -> None:
    engine = load(name, tiny_model, queue_max=100)
    scorings = [engine.score(ScoringRequest(tokens(1, 500))) for _ in range(40)]
    engine.close()
    ended = [error for scoring in scorings if (error := scoring.exception(60))]
    assert {getattr(error, "reason", repr(error)) for error in ended} == {"ENGINE_CLOSED"}
    with pytest.raises(Unavailable):
        engine.score(ScoringRequest(tokens(1, 9)))


def test_numbers_that_are_not_finite_are_no_scores() -> None:
    with pytest.raises(Internal) as refused:
        texts.scores_of(torch.full((2, 5), float("nan")), [1, 2], 1)
    assert refused.value.reason == "GENERATION_FAILED"


async def score(site: Site, **fields: Any) -> pb.ScoreResponse:
    answer: pb.ScoreResponse = await refusing(site.chats.Score(pb.ScoreRequest(**fields), timeout=60))
    return answer


def turns(messages: list[Message]) -> list[common_pb2.Message]:
    roles = {"system": common_pb2.ROLE_SYSTEM, "user": common_pb2.ROLE_USER, "assistant": common_pb2.ROLE_ASSISTANT}
    return [
        common_pb2.Message(role=roles[one.role], parts=[common_pb2.Part(text=one.content or "")]) for one in messages
    ]


@pytest.mark.parametrize("name", ["lora", "prefix"])
async def test_a_conversation_sums_up_to_the_loss_of_its_row_in_training(
    site: Site, tiny_model: Path, made: dict[str, Made], name: str
) -> None:
    version = site.register(made[name].folder)
    await site.create(routes={"a": version})
    chat = Chat.of(load_tokenizer(tiny_model))
    (row,) = chat.encode([Record(messages=TALK)], loss_on="last_assistant_turn")
    with torch.inference_mode(), rows_apart(made[name].model):
        loss = -float(score_labels(made[name].model, flatten([row])).logprobs_N.sum())
    answer = await score(site, model=version, conversation=pb.ScoreConversation(messages=turns(TALK)))
    assert answer.total_logprob == pytest.approx(-loss, abs=TOLERANCE)
    assert answer.total_logprob == pytest.approx(sum(one.logprob for one in answer.logprobs))
    assert (answer.identity.model_version, answer.identity.adapter_digest) == (version, site.digest_of(version))
    assert answer.usage.prompt_tokens == len(row.token_ids)
    assert b"".join(one.utf8 for one in answer.logprobs).decode() == "Bitte <|im_end|> ✓ ok<|im_end|>"


async def test_a_text_is_scored_behind_its_prompt_token_by_token(site: Site, tiny_model: Path) -> None:
    await site.create()
    text = pb.ScoreText(prompt="please help", text=" with my ✓ order")
    answer = await score(site, model=site.base, text=text, top_logprobs=3)
    before = (await site.chats.Tokenize(pb.TokenizeRequest(model=site.base, text=text.prompt))).ids
    ids = [*before, *(await site.chats.Tokenize(pb.TokenizeRequest(model=site.base, text=text.text))).ids]
    expected = expected_of(load_plain(tiny_model), ids, len(before))
    assert [one.token_id for one in answer.logprobs] == ids[len(before) :]
    for place, one in enumerate(answer.logprobs):
        assert one.logprob == pytest.approx(float(expected[place, one.token_id]), abs=TOLERANCE)
        assert [like.token_id for like in one.top] == expected[place].topk(3).indices.tolist()
        assert not any(like.top for like in one.top)
    assert b"".join(one.utf8 for one in answer.logprobs).decode() == text.text
    assert {one.token for one in answer.logprobs if not one.utf8} == {"\N{REPLACEMENT CHARACTER}"}
    same = await score(site, model=site.base, tokens=pb.TokenIds(ids=ids))
    assert [one.token_id for one in same.logprobs] == ids[1:]
    tail = [one.logprob for one in same.logprobs][-len(answer.logprobs) :]
    assert tail == pytest.approx([one.logprob for one in answer.logprobs], abs=TOLERANCE)


async def test_what_cannot_be_scored_is_refused_by_its_path(
    site: Site, tiny_model: Path, tmp_path: Path, made: dict[str, Made]
) -> None:
    judge = Made(tiny_model, tmp_path / "made", "lora")
    with_head(judge, HeadFacts(kind="regress"))
    version = site.register(judge.folder)
    await site.create(routes={"a": version}, context_tokens=64)
    base = site.base

    async def refused(**fields: Any) -> tuple[type[Refusal], str, list[str]]:
        with pytest.raises(Refusal) as caught:
            await score(site, **{"model": base, **fields})
        return type(caught.value), caught.value.reason, [one.field for one in caught.value.fields]

    asked = pb.ScoreConversation(messages=turns(TALK[:-1]))
    assert await refused(conversation=asked) == (Invalid, "MESSAGES_INVALID", ["conversation.messages"])
    unknown = (Invalid, "TOKEN_ID_UNKNOWN", ["tokens.ids[1]"])
    assert await refused(tokens=pb.TokenIds(ids=[1, 512, 3])) == unknown
    assert await refused(tokens=pb.TokenIds(ids=[5])) == (Invalid, "REQUEST_INVALID", ["tokens.ids"])
    assert await refused(text=pb.ScoreText(text="x")) == (Invalid, "REQUEST_INVALID", ["text"])
    assert await refused() == (Invalid, "REQUEST_INVALID", ["text"])
    long = pb.TokenIds(ids=tokens(1, 65))
    assert await refused(tokens=long) == (Invalid, "CONTEXT_LENGTH_EXCEEDED", ["tokens.ids"])
    assert len((await score(site, model=base, tokens=pb.TokenIds(ids=tokens(1, 64)))).logprobs) == 63
    many = await refused(tokens=long, top_logprobs=21)
    assert many == (Invalid, "REQUEST_INVALID", ["top_logprobs"])
    assert (await refused(model=version, tokens=pb.TokenIds(ids=[5, 6])))[:2] == (WrongState, "NOT_A_CHAT_MODEL")


async def test_a_caller_that_leaves_gives_its_place_back(site: Site) -> None:
    await site.create()
    asked = pb.ScoreRequest(model=site.base, tokens=pb.TokenIds(ids=tokens(1, 500)))
    calls = [site.chats.Score(asked, timeout=60) for _ in range(20)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    assert len((await score(site, model=site.base, tokens=pb.TokenIds(ids=tokens(1, 30)))).logprobs) == 29


async def test_what_guards_hide_is_not_told_token_by_token(site: Site) -> None:
    guard = pb.Guard(name="out", words=pb.WordsGuard(words=["secret"]), stage=pb.Guard.STAGE_OUTPUT)
    await site.create(guards=[guard])
    text = pb.ScoreText(prompt="the", text=" river")
    assert (await score(site, model=f"{PARENT}/deployments/d", text=text)).logprobs
    with pytest.raises(Refusal) as refused:
        await score(site, model=f"{PARENT}/deployments/d", text=text, top_logprobs=3)
    assert [field.field for field in refused.value.fields] == ["top_logprobs"]
