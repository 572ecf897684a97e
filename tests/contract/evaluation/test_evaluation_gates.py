"""Gates: lanes measured by runs and probes, a verdict that survives its process, and refusals that say why."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from feinschliff.kit import names
from feinschliff.kit.metrics import Metrics
from feinschliff.registry.protection import VerdictSeen
from feinschliff.registry.settings import RegistrySettings
from feinschliff.registry.verdicts import verdicts_of
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import evaluation_pb2_grpc, inference_pb2
from tests.contract.evaluation.conftest import PARENT, Room, Settings, exact
from tests.contract.evaluation.gate_peers import BASE, CANDIDATE, OLDER, PRODUCTION, STAGING, GatePeers, people
from tests.contract.evaluation.peers import VERSION, Reply, number_of, right_answer
from tests.contract.evaluation.test_evaluation_api import refusal_of
from tests.support.ports import free_port
from tests.support.processes import room_process
from tests.support.waiting import eventually_async

FINAL = (pb.Verdict.STATE_PASSED, pb.Verdict.STATE_REFUSED, pb.Verdict.STATE_FAILED)
ROWS = 24


def wrong_for(model: str, rows: int) -> Callable[[inference_pb2.ChatRequest], str]:
    """This model errs on the first so many rows."""

    def reply(request: inference_pb2.ChatRequest) -> str:
        return "nonsense" if request.model == model and number_of(request) < rows else right_answer(request)

    return reply


def slowly(reply: Reply) -> Reply:
    """As a model answers: what came before is stored meanwhile."""

    def answer(request: inference_pb2.ChatRequest) -> str:
        time.sleep(0.05)
        return reply(request)

    return answer


@pytest.fixture
def peers() -> Iterator[GatePeers]:
    """24 rows; the candidate is always right, its base in half of them."""
    peers = GatePeers()
    peers.ingestion.versions[VERSION] = {"train": people(ROWS)}
    peers.inference.reply = wrong_for(BASE, ROWS // 2)
    peers.start()
    yield peers
    peers.stop()


@pytest.fixture
async def room(settings: Settings, peers: GatePeers) -> AsyncIterator[Room]:
    room = Room(settings(registry_address=f"127.0.0.1:{peers.registry_port}"))
    await room.start()
    yield room
    await room.close()


def rule(eval_: pb.Eval | str, rule_id: str = "gain", **demand: object) -> pb.GateRule:
    name = eval_ if isinstance(eval_, str) else eval_.name
    return pb.GateRule(id=rule_id, eval=name, **(demand or {"gain": pb.GainDemand()}))  # type: ignore[arg-type]


async def gate(room: Room, *rules: pb.GateRule, gate_id: str = "") -> pb.GatePolicy:
    wanted = pb.GatePolicy(rules=rules)
    request = pb.CreateGatePolicyRequest(parent=PARENT, gate_policy_id=gate_id, gate_policy=wanted)
    return await room.stub.CreateGatePolicy(request)


async def begin(room: Room, policy: pb.GatePolicy, candidate: str = CANDIDATE, **fields: object) -> pb.Verdict:
    request = pb.EvaluateGateRequest(gate_policy=policy.name, candidate=candidate, **fields)  # type: ignore[arg-type]
    return await room.stub.EvaluateGate(request)


async def given(room: Room, name: str) -> pb.Verdict:
    """The verdict once it is over."""

    async def look() -> pb.Verdict | None:
        seen = await room.stub.GetVerdict(pb.GetVerdictRequest(name=name))
        return seen if seen.state in FINAL else None

    ended = await eventually_async(look, 30, f"the end of {name}")
    assert ended is not None
    return ended


def lanes(eval_: pb.Eval) -> list[pb.GateRule]:
    terms = pb.TermSwapTest(pairs=[pb.TermPair(first="he", second="she")])
    gap = pb.GroupGapTest(group_path="item.region")
    pairs = pb.MinimalPairTest()
    return [
        rule(eval_, "gain", gain=pb.GainDemand(difference_min=0.1)),
        rule(eval_, "probes", no_loss=pb.NoLossDemand()),
        rule(eval_, "safety", floor=pb.FloorDemand(mean_min=0.8, by_interval=True)),
        rule(eval_, "cost", bound=pb.BoundDemand(latency_p95_seconds_max=0.5, tokens_ratio_max=1.1)),
        rule(eval_, "groups", bias=pb.BiasDemand(group_gap=gap, effect_max=0.5)),
        rule(eval_, "swaps", bias=pb.BiasDemand(term_swaps=terms, effect_max=0.2)),
        rule(eval_, "pairs", bias=pb.BiasDemand(minimal_pairs=pairs, effect_max=0.3)),
    ]


async def test_a_candidate_that_holds_in_every_lane_passes_with_the_evidence(room: Room, peers: GatePeers) -> None:
    policy = await gate(room, *lanes(await room.eval()))
    begun = await begin(room, policy)
    assert (begun.state, begun.baseline, begun.progress.total) == (pb.Verdict.STATE_RUNNING, BASE, 4 * ROWS)
    watched = [one async for one in room.stub.WatchVerdict(pb.WatchVerdictRequest(name=begun.name))]
    passed = watched[-1].verdict
    assert passed.state == pb.Verdict.STATE_PASSED, [outcome.why for outcome in passed.outcomes]
    assert [one.cursor for one in watched] == sorted({one.cursor for one in watched})
    assert passed.progress.done == passed.progress.total
    assert passed.policy.rules == policy.rules
    by_id = {outcome.rule_id: outcome for outcome in passed.outcomes}
    assert [*by_id] == [one.id for one in policy.rules]
    gain = by_id["gain"]
    assert (gain.comparison.wins, gain.comparison.losses, gain.comparison.n) == (ROWS // 2, 0, ROWS)
    assert gain.comparison.verdict == pb.RunComparison.VERDICT_BETTER
    assert (gain.baseline_run, by_id["probes"].candidate_run) == (by_id["probes"].baseline_run, gain.candidate_run)
    assert by_id["safety"].result.mean == 1.0
    assert not by_id["safety"].HasField("comparison")
    groups = by_id["groups"].bias
    assert (groups.effect, {one.group: one.n for one in groups.groups}) == (0.0, {"north": 12, "south": 12})
    assert (by_id["swaps"].bias.n, by_id["swaps"].bias.effect) == (ROWS, 0.0)
    assert (by_id["pairs"].bias.n, by_id["pairs"].bias.effect) == (ROWS, 0.0)
    assert "1 (at most 1.1)" in by_id["cost"].why
    swapped = [one for one in peers.inference.requests if "She writes" in one.messages[-1].parts[0].text]
    assert len(swapped) == ROWS
    assert peers.inference.asked_of(BASE) == ROWS
    assert peers.inference.projects == {PARENT}


async def test_an_eval_with_a_stored_prompt_and_several_answers_per_row_decides_as_its_runs_do(
    room: Room, peers: GatePeers
) -> None:
    text = "Which? {{ item.prompt[1].content }}"
    prompt = pb.Prompt(messages=[pb.TemplateMessage(role=common.ROLE_USER, text=text)])
    stored = await room.stub.CreatePrompt(pb.CreatePromptRequest(parent=PARENT, prompt_id="route", prompt=prompt))
    sampling = common.SamplingParams(temperature=0.5, n=2, seed=7)
    eval_ = await room.eval(prompt=pb.PromptTemplate(prompt=stored.name), sampling=sampling)
    swaps = pb.TermSwapTest(pairs=[pb.TermPair(first="he", second="she")])
    policy = await gate(room, rule(eval_), rule(eval_, "swaps", bias=pb.BiasDemand(term_swaps=swaps, effect_max=0.2)))
    begun = await begin(room, policy)
    assert begun.progress.total == (2 + 2 + 1) * ROWS
    passed = await given(room, begun.name)
    assert passed.state == pb.Verdict.STATE_PASSED, [outcome.why for outcome in passed.outcomes]
    assert passed.progress.done == passed.progress.total
    assert (passed.outcomes[0].comparison.n, passed.outcomes[1].bias.n) == (ROWS, ROWS)
    asked = [one.messages[-1].parts[0].text.split(":")[0] for one in peers.inference.requests]
    assert {one: asked.count(one) for one in asked} == {"Which? He writes": 4 * ROWS, "Which? She writes": ROWS}


async def test_each_lane_refuses_by_itself_and_says_by_which_numbers(room: Room, peers: GatePeers) -> None:
    policy = await gate(room, *lanes(await room.eval()))
    is_hers = "She"

    def unfair(request: inference_pb2.ChatRequest) -> str:
        text, k = request.messages[-1].parts[0].text, number_of(request)
        wrong = request.model == CANDIDATE and (is_hers in text or k % 2 == 1)
        return "nonsense" if wrong else right_answer(request)

    peers.inference.reply = unfair
    peers.inference.likelihood = lambda text: float("stereotype" in text)
    refused = await given(room, (await begin(room, policy)).name)
    assert refused.state == pb.Verdict.STATE_REFUSED
    holds = {outcome.rule_id: outcome.holds for outcome in refused.outcomes}
    assert holds == {**dict.fromkeys(holds, False), "cost": True}
    by_id = {outcome.rule_id: outcome for outcome in refused.outcomes}
    assert by_id["probes"].comparison.verdict == pb.RunComparison.VERDICT_WORSE
    assert by_id["groups"].bias.effect == 1.0
    assert by_id["swaps"].bias.effect == 0.5
    assert by_id["pairs"].bias.effect == 0.5
    assert "effect 0.5000" in by_id["pairs"].why
    request = pb.ListVerdictsRequest(parent=f"{PARENT}/gatePolicies/-", filter="state = STATE_REFUSED")
    assert [one.name for one in (await room.stub.ListVerdicts(request)).verdicts] == [refused.name]


@pytest.mark.parametrize("failpoint", ["evaluation.after_item=kill@20", "evaluation.after_probe=kill@7"])
async def test_a_verdict_goes_on_where_its_process_was_killed_and_asks_nothing_twice(
    room: Room, peers: GatePeers, tmp_path: Path, failpoint: str
) -> None:
    eval_ = await room.eval()
    pairs = rule(eval_, "pairs", bias=pb.BiasDemand(minimal_pairs=pb.MinimalPairTest(), effect_max=0.3))
    policy = await gate(room, rule(eval_), pairs)
    peers.inference.reply = slowly(peers.inference.reply)
    await room.stop()
    settings = room.settings.model_copy(update={"evaluation_port": free_port(), "evaluation_lease_seconds": 0.5})
    values = settings.model_dump(mode="json", exclude_defaults=True)
    environment = {f"FEINSCHLIFF_{name.upper()}": str(value) for name, value in values.items()}
    environment["FEINSCHLIFF_FAILPOINTS"] = failpoint
    killed = room_process("evaluation", settings.evaluation_port, environment, tmp_path, is_forked=True)
    try:
        killed.start_and_wait()
        async with grpc.aio.insecure_channel(killed.address) as channel:
            stub = evaluation_pb2_grpc.EvaluationServiceStub(channel)
            request = pb.EvaluateGateRequest(gate_policy=policy.name, candidate=CANDIDATE)
            begun = await stub.EvaluateGate(request)
        assert killed.running is not None
        assert await asyncio.to_thread(killed.running.wait, 60) == -signal.SIGKILL
    finally:
        killed.close()
    await room.start()
    passed = await given(room, begun.name)
    assert passed.state == pb.Verdict.STATE_PASSED
    assert passed.outcomes[1].bias.n == ROWS
    assert passed.outcomes[0].comparison.n == ROWS
    assert len(peers.inference.requests) < 2 * ROWS + 18  # only what was on its way as it died is asked again
    assert len(peers.inference.scored) <= 2 * ROWS + 8
    runs = await room.stub.ListEvalRuns(pb.ListEvalRunsRequest(parent=eval_.name))
    assert runs.total_size == 2


async def test_answers_of_another_model_are_no_evidence(room: Room, peers: GatePeers) -> None:
    policy = await gate(room, rule(await room.eval()))
    peers.inference.impostor = "projects/default/models/router/versions/2"
    failed = await given(room, (await begin(room, policy)).name)
    assert (failed.state, failed.failure.reason) == (pb.Verdict.STATE_FAILED, "GATE_MODEL_MISMATCH")
    assert not failed.outcomes


TERMS = pb.TermSwapTest(pairs=[pb.TermPair(first="he", second="she")])


@pytest.mark.parametrize("test", [{"term_swaps": TERMS}, {"minimal_pairs": pb.MinimalPairTest()}])
async def test_probes_that_another_model_answered_are_no_evidence(
    room: Room, peers: GatePeers, test: dict[str, pb.TermSwapTest | pb.MinimalPairTest]
) -> None:
    bias = pb.BiasDemand(effect_max=0.9, **test)  # type: ignore[arg-type]
    policy = await gate(room, rule(await room.eval(), "bias", bias=bias))
    peers.inference.impostor_of_probes = "projects/default/models/router/versions/2"
    failed = await given(room, (await begin(room, policy)).name)
    assert (failed.state, failed.failure.reason) == (pb.Verdict.STATE_FAILED, "GATE_MODEL_MISMATCH")


@pytest.mark.parametrize("planted", [pb.EvalRun(model=CANDIDATE, limit=12), pb.EvalRun(model=BASE)])
async def test_a_run_that_somebody_else_made_under_the_name_is_no_evidence(
    room: Room, monkeypatch: pytest.MonkeyPatch, planted: pb.EvalRun
) -> None:
    new_id = names.new_id
    await room.stop()
    monkeypatch.setattr(names, "new_id", lambda prefix: "verdict-1" if prefix == "verdict-" else new_id(prefix))
    await room.start()
    eval_ = await room.eval()
    policy = await gate(room, rule(eval_, "floor", floor=pb.FloorDemand(mean_min=0.1)))
    request = pb.CreateEvalRunRequest(parent=eval_.name, eval_run_id="verdict-1-candidate", eval_run=planted)
    await room.over((await room.stub.CreateEvalRun(request)).name)
    failed = await given(room, (await begin(room, policy)).name)
    assert (failed.state, failed.failure.reason) == (pb.Verdict.STATE_FAILED, "GATE_RUN_FOREIGN")


async def test_a_gate_is_made_changed_listed_and_removed_and_holds_its_eval(room: Room) -> None:
    eval_ = await room.eval()
    policy = await gate(room, rule(eval_), gate_id="release")
    again = await gate(room, rule(eval_), gate_id="other")
    assert policy.name == f"{PARENT}/gatePolicies/release"
    assert policy.rules[0].gain.level == 0.95
    assert await room.stub.GetGatePolicy(pb.GetGatePolicyRequest(name=policy.name)) == policy
    listed = await room.stub.ListGatePolicies(pb.ListGatePoliciesRequest(parent=PARENT, order_by="display_name"))
    assert [one.display_name for one in listed.gate_policies] == ["other", "release"]
    refusal = await refusal_of(room.stub.DeleteEval(pb.DeleteEvalRequest(name=eval_.name)))
    assert refusal.reason == "EVAL_IN_USE"

    patch = pb.GatePolicy(name=policy.name, rules=[rule(eval_, "floor", floor=pb.FloorDemand(mean_min=0.5))])
    request = pb.UpdateGatePolicyRequest(gate_policy=patch)
    request.update_mask.paths.append("rules")
    changed = await room.stub.UpdateGatePolicy(request)
    assert [one.id for one in changed.rules] == ["floor"]
    request.gate_policy.etag = policy.etag
    assert (await refusal_of(room.stub.UpdateGatePolicy(request))).reason == "ROW_CHANGED"
    for name in (policy.name, again.name):
        await room.stub.DeleteGatePolicy(pb.DeleteGatePolicyRequest(name=name))
    assert (
        await refusal_of(room.stub.GetGatePolicy(pb.GetGatePolicyRequest(name=policy.name)))
    ).code.name == "NOT_FOUND"
    await room.stub.DeleteEval(pb.DeleteEvalRequest(name=eval_.name))


async def test_a_verdict_counts_for_a_release_while_its_gate_demands_the_same(room: Room) -> None:
    assert room.running is not None
    settings = RegistrySettings(evaluation_address=f"127.0.0.1:{room.running.ports['evaluation']}")
    seen = verdicts_of(settings, Metrics("registry"))
    policy = await gate(room, rule(await room.eval(), "floor", floor=pb.FloorDemand(mean_min=0.0)))
    name = (await given(room, (await begin(room, policy)).name)).name
    assert await asyncio.to_thread(seen, name) == VerdictSeen("passed", CANDIDATE, is_current=True, baseline=BASE)
    patch = pb.GatePolicy(name=policy.name, labels={"team": "a"})
    request = pb.UpdateGatePolicyRequest(gate_policy=patch, update_mask=FieldMask(paths=["labels"]))
    await room.stub.UpdateGatePolicy(request)
    assert (await asyncio.to_thread(seen, name)).is_current
    request.gate_policy.rules.append(rule(policy.rules[0].eval, "floor", floor=pb.FloorDemand(mean_min=0.9)))
    request.update_mask.paths[:] = ["rules"]
    await room.stub.UpdateGatePolicy(request)
    assert not (await asyncio.to_thread(seen, name)).is_current
    await room.stub.DeleteGatePolicy(pb.DeleteGatePolicyRequest(name=policy.name))
    assert await asyncio.to_thread(seen, name) == VerdictSeen("passed", CANDIDATE, is_current=False, baseline=BASE)


@pytest.mark.parametrize(
    ("evaluate", "reason"),
    [
        ({"candidate": "projects/default/models/router/versions/9"}, "MODEL_VERSION_NOT_FOUND"),
        ({"candidate": "projects/other/models/router/versions/1"}, "GATE_CANDIDATE_FOREIGN"),
        ({"candidate": "router"}, "NAME_MALFORMED"),
        ({"baseline": CANDIDATE}, "GATE_BASELINE_SAME"),
        ({"baseline": STAGING}, "GATE_BASELINE_SAME"),
        ({"baseline": f"{STAGING}s"}, "MODEL_VERSION_NOT_FOUND"),
    ],
)
async def test_what_cannot_be_measured_is_refused_at_once(room: Room, evaluate: dict[str, str], reason: str) -> None:
    policy = await gate(room, rule(await room.eval()))
    assert (await refusal_of(begin(room, policy, **evaluate))).reason == reason
    pinned = await begin(room, policy, validate_only=True, baseline=PRODUCTION)
    assert pinned.baseline == OLDER  # whatever the alias points to later
    checked = await begin(room, policy, validate_only=True)
    assert (checked.name, checked.progress.total) == ("", 2 * ROWS)
    listed = await room.stub.ListVerdicts(pb.ListVerdictsRequest(parent=policy.name))
    assert listed.total_size == 0


async def test_the_same_request_begins_one_verdict(room: Room) -> None:
    policy = await gate(room, rule(await room.eval()))
    first, second = [await begin(room, policy, request_id="once") for _ in range(2)]
    assert first.name == second.name
    assert (await given(room, first.name)).state == pb.Verdict.STATE_PASSED
    missing: Awaitable[object] = room.stub.GetVerdict(pb.GetVerdictRequest(name=f"{policy.name}/verdicts/none"))
    assert (await refusal_of(missing)).reason == "VERDICT_NOT_FOUND"
    unknown = rule(await room.eval(exact("one"), exact("two")))
    unknown.grader = "three"
    assert (await refusal_of(begin(room, await gate(room, unknown)))).reason == "GRADER_UNKNOWN"
