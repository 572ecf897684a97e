"""Bounds, defaults, and conversations as callers send them."""

from __future__ import annotations

import pytest

from feinschliff.inference.batcher import Batcher, Limits
from feinschliff.inference.conversation import to_messages
from feinschliff.inference.engines.row import Row
from feinschliff.inference.life import Sampling
from feinschliff.inference.proto import to_spec
from feinschliff.inference.requests import generation, refuse, sampling_violations, unknown_biases
from feinschliff.inference.wishes import Wishes, from_sampling, read_sampling, read_wishes, wish_violations
from feinschliff.kit.errors import Invalid, Unserved
from feinschliff.v1 import common_pb2, inference_pb2
from tests.unit.inference.builders import version


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 10.1),
        ("max_tokens", 0),
        ("max_tokens", -5),
    ],
)
def test_values_out_of_range_are_refused_by_their_path(field: str, value: float) -> None:
    params = common_pb2.SamplingParams(**{field: value})  # type: ignore[arg-type]
    with pytest.raises(Invalid) as refused:
        refuse(sampling_violations(read_sampling(params), "sampling"))
    assert [violation.field for violation in refused.value.fields] == [f"sampling.{field}"]


@pytest.mark.parametrize(
    ("biases", "field"),
    [
        ({-1: 1.0}, "logit_bias[-1]"),
        ({3: 101.0}, "logit_bias[3]"),
        (dict.fromkeys(range(1025), 1.0), "logit_bias"),
    ],
)
def test_biases_are_bounded(biases: dict[int, float], field: str) -> None:
    wrong = sampling_violations(Sampling(logit_bias=biases), "sampling")
    assert [violation.field for violation in wrong] == [f"sampling.{field}"]


@pytest.mark.parametrize(
    ("params", "fields"),
    [
        (common_pb2.SamplingParams(n=0), ["n"]),
        (common_pb2.SamplingParams(n=129), ["n"]),
        (common_pb2.SamplingParams(logprobs=True, top_logprobs=21), ["top_logprobs"]),
        (common_pb2.SamplingParams(logprobs=True, top_logprobs=-1), ["top_logprobs"]),
        (common_pb2.SamplingParams(top_logprobs=1), ["top_logprobs"]),
        (common_pb2.SamplingParams(n=128, logprobs=True, top_logprobs=20), []),
    ],
)
def test_wishes_are_bounded(params: common_pb2.SamplingParams, fields: list[str]) -> None:
    assert [one.field for one in wish_violations(params, "sampling")] == [f"sampling.{field}" for field in fields]


def test_wishes_that_are_not_said_ask_for_one_answer_and_nothing_beside_it() -> None:
    assert read_wishes(common_pb2.SamplingParams(), "s") == Wishes(answers=1, logprobs=None)
    wishes = read_wishes(common_pb2.SamplingParams(n=3, logprobs=True, top_logprobs=2), "s")
    assert wishes == Wishes(answers=3, logprobs=2)
    assert read_wishes(common_pb2.SamplingParams(logprobs=True), "s").logprobs == 0


@pytest.mark.parametrize(("stop", "field"), [([""], "stop[0]"), (["x" * 257], "stop[0]"), (["x"] * 17, "stop")])
def test_stop_strings_are_bounded(stop: list[str], field: str) -> None:
    wrong = sampling_violations(Sampling(stop=tuple(stop)), "sampling")
    assert [violation.field for violation in wrong] == [f"sampling.{field}"]


@pytest.mark.parametrize("edge", [{"temperature": 0.0}, {"temperature": 2.0}, {"top_p": 1.0}, {"max_tokens": 1}])
def test_the_edges_of_the_ranges_are_allowed(edge: dict[str, float]) -> None:
    assert sampling_violations(Sampling(**edge), "sampling") == []


def test_values_that_change_nothing_are_accepted() -> None:
    neutral = common_pb2.SamplingParams(top_k=0, n=1, presence_penalty=0, repetition_penalty=1)
    assert read_sampling(neutral) == Sampling(top_k=0, presence_penalty=0.0, repetition_penalty=1.0)


