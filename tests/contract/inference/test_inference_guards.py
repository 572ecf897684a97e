"""Guards over real gRPC: what a deployment with guards lets in and out, and texts checked alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from feinschliff.formats.heads import HeadFacts
from feinschliff.kit.errors import Invalid, NotFound, Refusal, Unavailable, Unserved
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.kinds import Made, with_head
from tests.contract.inference.site import PARENT, Site, chat_request, refusing, text_of
from tests.contract.inference.test_inference_chat import streamed

FILTERED = common_pb2.FINISH_REASON_CONTENT_FILTER
MASK, LOG, BLOCK = pb.Guard.ACTION_MASK, pb.Guard.ACTION_LOG, pb.Guard.ACTION_BLOCK
IN, OUT = pb.Guard.STAGE_INPUT, pb.Guard.STAGE_OUTPUT
MAIL = pb.PersonalDataGuard(kinds=["email"])
TOKENS = 40


def named(name: str) -> str:
    return f"{PARENT}/deployments/{name}"


async def refused(call: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await refusing(call)
    return caught.value


async def guarded(site: Site, name: str, *guards: pb.Guard) -> str:
    await site.create(name, guards=guards)
    return named(name)


async def test_what_goes_in_is_blocked_masked_or_noted(site: Site) -> None:
    plain = await guarded(site, "plain")
    block = await guarded(site, "block", pb.Guard(name="mail", personal_data=MAIL, may_be_skipped=True))
    mask = await guarded(site, "mask", pb.Guard(name="mail", personal_data=MAIL, action=MASK, stage=IN))
    note = await guarded(site, "note", pb.Guard(name="mail", personal_data=MAIL, action=LOG))
    said = "I am jane@example.com"

    refusal = await refused(site.chat(block, said))
    assert (type(refusal), refusal.reason) == (Invalid, "GUARD_BLOCKED")
    assert refusal.metadata == {"guard": "mail", "kind": "personal_data", "rule": "email"}
    assert [field.field for field in refusal.fields] == ["messages[0]"]
    assert "jane" not in refusal.message
    with pytest.raises(Invalid, match="mail"):
        await streamed(site, chat_request(block, said))
    skipping = chat_request(block, said)
    skipping.skip_guards = True
    skipped = await refusing(site.chats.Chat(skipping, timeout=30))
    assert not skipped.guards

    masked = await site.chat(mask, said)
    expected = await site.chat(plain, "I am [EMAIL]")
    assert (text_of(masked), masked.usage) == (text_of(expected), expected.usage)
    assert not expected.guards
    (result,) = masked.guards
    assert (result.guard, result.triggered, result.action, dict(result.scores)) == ("mail", True, MASK, {"email": 1.0})

    noted = await site.chat(note, said)
    assert text_of(noted) == text_of(await site.chat(plain, said))
    assert [one.triggered for one in noted.guards] == [True]
    assert not (await site.chat(note, "I am Jane")).guards[0].triggered
    hits = {"kind": "personal_data", "stage": "input"}
    assert site.metric("guard_hits_total", action="block", **hits) == 2
    assert site.metric("guard_hits_total", action="mask", **hits) == 1
    assert site.metric("guard_hits_total", action="log", **hits) == 1


async def test_what_comes_out_is_ended_or_masked_and_the_same_as_a_stream(site: Site) -> None:
    plain = await guarded(site, "plain")
    whole = text_of(await site.chat(plain, max_tokens=TOKENS))
    place = len(whole) // 2
    piece = whole[place : place + 5]
    place = whole.index(piece)
    pattern = pb.PatternGuard(patterns=[re.sub(r"(?s)(\W)", r"\\\1", piece).replace("\\\n", "\\n")])
    block = await guarded(site, "block", pb.Guard(name="words", pattern=pattern, stage=OUT))
    mask = await guarded(site, "mask", pb.Guard(name="words", pattern=pattern, action=MASK, stage=OUT))
    for model, text, finish in (
        (block, whole[:place], FILTERED),
        (mask, whole.replace(piece, "[MASKED]"), common_pb2.FINISH_REASON_LENGTH),
    ):
        answer = await site.chat(model, max_tokens=TOKENS)
        assert (text_of(answer), answer.finish_reason) == (text, finish)
        assert answer.guards[0].triggered
        events = await streamed(site, chat_request(model, max_tokens=TOKENS))
        assert "".join(event.delta.text for event in events) == text
        end = events[-1].end
        assert (end.finish_reason, list(end.guards), end.usage) == (finish, list(answer.guards), answer.usage)
        deltas = [event for event in events[1:-1] if event.delta.text]
        assert len(deltas) > 1
    assert (await site.chat(block, max_tokens=TOKENS)).usage.completion_tokens < TOKENS


async def test_guards_of_a_deployment_are_checked_kept_and_changed(site: Site) -> None:
    wrong = [
        pb.Guard(name="a", pattern=pb.PatternGuard(patterns=["fine", "(?=a)", "a*"])),
        pb.Guard(name="a", personal_data=pb.PersonalDataGuard(kinds=["email", "shoe"])),
        pb.Guard(name="b", secrets=pb.SecretsGuard(kinds=["x"]), action=LOG),
        pb.Guard(name="c", injection=pb.InjectionGuard(sets=["x"])),
        pb.Guard(name="d", words=pb.WordsGuard()),
        pb.Guard(name="e", words=pb.WordsGuard(words=["*"], lists=["x"])),
        pb.Guard(name="f", topics=pb.TopicGuard(allow=[pb.Topic(name="T", words=["a"])]), action=MASK),
        pb.Guard(name="g", size=pb.SizeGuard(characters_max=-1)),
        pb.Guard(name="h", model=pb.ModelGuard(model="projects/other/models/m@a", labels=["x"], threshold=2)),
    ]
    refusal = await refused(site.create(guards=wrong))
    assert refusal.reason == "DEPLOYMENT_INVALID"
    assert {field.field.removeprefix("deployment.guards") for field in refusal.fields} == {
        *("[0].pattern.patterns[1]", "[0].pattern.patterns[2]", "[1].name", "[1].personal_data.kinds[1]"),
        *(
            "[2].secrets.kinds[0]",
            "[3].injection.sets[0]",
            "[4].words.words",
            "[5].words.words[0]",
            "[5].words.lists[0]",
        ),
        *("[6].topics.allow[0].name", "[6].topics.allow", "[7].size.characters_max"),
        *("[8].model.model", "[8].model.threshold"),
    }
    assert (await refused(site.create(guards=[pb.Guard(name="a")]))).fields[0].field == "deployment.guards[0]"
    names = pb.Guard(name="n", personal_data=pb.PersonalDataGuard(kinds=["email", "person"]))
    unserved = await refused(site.create(guards=[names]))
    assert (type(unserved), unserved.reason) == (Unserved, "FIELD_UNSERVED")
    assert unserved.fields[0].field == "deployment.guards[0].personal_data.kinds[1]"

    kept = [
        pb.Guard(name="a", pattern=pb.PatternGuard(patterns=["x+"]), action=LOG, stage=IN, may_be_skipped=True),
        pb.Guard(name="b", personal_data=MAIL, action=MASK, stage=OUT),
        pb.Guard(name="c", secrets=pb.SecretsGuard(), action=BLOCK, stage=pb.Guard.STAGE_BOTH),
        pb.Guard(name="d", injection=pb.InjectionGuard(sets=["jailbreak"]), action=LOG, stage=IN),
        pb.Guard(name="e", words=pb.WordsGuard(words=["x"], lists=["hate"]), action=LOG, stage=OUT),
        pb.Guard(
            name="f",
            topics=pb.TopicGuard(deny=[pb.Topic(name="pets", words=["cat"])], allow=[pb.Topic(name="t", words=["a"])]),
            action=LOG,
            stage=IN,
        ),
        pb.Guard(name="g", size=pb.SizeGuard(characters_max=9), action=MASK, stage=OUT),
        pb.Guard(name="h", model=pb.ModelGuard(model="pypi:x", labels=["x"], threshold=0.25), action=LOG, stage=OUT),
    ]
    assert list((await site.create(guards=kept)).guards) == kept
    request = pb.UpdateDeploymentRequest(deployment=pb.Deployment(name=named("d"), guards=kept[:1]))
    request.update_mask.paths.append("guards")
    assert list((await site.deployments.UpdateDeployment(request)).guards) == kept[:1]
    assert not (await site.chat(named("d"), "xxx")).guards[0].text


async def test_texts_alone(site: Site) -> None:
    guards = [
        pb.Guard(name="mail", personal_data=MAIL, action=MASK, stage=OUT),
        pb.Guard(name="insults", words=pb.WordsGuard(lists=["harassment"])),
    ]
    await site.create(guards=guards)
    texts = ["You idiot, write to a@b.com", "hello"]
    for fields in ({"deployment": named("d")}, {"guards": guards}):
        first, second = (await site.chats.CheckText(pb.CheckTextRequest(texts=texts, **fields))).results
        assert (first.flagged, second.flagged) == (True, False)
        assert [(one.guard, one.triggered, one.text) for one in first.guards] == [
            ("mail", True, "You idiot, write to [EMAIL]"),
            ("insults", True, ""),
        ]
        assert dict(first.guards[1].scores) == {"harassment": 1.0}
        assert not any(one.triggered for one in second.guards)
    for request, reason, field in (
        (pb.CheckTextRequest(texts=texts), "REQUEST_INVALID", "guards"),
        (pb.CheckTextRequest(texts=texts, guards=guards, deployment=named("d")), "REQUEST_INVALID", "guards"),
        (pb.CheckTextRequest(texts=["x"] * 2049, guards=guards), "REQUEST_INVALID", "texts"),
        (
            pb.CheckTextRequest(texts=texts, guards=[pb.Guard(name="a", size=pb.SizeGuard(characters_max=-1))]),
            "REQUEST_INVALID",
            "guards[0].size.characters_max",
        ),
    ):
        refusal = await refused(site.chats.CheckText(request))
        assert (refusal.reason, refusal.fields[0].field) == (reason, field)
    unknown = await refused(site.chats.CheckText(pb.CheckTextRequest(texts=texts, deployment=named("x"))))
    assert (type(unknown), unknown.reason) == (NotFound, "DEPLOYMENT_NOT_FOUND")


async def test_a_model_with_a_head_and_a_model_that_chats_judge(site: Site, tiny_model: Path, tmp_path: Path) -> None:
    made = Made(tiny_model, tmp_path / "made", "lora")
    with_head(made, HeadFacts(kind="classify", classes=["fine", "bad"]))
    version = site.register(made.folder)
    await site.create("judge", routes={"a": version})

    def judged(
        label: str, threshold: float, action: pb.Guard.Action.ValueType = BLOCK, model: str = version
    ) -> pb.Guard:
        return pb.Guard(
            name="judge", model=pb.ModelGuard(model=model, labels=[label], threshold=threshold), action=action
        )

    probability = (await site.chats.Classify(pb.ClassifyRequest(model=version, texts=["hello"]))).classifications[0]
    expected = {one.label: one.probability for one in probability.scores}["bad"]
    request = pb.CheckTextRequest(texts=["hello"], guards=[judged("bad", max(0.0, expected - 0.01))])
    (result,) = (await site.chats.CheckText(request)).results
    assert (result.flagged, dict(result.guards[0].scores)) == (True, pytest.approx({"bad": expected}, abs=1e-5))
    under = pb.CheckTextRequest(texts=["hello"], guards=[judged("fine", min(1.0, 1.01 - expected))])
    assert not (await site.chats.CheckText(under)).results[0].flagged

    verdict = text_of(await site.chat(site.base, "hello", max_tokens=32)).strip()
    strict = await guarded(site, "strict", judged("bad", 0.0))
    assert (await refused(site.chat(strict))).metadata["rule"] == "bad"
    output = judged("bad", 0.0)
    output.stage = OUT
    held = await guarded(site, "held", output)
    answer = await site.chat(held)
    assert (text_of(answer), answer.finish_reason) == ("", FILTERED)
    events = await streamed(site, chat_request(held))
    assert [event.WhichOneof("event") for event in events] == ["identity", "end"]

    says = pb.CheckTextRequest(texts=["hello"], guards=[judged(verdict, 0.5, model=site.base)])
    assert (await site.chats.CheckText(says)).results[0].flagged
    never = pb.CheckTextRequest(texts=["hello"], guards=[judged("qqqqq", 0.5, model=site.base)])
    assert not (await site.chats.CheckText(never)).results[0].flagged

    for guard, cause in (
        (judged("ugly", 0.5), "GUARD_LABEL_UNKNOWN"),
        (judged("x", 0.5, model="pypi:no"), "MODEL_NOT_LOADED"),
    ):
        down = await refused(site.chats.CheckText(pb.CheckTextRequest(texts=["hello"], guards=[guard])))
        assert (type(down), down.reason, down.metadata["cause"]) == (Unavailable, "GUARD_UNAVAILABLE", cause)
        assert down.retry_after_seconds
    notes = await guarded(site, "notes", judged("x", 0.5, LOG, model="pypi:no"))
    assert text_of(await site.chat(notes))
    assert site.metric("guard_failures_total", action="log") == 2
