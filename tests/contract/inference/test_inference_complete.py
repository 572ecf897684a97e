"""Texts are continued as they are: what the model says to exactly these tokens, whole and as a stream."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
from tokenizers import AddedToken, Tokenizer

from feinschliff.formats.heads import HeadFacts
from feinschliff.kit.errors import Refusal, from_rpc_error
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.adapters import Oracle
from tests.contract.inference.kinds import Made, with_head
from tests.contract.inference.site import LINGERING, PARENT, Site, open_site, refusing
from tests.support.waiting import eventually_async

TEXT = "please help with my <|im_start|> order"


def asked(model: str, **fields: Any) -> pb.CompleteRequest:
    """Greedy and 8 tokens unless said otherwise."""
    sampling = {"temperature": 0.0, "max_tokens": 8, **fields.pop("sampling", {})}
    if not {"text", "tokens"} & set(fields):
        fields["text"] = TEXT
    return pb.CompleteRequest(model=model, sampling=common_pb2.SamplingParams(**sampling), **fields)


async def complete(site: Site, model: str, **fields: Any) -> pb.CompleteResponse:
    answer: pb.CompleteResponse = await refusing(site.chats.Complete(asked(model, **fields), timeout=30))
    return answer


async def streamed(site: Site, model: str, **fields: Any) -> list[pb.CompleteStreamResponse]:
    request = pb.CompleteStreamRequest(complete=asked(model, **fields))
    try:
        return [one async for one in site.chats.CompleteStream(request, timeout=30)]
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


async def tokens(site: Site, text: str) -> list[int]:
    return list((await site.chats.Tokenize(pb.TokenizeRequest(model=site.base, text=text))).ids)


async def test_a_text_is_continued_as_the_model_continues_its_tokens(
    site: Site, adapters: dict[str, Path], oracle: Oracle
) -> None:
    version = site.register(adapters["one"])
    await site.create(routes={"a": version})
    ids = await tokens(site, TEXT)
    for model, name in ((site.base, ""), (version, "one")):
        said = pb.DetokenizeRequest(model=model, ids=oracle.answer(ids, name, 8), skip_special_tokens=True)
        expected = (await site.chats.Detokenize(said)).text
        answer = await complete(site, model)
        (choice,) = answer.choices
        assert (choice.index, choice.text) == (0, expected)
        assert choice.finish_reason == common_pb2.FINISH_REASON_LENGTH
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), 8)
        assert answer.identity.model_version == model
        same = await complete(site, model, tokens=pb.TokenIds(ids=ids))
        assert same == answer
        echoed = await complete(site, model, echo=True)
        assert echoed.choices[0].text == TEXT + expected
        assert (await complete(site, model, tokens=pb.TokenIds(ids=ids), echo=True)).choices == echoed.choices


async def test_a_stream_is_identity_then_deltas_then_end_and_equals_the_whole(site: Site) -> None:
    await site.create()
    whole = await complete(site, site.base, echo=True, sampling={"max_tokens": 20})
    events = await streamed(site, site.base, echo=True, sampling={"max_tokens": 20})
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], set(kinds[1:-1]), kinds[-1]) == ("identity", {"delta"}, "end")
    assert events[0].identity == whole.identity
    assert events[1].delta.text == TEXT
    assert "".join(event.delta.text for event in events) == whole.choices[0].text
    assert (events[-1].end.usage, events[-1].end.finish_reason) == (whole.usage, whole.choices[0].finish_reason)


async def test_draws_stop_texts_and_seeds_are_those_of_chats(site: Site) -> None:
    await site.create()
    whole = (await complete(site, site.base, sampling={"max_tokens": 30})).choices[0].text
    stop = whole[5:9]
    stopped = await complete(site, site.base, sampling={"max_tokens": 30, "stop": [stop]})
    assert stopped.choices[0].text == whole.partition(stop)[0]
    assert stopped.choices[0].finish_reason == common_pb2.FINISH_REASON_STOP
    draws = [
        (await complete(site, site.base, sampling={"temperature": 1.0, "seed": seed})).choices[0].text
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


async def test_several_are_drawn_and_the_likeliest_are_kept(site: Site) -> None:
    await site.create()
    drawing = {"temperature": 1.0, "seed": 5, "n": 5, "logprobs": True, "top_logprobs": 2}
    every = await complete(site, site.base, sampling=drawing)
    assert [one.index for one in every.choices] == list(range(5))
    assert len({one.text for one in every.choices}) == 5
    assert all(len(one.logprobs) == 8 and len(one.logprobs[0].top) == 2 for one in every.choices)
    ranked = sorted(every.choices, key=lambda one: -sum(each.logprob for each in one.logprobs))
    best = await complete(site, site.base, best_of=5, sampling={**drawing, "n": 2}, echo=True)
    assert [one.text for one in best.choices] == [TEXT + one.text for one in ranked[:2]]
    assert [list(one.logprobs) for one in best.choices] == [list(one.logprobs) for one in ranked[:2]]
    assert best.usage == every.usage
    assert best.usage.completion_tokens == 40
    quiet = await complete(site, site.base, best_of=5, sampling={"temperature": 1.0, "seed": 5})
    assert [(one.text, list(one.logprobs)) for one in quiet.choices] == [(ranked[0].text, [])]
    events = [one.delta for one in await streamed(site, site.base, sampling=drawing, echo=True)]
    for one in every.choices:
        mine = [delta for delta in events if delta.index == one.index]
        assert "".join(delta.text for delta in mine) == TEXT + one.text
        assert [each for delta in mine for each in delta.logprobs] == list(one.logprobs)
    request = pb.CompleteStreamRequest(complete=asked(site.base, best_of=2))
    with pytest.raises(grpc.RpcError) as refused:
        await site.chats.CompleteStream(request).read()
    assert [one.field for one in from_rpc_error(refused.value).fields] == ["complete.best_of"]


async def test_an_echoed_text_is_scored_too(site: Site, adapters: dict[str, Path]) -> None:
    version = site.register(adapters["one"])
    await site.create(routes={"a": version})
    ids = await tokens(site, TEXT)
    scores = await refusing(site.chats.Score(pb.ScoreRequest(model=version, tokens=pb.TokenIds(ids=ids))))
    asking = {"logprobs": True, "top_logprobs": 2}
    (told,) = (await complete(site, version, echo=True, sampling=asking)).choices
    assert [one.token_id for one in told.prompt_logprobs] == ids
    assert told.prompt_logprobs[0].logprob == 0
    found = [one.logprob for one in told.prompt_logprobs[1:]]
    assert found == pytest.approx([one.logprob for one in scores.logprobs], abs=1e-5)
    assert {len(one.top) for one in told.prompt_logprobs[1:]} == {2}
    assert b"".join(one.utf8 for one in told.prompt_logprobs).decode() == TEXT
    assert len(told.logprobs) == 8
    first = (await streamed(site, version, echo=True, sampling=asking))[1].delta
    assert (first.text, list(first.prompt_logprobs)) == (TEXT, list(told.prompt_logprobs))
    alone = await complete(site, version, tokens=pb.TokenIds(ids=ids[:1]), echo=True, sampling=asking)
    assert [one.token_id for one in alone.choices[0].prompt_logprobs] == ids[:1]
    quiet = (await complete(site, version, sampling=asking)).choices[0]
    assert not quiet.prompt_logprobs


async def test_a_continuation_may_have_a_form(site: Site) -> None:
    await site.create()
    form = common_pb2.ResponseFormat(json_object=common_pb2.ResponseFormat.JsonObject())
    answer = await complete(site, site.base, sampling={"response_format": form, "max_tokens": 200, "stop": []})
    assert answer.choices[0].text.lstrip().startswith("{")


async def test_what_cannot_be_continued_is_refused_by_its_path(site: Site, tiny_model: Path, tmp_path: Path) -> None:
    judge = Made(tiny_model, tmp_path / "made", "lora")
    with_head(judge, HeadFacts(kind="regress"))
    version = site.register(judge.folder)
    await site.create(routes={"a": version}, context_tokens=64)

    async def refused(**fields: Any) -> tuple[str, list[str]]:
        """The same for the whole and for the stream, whose paths are below `complete`."""
        model = fields.pop("model", site.base)
        with pytest.raises(Refusal) as whole:
            await complete(site, model, **fields)
        with pytest.raises(Refusal) as in_stream:
            await streamed(site, model, **fields)
        paths = [one.field for one in whole.value.fields]
        assert in_stream.value.reason == whole.value.reason
        assert [one.field.removeprefix("complete.") for one in in_stream.value.fields] == paths
        return whole.value.reason, paths

    assert await refused(store=True, suffix="end") == ("FIELD_UNSERVED", ["store"])
    assert await refused(user="u" * 65) == ("REQUEST_INVALID", ["user"])
    assert await refused(project="default") == ("NAME_MALFORMED", ["project"])
    unfit = await refused(echo=True, suffix="end", sampling={"logprobs": True})
    assert unfit == ("REQUEST_INVALID", ["echo"])
    assert await refused(best_of=21) == ("REQUEST_INVALID", ["best_of"])
    assert await refused(best_of=2, sampling={"n": 3}) == ("REQUEST_INVALID", ["best_of"])
    assert await refused(sampling={"n": 129}) == ("REQUEST_INVALID", ["sampling.n"])
    assert await refused(sampling={"top_logprobs": 2}) == ("REQUEST_INVALID", ["sampling.top_logprobs"])
    assert await refused(sampling={"logit_bias": {600: 1}}) == ("REQUEST_INVALID", ["sampling.logit_bias[600]"])
    assert await refused(sampling={"temperature": 3}) == ("REQUEST_INVALID", ["sampling.temperature"])
    assert await refused(suffix="the end") == ("INFILL_UNSUPPORTED", [])
    assert await refused(text="") == ("REQUEST_INVALID", ["text"])
    assert await refused(tokens=pb.TokenIds()) == ("REQUEST_INVALID", ["tokens.ids"])
    assert await refused(tokens=pb.TokenIds(ids=[3, -1])) == ("TOKEN_ID_UNKNOWN", ["tokens.ids[1]"])
    assert await refused(text="help " * 64) == ("CONTEXT_LENGTH_EXCEEDED", ["text"])
    assert await refused(tokens=pb.TokenIds(ids=[5] * 64)) == ("CONTEXT_LENGTH_EXCEEDED", ["tokens.ids"])
    assert await refused(sampling={"max_tokens": 64}) == ("CONTEXT_LENGTH_EXCEEDED", ["sampling.max_tokens"])
    assert await refused(model=version) == ("NOT_A_CHAT_MODEL", [])
    with pytest.raises(Refusal) as empty:
        await refusing(site.chats.Complete(pb.CompleteRequest(model=site.base)))
    assert [one.field for one in empty.value.fields] == ["text"]
    one = await complete(site, site.base, tokens=pb.TokenIds(ids=[5] * 63), best_of=1, sampling={"max_tokens": 1})
    assert one.usage.completion_tokens == 1


async def test_who_leaves_a_stream_frees_the_place(site: Site) -> None:
    await site.create()
    request = pb.CompleteStreamRequest(complete=asked(site.base, sampling=LINGERING))
    call = site.chats.CompleteStream(request)
    await call.read()
    await call.read()
    call.cancel()

    async def nothing_runs() -> bool:
        state = await site.deployments.GetReplicaState(pb.GetReplicaStateRequest(name=f"{PARENT}/deployments/d"))
        return state.replicas[0].running_calls == 0 and site.metric("requests_in_flight") == 0

    await eventually_async(nothing_runs, 10, "the place to be free")


async def test_a_model_that_knows_gaps_fills_them(tmp_path: Path, tiny_model: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    marks = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in marks])
    tokenizer.save(str(base / "tokenizer.json"))
    async with open_site(tmp_path, base) as site:
        await site.create()
        filled = await complete(site, site.base, text="hello ", suffix=" thanks", echo=True)
        written = "<fim_prefix>hello <fim_suffix> thanks<fim_middle>"
        expected = await complete(site, site.base, text=written)
    assert filled.choices[0].text == f"hello {expected.choices[0].text}"
    assert filled.usage == expected.usage