def test_everything_that_is_said_of_a_draw_reaches_the_engine_and_comes_back() -> None:
    params = common_pb2.SamplingParams(
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        min_p=0.125,
        max_tokens=9,
        seed=-3,
        stop=["end"],
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.5,
        logit_bias={3: 1.0, 500: -100.0},
    )
    sampling = read_sampling(params)
    assert sampling_violations(sampling, "sampling") == []
    assert from_sampling(sampling) == params
    request = generation([1], sampling, Sampling(logit_bias={4: 1.0}), None, context_tokens=100)
    assert {name: getattr(request, name) for name in sampling.model_dump()} == sampling.model_dump()


def test_a_bias_for_a_token_that_the_model_does_not_have_is_refused() -> None:
    wrong = unknown_biases(Sampling(logit_bias={511: 1.0, 512: 1.0}), 512, "sampling")
    assert [violation.field for violation in wrong] == ["sampling.logit_bias[512]"]


def test_the_caller_comes_before_the_deployment_before_the_model() -> None:
    tuned = version(1, defaults=Sampling(temperature=0.3, max_tokens=7, stop=("end",)))
    request = generation([1, 2], Sampling(temperature=0.0), Sampling(top_p=0.5), tuned, context_tokens=100)
    assert (request.temperature, request.top_p, request.max_tokens, request.stop) == (0.0, 0.5, 7, ("end",))
    assert request.adapter_digest == "sha256:m1"


def test_nothing_said_means_temperature_one_all_tokens_and_what_the_context_has_left() -> None:
    request = generation([1, 2, 3], Sampling(), Sampling(), None, context_tokens=100, random_seed=lambda: 42)
    assert (request.temperature, request.top_p, request.max_tokens, request.seed) == (1.0, 1.0, 97, 42)
    assert request.adapter_digest == ""


def test_a_default_beyond_the_context_is_cut_but_a_wish_beyond_it_is_refused() -> None:
    assert generation([1] * 90, Sampling(), Sampling(max_tokens=50), None, context_tokens=100).max_tokens == 10
    with pytest.raises(Invalid) as refused:
        generation([1] * 90, Sampling(max_tokens=50), Sampling(), None, context_tokens=100)
    assert refused.value.reason == "CONTEXT_LENGTH_EXCEEDED"
    assert refused.value.metadata == {"prompt_tokens": "90", "max_tokens": "50", "context_tokens": "100"}
    assert refused.value.fields[0].field == "sampling.max_tokens"


@pytest.mark.parametrize(("prompt", "fits"), [(99, True), (100, False), (101, False)])
def test_a_prompt_must_leave_room_for_one_token(prompt: int, fits: bool) -> None:
    if fits:
        assert generation([1] * prompt, Sampling(), Sampling(), None, context_tokens=100).max_tokens == 1
        return
    with pytest.raises(Invalid) as refused:
        generation([1] * prompt, Sampling(), Sampling(), None, context_tokens=100)
    assert refused.value.fields[0].field == "messages"


def turn(role: int, *parts: common_pb2.Part) -> common_pb2.Message:
    return common_pb2.Message(role=role, parts=parts)  # type: ignore[arg-type]


def text(value: str) -> common_pb2.Part:
    return common_pb2.Part(text=value)


def test_parts_of_a_turn_are_joined() -> None:
    found = to_messages([turn(common_pb2.ROLE_USER, text("Hello "), text("you"))], "messages")
    assert [(message.role, message.content) for message in found] == [("user", "Hello you")]


