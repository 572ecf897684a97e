"""Versions with a head judge texts as their model did in training, and never pretend to chat."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.objectives import Classify
from feinschliff.kit.errors import Internal, Invalid, Refusal, WrongState
from feinschliff.lm.chat import Chat
from feinschliff.lm.encoding import RowEncoder
from feinschliff.lm.heads import Head
from feinschliff.lm.load import load_tokenizer
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.kinds import Made, with_head
from tests.contract.inference.site import Site, refusing

CLASSES = ["billing", "delivery", "account"]
ONE_OF = HeadFacts(kind="classify", classes=CLASSES)
TEXTS = ["my invoice is wrong", "a", "where is my delivery? " * 12, "I can not cancel my account, please help"]
TOLERANCE = 1e-5


def make(tiny_model: Path, folder: Path, name: str, facts: HeadFacts) -> tuple[Made, Head]:
    made = Made(tiny_model, folder, name)
    return made, with_head(made, facts)


def scores(tiny_model: Path, made: Made, head: Head, text: str) -> torch.Tensor:
    """What the head gives behind the last token, the text read alone; (1, C)."""
    encoder = RowEncoder(Chat.of(load_tokenizer(tiny_model)), Classify(), head.facts)
    with torch.inference_mode():
        ids = torch.tensor([encoder.text_ids(text)])
        found: torch.Tensor = head(made.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, -1])
    return found


async def classify(site: Site, model: str, texts: list[str], **fields: int) -> pb.ClassifyResponse:
    request = pb.ClassifyRequest(model=model, texts=texts, **fields)
    answer: pb.ClassifyResponse = await refusing(site.chats.Classify(request, timeout=30))
    return answer


async def refused(site: Site, model: str, texts: list[str], **fields: int) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await classify(site, model, texts, **fields)
    return caught.value


@pytest.mark.parametrize("name", ["lora", "dora", "prompt", "prefix", "last_layers", "full"])
async def test_texts_get_the_probabilities_that_their_model_gave_them(
    site: Site, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    made, head = make(tiny_model, tmp_path / "made", name, ONE_OF)
    version = site.register(made.folder)
    await site.create(routes={"a": version})
    answer = await classify(site, version, TEXTS)
    assert answer.identity.adapter_digest == site.digest_of(version)
    assert answer.usage.prompt_tokens > len(TEXTS)
    assert answer.usage.completion_tokens == 0
    for text, found in zip(TEXTS, answer.classifications, strict=True):
        expected = scores(tiny_model, made, head, text).softmax(-1)[0].tolist()
        assert {one.label: one.probability for one in found.scores} == pytest.approx(
            dict(zip(CLASSES, expected, strict=True)), abs=TOLERANCE
        )
        ordered = [one.probability for one in found.scores]
        assert ordered == sorted(ordered, reverse=True)
        assert sum(ordered) == pytest.approx(1)
        assert not found.HasField("value")


async def test_the_likeliest_classes_alone_where_only_those_are_asked_for(
    site: Site, tiny_model: Path, tmp_path: Path
) -> None:
    made, _ = make(tiny_model, tmp_path / "made", "lora", ONE_OF)
    version = site.register(made.folder)
    await site.create(routes={"a": version})
    every, best = await classify(site, version, TEXTS), await classify(site, version, TEXTS, top=2)
    for all_of, some in zip(every.classifications, best.classifications, strict=True):
        assert list(some.scores) == list(all_of.scores)[:2]


async def test_where_several_classes_may_be_right_each_has_a_probability_of_its_own(
    site: Site, tiny_model: Path, tmp_path: Path
) -> None:
    facts = HeadFacts(kind="classify", classes=CLASSES, multi_label=True, as_chat=True, system="Which team?")
    made, head = make(tiny_model, tmp_path / "made", "ia3", facts)
    version = site.register(made.folder)
    await site.create(routes={"a": version})
    (found,) = (await classify(site, version, TEXTS[:1])).classifications
    expected = scores(tiny_model, made, head, TEXTS[0]).sigmoid()[0].tolist()
    assert {one.label: one.probability for one in found.scores} == pytest.approx(
        dict(zip(CLASSES, expected, strict=True)), abs=TOLERANCE
    )


async def test_a_head_for_numbers_answers_in_the_unit_of_its_rows(site: Site, tiny_model: Path, tmp_path: Path) -> None:
    made, head = make(tiny_model, tmp_path / "made", "lora", HeadFacts(kind="regress", mean=40.0, deviation=12.5))
    version = site.register(made.folder)
    await site.create(routes={"a": version})
    answer = await classify(site, version, TEXTS)
    for text, found in zip(TEXTS, answer.classifications, strict=True):
        expected = 40 + 12.5 * float(scores(tiny_model, made, head, text))
        assert found.value == pytest.approx(expected, abs=1e-3)
        assert not found.scores


async def test_many_texts_get_what_each_gets_alone(site: Site, tiny_model: Path, tmp_path: Path) -> None:
    made, _ = make(tiny_model, tmp_path / "made", "dora", ONE_OF)
    version = site.register(made.folder)
    await site.create(routes={"a": version})
    texts = [f"{'please ' * (number % 23)}help with order {number}" for number in range(150)]
    together = (await classify(site, version, texts)).classifications
    for number in (0, 22, 77, 149):
        (alone,) = (await classify(site, version, [texts[number]])).classifications
        assert [one.label for one in together[number].scores] == [one.label for one in alone.scores]
        assert [one.probability for one in together[number].scores] == pytest.approx(
            [one.probability for one in alone.scores], abs=TOLERANCE
        )


async def test_chatting_with_a_head_and_classifying_without_one_are_refused(
    site: Site, tiny_model: Path, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    made, _ = make(tiny_model, tmp_path / "made", "lora", ONE_OF)
    judge, talker = site.register(made.folder), site.register(adapters["one"], 2)
    await site.create(routes={"a": judge, "b": talker})
    refusal = await site.refused(judge)
    assert (type(refusal), refusal.reason) == (WrongState, "NOT_A_CHAT_MODEL")
    for model in (talker, site.base):
        refusal = await refused(site, model, ["hello"])
        assert (type(refusal), refusal.reason) == (WrongState, "NOT_A_CLASSIFIER")
    assert await site.chat(talker)


async def test_texts_that_cannot_be_judged_are_refused_by_their_place(
    site: Site, tiny_model: Path, tmp_path: Path
) -> None:
    made, _ = make(tiny_model, tmp_path / "made", "prompt", ONE_OF)
    version = site.register(made.folder)
    await site.create(routes={"a": version}, context_tokens=64)
    long = await refused(site, version, ["hello", "hello " * 200])
    assert (long.reason, [one.field for one in long.fields]) == ("CONTEXT_LENGTH_EXCEEDED", ["texts[1]"])
    empty = await refused(site, version, ["", "hello"])
    assert (type(empty), [one.field for one in empty.fields]) == (Invalid, ["texts[0]"])
    many = await refused(site, version, ["x"] * 2049)
    assert [one.field for one in many.fields] == ["texts"]
    wrong = await refused(site, version, ["x"], top=-1)
    assert [one.field for one in wrong.fields] == ["top"]


async def test_a_head_whose_numbers_overflow_judges_nothing(site: Site, tiny_model: Path, tmp_path: Path) -> None:
    made, head = make(tiny_model, tmp_path / "made", "lora", ONE_OF)
    Head(ONE_OF, head.weight_CH.detach().sign() * 3e38).save(made.folder)
    version = site.register(made.folder)
    await site.create(routes={"a": version})
    refusal = await refused(site, version, ["hello"])
    assert (type(refusal), refusal.reason) == (Internal, "GENERATION_FAILED")


async def test_a_head_that_does_not_fit_its_base_is_refused(site: Site, tiny_model: Path, tmp_path: Path) -> None:
    made = Made(tiny_model, tmp_path / "made", "lora")
    Head(ONE_OF, torch.zeros(3, 32)).save(made.folder)
    version = site.register(made.folder)
    await site.create(routes={"a": version}, wait=False)
    deployment = await site.wait_for("d", pb.Deployment.STATE_FAILED)
    assert deployment.failure.reason == "ADAPTER_UNFIT"
