"""What the door promises: creates that can be repeated, precise refusals, pages, masks, comparisons."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct, Value

from feinschliff.kit.errors import Refusal, from_rpc_error
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from tests.contract.evaluation.conftest import PARENT, Room, calls, exact, fuzzy
from tests.contract.evaluation.peers import OTHER_VERSION, VERSION, Peers, conversations

UNKNOWN = "projects/default/evals/unknown"


async def refusal_of(call: Awaitable[object]) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return from_rpc_error(error.value)


def create_eval(**fields: object) -> pb.CreateEvalRequest:
    wanted = {"dataset_version": VERSION, "graders": [exact()], **fields}
    return pb.CreateEvalRequest(parent=PARENT, eval=pb.Eval(**wanted))  # type: ignore[arg-type]


ROW = [Struct(fields={"a": Value(number_value=1)})]


def turns(text: str, role: common.Role.ValueType = common.ROLE_USER) -> pb.PromptTemplate:
    return pb.PromptTemplate(messages=pb.TemplateMessages(messages=[pb.TemplateMessage(role=role, text=text)]))


def similarity(metric: pb.TextSimilarityGrader.Metric.ValueType, **fields: object) -> pb.Grader:
    kind = pb.TextSimilarityGrader(input="a", reference="b", evaluation_metric=metric, **fields)  # type: ignore[arg-type]
    return pb.Grader(name="g", text_similarity=kind)


async def test_an_eval_comes_back_with_every_default_filled_in(room: Room) -> None:
    made = await room.eval(exact(), fuzzy(), eval_id="intents", labels={"team": "support"})
    assert made.name == "projects/default/evals/intents"
    assert made.display_name == "intents"
    assert made.prompt.item_reference == "item.prompt"
    assert made.graders[1].text_similarity.pass_threshold == 0.5
    assert made.etag
    assert await room.stub.GetEval(pb.GetEvalRequest(name=made.name)) == made


async def test_the_same_request_makes_one_eval_and_one_run(room: Room) -> None:
    request = create_eval()
    request.request_id = "again"
    first, second = await room.stub.CreateEval(request), await room.stub.CreateEval(request)
    assert first == second
    run = pb.CreateEvalRunRequest(parent=first.name, eval_run=pb.EvalRun(model="router"), request_id="again")
    names = {(await room.stub.CreateEvalRun(run)).name for _ in range(3)}
    assert len(names) == 1
    assert (await room.stub.ListEvals(pb.ListEvalsRequest(parent=PARENT))).total_size == 1
    assert (await room.stub.ListEvalRuns(pb.ListEvalRunsRequest(parent=first.name))).total_size == 1

    request.eval.display_name = "another"
    run.eval_run.limit = 3
    assert (await refusal_of(room.stub.CreateEval(request))).reason == "REQUEST_ID_REUSED"
    assert (await refusal_of(room.stub.CreateEvalRun(run))).reason == "REQUEST_ID_REUSED"
    await room.over(names.pop())


async def test_a_check_alone_stores_nothing(room: Room, peers: Peers) -> None:
    request = create_eval()
    request.validate_only = True
    checked = await room.stub.CreateEval(request)
    assert checked.name == ""
    assert checked.graders == request.eval.graders
    assert (await room.stub.ListEvals(pb.ListEvalsRequest(parent=PARENT))).total_size == 0

    eval_ = await room.eval()
    wanted = pb.EvalRun(model="router", limit=5)
    run = await room.stub.CreateEvalRun(pb.CreateEvalRunRequest(parent=eval_.name, eval_run=wanted, validate_only=True))
    assert (run.name, run.state, run.progress.total) == ("", pb.EvalRun.STATE_QUEUED, 5)
    assert (await room.stub.ListEvalRuns(pb.ListEvalRunsRequest(parent=eval_.name))).total_size == 0
    assert peers.inference.requests == []


@pytest.mark.parametrize(
    ("fields", "code", "reason", "field"),
    [
        ({"graders": []}, "INVALID_ARGUMENT", "FIELDS_REQUIRED", "eval.graders"),
        ({"graders": [exact(), exact()]}, "INVALID_ARGUMENT", "GRADER_NAME_TAKEN", "eval.graders[1].name"),
        ({"graders": [exact("overall")]}, "INVALID_ARGUMENT", "GRADER_NAME_TAKEN", "eval.graders[0].name"),
        ({"graders": [exact("x" * 101)]}, "INVALID_ARGUMENT", "GRADER_NAME_INVALID", "eval.graders[0].name"),
        ({"graders": [pb.Grader(name="g")]}, "INVALID_ARGUMENT", "GRADER_FIELD_MISSING", "eval.graders[0].type"),
        (
            {"graders": [exact(input="{{ item.x")]},
            "INVALID_ARGUMENT",
            "TEMPLATE_SYNTAX",
            "eval.graders[0].string_check.input",
        ),
        (
            {"graders": [exact(reference="{{ row.x }}")]},
            "INVALID_ARGUMENT",
            "TEMPLATE_NAMESPACE",
            "eval.graders[0].string_check.reference",
        ),
        (
            {"graders": [similarity(pb.TextSimilarityGrader.METRIC_COSINE)]},
            "INVALID_ARGUMENT",
            "GRADER_MODEL_MISSING",
            "eval.graders[0].text_similarity.model",
        ),
        (
            {"graders": [similarity(pb.TextSimilarityGrader.METRIC_FUZZY_MATCH, pass_threshold=2)]},
            "INVALID_ARGUMENT",
            "GRADER_FIELD_RANGE",
            "eval.graders[0].text_similarity.pass_threshold",
        ),
        (
            {"graders": [pb.Grader(name="g", python=pb.PythonGrader(source="x", image_tag="none"))]},
            "INVALID_ARGUMENT",
            "SANDBOX_ENVIRONMENT_UNKNOWN",
            "eval.graders[0].python.image_tag",
        ),
        ({"dataset_version": "versions/1"}, "INVALID_ARGUMENT", "NAME_MALFORMED", "eval.dataset_version"),
        ({"prompt": turns("{{ sample.output_text }}")}, "INVALID_ARGUMENT", "TEMPLATE_NAMESPACE", None),
        ({"prompt": turns("{{ item. }}")}, "INVALID_ARGUMENT", "TEMPLATE_SYNTAX", None),
        (
            {"prompt": pb.PromptTemplate(item_reference="prompt")},
            "INVALID_ARGUMENT",
            "TEMPLATE_NAMESPACE",
            "eval.prompt.item_reference",
        ),
        (
            {"prompt": pb.PromptTemplate(prompt="projects/default/prompts/p/versions/1")},
            "NOT_FOUND",
            "PROMPT_NOT_FOUND",
            None,
        ),
        (
            {"sampling": common.SamplingParams(temperature=3)},
            "INVALID_ARGUMENT",
            "SAMPLING_INVALID",
            "eval.sampling.temperature",
        ),
        ({"sampling": common.SamplingParams(top_p=0)}, "INVALID_ARGUMENT", "SAMPLING_INVALID", "eval.sampling.top_p"),
        ({"sampling": common.SamplingParams(n=4)}, "INVALID_ARGUMENT", "SAMPLING_INVALID", "eval.sampling.n"),
        ({"labels": {"k": "v" * 513}}, "INVALID_ARGUMENT", "LABELS_INVALID", "eval.labels"),
        ({"display_name": "n" * 257}, "INVALID_ARGUMENT", "TEXT_TOO_LONG", "eval.display_name"),
    ],
)
async def test_a_wrong_eval_is_refused_at_its_field(
    room: Room, fields: dict[str, object], code: str, reason: str, field: str | None
) -> None:
    refusal = await refusal_of(room.stub.CreateEval(create_eval(**fields)))
    assert (refusal.code.name, refusal.reason) == (code, reason)
    if field is not None:
        assert refusal.fields[0].field == field
    assert (await room.stub.ListEvals(pb.ListEvalsRequest(parent=PARENT))).total_size == 0


async def test_rows_that_do_not_exist_or_are_not_ready_are_refused(room: Room, peers: Peers) -> None:
    assert (await refusal_of(room.stub.CreateEval(create_eval(dataset_version=OTHER_VERSION)))).reason == (
        "DATASET_VERSION_NOT_FOUND"
    )
    eval_ = await room.eval()
    peers.ingestion.is_ready = False
    refusal = await refusal_of(room.run(eval_.name))
    assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "DATASET_VERSION_NOT_READY")
    peers.ingestion.is_ready = True
    refusal = await refusal_of(room.run(eval_.name, split=common.SPLIT_TEST))
    assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "RUN_WITHOUT_ROWS")


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"limit": -1}, "LIMIT_INVALID", "eval_run.limit"),
        ({"concurrency": 257}, "CONCURRENCY_INVALID", "eval_run.concurrency"),
        ({"answer_path": "completion"}, "TEMPLATE_NAMESPACE", "eval_run.answer_path"),
        ({"sampling": common.SamplingParams(max_tokens=0)}, "SAMPLING_INVALID", "eval_run.sampling.max_tokens"),
        ({"model": "m" * 501}, "TEXT_TOO_LONG", "eval_run.model"),
        ({"prompt": turns("{{")}, "TEMPLATE_SYNTAX", "eval_run.prompt.messages.messages[0].text"),
        ({"tools": [common.Tool(name="t t")]}, "TOOLS_INVALID", "eval_run.tools[0].name"),
        ({"sampling": common.SamplingParams(n=129)}, "SAMPLING_INVALID", "eval_run.sampling.n"),
        ({"sampling": common.SamplingParams(n=2)}, "SAMPLING_INVALID", "eval_run.sampling.n"),
        ({"rows": ROW, "dataset_version": VERSION}, "ROWS_SEVERAL", "eval_run.rows"),
        ({"rows": ROW * 1001}, "ROWS_TOO_MANY", "eval_run.rows"),
        ({"completions": pb.CompletionRows(limit=10_001)}, "LIMIT_INVALID", "eval_run.completions.limit"),
        ({"examples": pb.FewShot(count=65)}, "EXAMPLES_INVALID", "eval_run.examples.count"),
    ],
)
async def test_a_wrong_run_is_refused_at_its_field(
    room: Room, fields: dict[str, object], reason: str, field: str
) -> None:
    wanted = pb.EvalRun(**{"model": "router", **fields})  # type: ignore[arg-type]
    parent = (await room.eval()).name
    refusal = await refusal_of(room.stub.CreateEvalRun(pb.CreateEvalRunRequest(parent=parent, eval_run=wanted)))
    assert (refusal.reason, refusal.fields[0].field) == (reason, field)


async def test_an_eval_without_rows_lets_each_run_bring_its_own(room: Room, peers: Peers) -> None:
    peers.ingestion.versions[OTHER_VERSION] = {"train": conversations(3)}
    eval_ = await room.eval(version="")
    assert (await refusal_of(room.run(eval_.name))).reason == "DATASET_VERSION_MISSING"
    run = await room.measured(eval_.name, dataset_version=OTHER_VERSION)
    assert (run.dataset_version, run.overall.n) == (OTHER_VERSION, 3)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda stub: stub.GetEval(pb.GetEvalRequest(name=UNKNOWN)), "EVAL_NOT_FOUND"),
        (lambda stub: stub.DeleteEval(pb.DeleteEvalRequest(name=UNKNOWN)), "EVAL_NOT_FOUND"),
        (lambda stub: stub.ListEvalRuns(pb.ListEvalRunsRequest(parent=UNKNOWN)), "EVAL_NOT_FOUND"),
        (
            lambda stub: stub.CreateEvalRun(
                pb.CreateEvalRunRequest(parent=UNKNOWN, eval_run=pb.EvalRun(model="router"))
            ),
            "EVAL_NOT_FOUND",
        ),
        (lambda stub: stub.GetEvalRun(pb.GetEvalRunRequest(name=f"{UNKNOWN}/runs/r")), "RUN_NOT_FOUND"),
        (lambda stub: stub.CancelEvalRun(pb.CancelEvalRunRequest(name=f"{UNKNOWN}/runs/r")), "RUN_NOT_FOUND"),
        (lambda stub: stub.ListOutputItems(pb.ListOutputItemsRequest(parent=f"{UNKNOWN}/runs/r")), "RUN_NOT_FOUND"),
        (lambda stub: stub.GetOutputItem(pb.GetOutputItemRequest(name=f"{UNKNOWN}/runs/r/items/1")), "ITEM_NOT_FOUND"),
        (lambda stub: stub.GetOutputItem(pb.GetOutputItemRequest(name=f"{UNKNOWN}/runs/r/items/x")), "ITEM_NOT_FOUND"),
        (lambda stub: stub.GetEval(pb.GetEvalRequest(name="evals/unknown")), "NAME_MALFORMED"),
        (lambda stub: stub.GetEvalRun(pb.GetEvalRunRequest()), "FIELDS_REQUIRED"),
        (lambda stub: stub.ListEvals(pb.ListEvalsRequest(parent=PARENT, filter="team = 1")), "FILTER_INVALID"),
        (lambda stub: stub.ListEvals(pb.ListEvalsRequest(parent=PARENT, order_by="graders")), "ORDER_INVALID"),
        (lambda stub: stub.ListEvals(pb.ListEvalsRequest(parent=PARENT, page_token="x")), "PAGE_TOKEN_INVALID"),
    ],
)
async def test_what_does_not_exist_or_cannot_be_read_is_refused_with_its_reason(
    room: Room, call: Callable[..., Awaitable[object]], reason: str
) -> None:
    assert (await refusal_of(call(room.stub))).reason == reason


async def test_lists_page_filter_and_order(room: Room) -> None:
    for k in range(5):
        await room.eval(eval_id=f"e{k}", display_name=f"name {4 - k}", labels={"even": str(k % 2 == 0).lower()})

    async def listed(**fields: object) -> tuple[list[str], str, int]:
        answer = await room.stub.ListEvals(pb.ListEvalsRequest(parent=PARENT, **fields))  # type: ignore[arg-type]
        return [made.name[-2:] for made in answer.evals], answer.next_page_token, answer.total_size

    assert (await listed())[0] == ["e4", "e3", "e2", "e1", "e0"]
    assert (await listed(order_by="display_name"))[0] == ["e4", "e3", "e2", "e1", "e0"]
    assert (await listed(order_by="create_time"))[0] == ["e0", "e1", "e2", "e3", "e4"]
    assert (await listed(filter='labels.even = "true"'))[0] == ["e4", "e2", "e0"]
    first, token, total = await listed(page_size=2, order_by="display_name desc")
    second, token, _ = await listed(page_size=2, order_by="display_name desc", page_token=token)
    third, end, _ = await listed(page_size=2, order_by="display_name desc", page_token=token)
    assert (first, second, third, end, total) == (["e0", "e1"], ["e2", "e3"], ["e4"], "", 5)


async def test_runs_are_listed_for_an_eval_and_for_a_project(room: Room) -> None:
    one, other = await room.eval(), await room.eval()
    first = await room.measured(one.name, model="router", limit=1)
    second = await room.measured(other.name, model="base", limit=1)

    async def listed(parent: str, filter: str = "") -> list[str]:
        answer = await room.stub.ListEvalRuns(pb.ListEvalRunsRequest(parent=parent, filter=filter))
        assert all(run.overall.n == 1 for run in answer.eval_runs)
        return [run.name for run in answer.eval_runs]

    assert await listed(one.name) == [first.name]
    assert await listed(f"{PARENT}/evals/-") == [second.name, first.name]
    assert await listed(f"{PARENT}/evals/-", 'model = "base" AND state = STATE_COMPLETED') == [second.name]
    assert await listed(f"{PARENT}/evals/-", "state = FAILED") == []
    assert await listed("projects/another/evals/-") == []


async def test_items_page_without_loss_or_double(room: Room) -> None:
    run = await room.measured((await room.eval()).name)
    lines: list[int] = []
    token = ""
    while True:
        request = pb.ListOutputItemsRequest(parent=run.name, page_size=5, page_token=token, order_by="line desc")
        page = await room.stub.ListOutputItems(request)
        lines += [item.line for item in page.output_items]
        token = page.next_page_token
        assert page.total_size == 12
        if not token:
            break
    assert lines == list(range(12, 0, -1))


async def test_an_update_changes_words_and_nothing_else(room: Room) -> None:
    before = await room.eval(labels={"team": "a"})
    patch = pb.Eval(name=before.name, display_name="Intents", etag=before.etag)
    after = await room.stub.UpdateEval(
        pb.UpdateEvalRequest(eval=patch, update_mask=FieldMask(paths=["display_name", "labels"]))
    )
    assert (after.display_name, dict(after.labels)) == ("Intents", {})
    assert after.graders == before.graders
    assert after.etag != before.etag
    stale = pb.UpdateEvalRequest(eval=patch, update_mask=FieldMask(paths=["display_name"]))
    assert (await refusal_of(room.stub.UpdateEval(stale))).code == grpc.StatusCode.ABORTED
    fixed = pb.UpdateEvalRequest(eval=pb.Eval(name=before.name), update_mask=FieldMask(paths=["dataset_version"]))
    assert (await refusal_of(room.stub.UpdateEval(fixed))).reason == "MASK_PATH_FORBIDDEN"


async def test_an_eval_goes_with_its_runs_but_not_while_one_works(room: Room, peers: Peers) -> None:
    eval_ = await room.eval()
    peers.inference.gate.clear()
    run = await room.run(eval_.name)
    await calls(peers, 4)
    assert (await refusal_of(room.stub.DeleteEval(pb.DeleteEvalRequest(name=eval_.name)))).reason == "EVAL_IN_USE"
    assert (await refusal_of(room.stub.DeleteEvalRun(pb.DeleteEvalRunRequest(name=run.name)))).reason == "RUN_NOT_OVER"
    peers.inference.gate.set()
    await room.over(run.name)
    await room.stub.DeleteEval(pb.DeleteEvalRequest(name=eval_.name))
    assert (await refusal_of(room.get(run.name))).reason == "RUN_NOT_FOUND"
    assert (await room.stub.ListEvals(pb.ListEvalsRequest(parent=PARENT))).total_size == 0


async def test_a_finished_run_can_be_removed_alone(room: Room) -> None:
    eval_ = await room.eval()
    run = await room.measured(eval_.name, limit=2)
    await room.stub.DeleteEvalRun(pb.DeleteEvalRunRequest(name=run.name))
    assert (await refusal_of(room.get(run.name))).reason == "RUN_NOT_FOUND"
    assert (await room.stub.ListEvalRuns(pb.ListEvalRunsRequest(parent=eval_.name))).total_size == 0