def test_tool_calls_and_results_become_what_templates_know() -> None:
    call = common_pb2.ToolCall(id="c1", name="weather")
    call.arguments.update({"city": "Ulm"})
    result = common_pb2.ToolResult(tool_call_id="c1", text="rain")
    found = to_messages(
        [
            turn(common_pb2.ROLE_ASSISTANT, common_pb2.Part(tool_call=call)),
            turn(common_pb2.ROLE_TOOL, common_pb2.Part(tool_result=result)),
        ],
        "messages",
    )
    assert found[0].content is None
    assert found[0].tool_calls == [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}}
    ]
    assert (found[1].content, found[1].tool_call_id) == ("rain", "c1")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (turn(common_pb2.ROLE_UNSPECIFIED, text("x")), "messages[0].role"),
        (turn(99, text("x")), "messages[0].role"),
        (turn(common_pb2.ROLE_USER), "messages[0].parts"),
        (turn(common_pb2.ROLE_USER, common_pb2.Part()), "messages[0].parts[0]"),
        (turn(common_pb2.ROLE_USER, common_pb2.Part(tool_call=common_pb2.ToolCall(id="c"))), "messages[0].parts[0]"),
        (
            turn(common_pb2.ROLE_SYSTEM, common_pb2.Part(tool_result=common_pb2.ToolResult(tool_call_id="c"))),
            "messages[0].parts[0]",
        ),
    ],
)
def test_wrong_turns_are_refused_by_their_path(wrong: common_pb2.Message, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        to_messages([wrong], "messages")
    assert refused.value.fields[0].field == field


def test_images_are_not_served_and_say_so() -> None:
    with pytest.raises(Unserved):
        to_messages(
            [turn(common_pb2.ROLE_USER, common_pb2.Part(image=common_pb2.Image(uri="https://x/y.png")))], "messages"
        )


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("engine", inference_pb2.Deployment(engine=99)),  # type: ignore[arg-type]
        ("precision", inference_pb2.Deployment(precision=inference_pb2.Deployment.PRECISION_INT4)),
        (
            "precision",
            inference_pb2.Deployment(
                engine=inference_pb2.Deployment.ENGINE_VLLM, precision=inference_pb2.Deployment.PRECISION_INT8
            ),
        ),
        ("replicas", inference_pb2.Deployment(replicas=2)),
        ("defaults.n", inference_pb2.Deployment(defaults=common_pb2.SamplingParams(n=2))),
        ("defaults.logprobs", inference_pb2.Deployment(defaults=common_pb2.SamplingParams(logprobs=True))),
        (
            "guards[0].personal_data.kinds[0]",
            inference_pb2.Deployment(
                guards=[inference_pb2.Guard(personal_data=inference_pb2.PersonalDataGuard(kinds=["person"]))]
            ),
        ),
    ],
)
def test_a_deployment_that_asks_for_more_than_is_served_is_refused(
    field: str, message: inference_pb2.Deployment
) -> None:
    with pytest.raises(Unserved) as refused:
        to_spec(message)
    assert refused.value.fields[0].field == f"deployment.{field}"


def test_an_answer_whose_length_nobody_says_is_as_long_as_the_installation_says() -> None:
    def longest(asked: int | None = None, deployment: int | None = None, prompt: int = 10) -> int:
        mine, theirs = Sampling(max_tokens=asked), Sampling(max_tokens=deployment)
        return generation([1] * prompt, mine, theirs, None, context_tokens=8192, answer_tokens=2048).max_tokens

    assert (longest(), longest(prompt=8000), longest(deployment=50)) == (2048, 192, 50)
    assert (longest(asked=8000), longest(deployment=8000)) == (8000, 8000)


def test_calls_that_do_not_say_their_length_run_side_by_side() -> None:
    def running(answer_tokens: int) -> int:
        batcher = Batcher[Row](Limits(8, 8, 4 * 2100, 512, is_cache_by_row=True))
        for _ in range(4):
            asked = generation([1] * 10, Sampling(), Sampling(), None, context_tokens=8192, answer_tokens=answer_tokens)
            batcher.offer(Row.of(asked, lambda _: None, decode=lambda _: "", stop_ids=()))
        batcher.plan()
        return batcher.running

    assert (running(2048), running(0)) == (4, 1)
