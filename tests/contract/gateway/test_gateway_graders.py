"""`/v1/fine_tuning/alpha/graders` through the unmodified `openai` package."""

from __future__ import annotations

from typing import Any

import openai as sdk
import pytest
from openai import OpenAI

from tests.contract.gateway.harness import Gateway
from tests.contract.gateway.judges import GONE
from tests.contract.gateway.tuned import BASE

EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.right }}",
    "operation": "eq",
}
NEAR = {**EXACT, "type": "text_similarity", "name": "near", "evaluation_metric": "fuzzy_match"}
del NEAR["operation"]
SCORE = {
    "type": "score_model",
    "name": "style",
    "model": BASE,
    "input": [{"role": "user", "content": "Judge {{ sample.output_text }}"}],
    "range": [0, 5],
}
MULTI = {
    "type": "multi",
    "name": "both",
    "graders": {"exact": EXACT, "style": SCORE},
    "calculate_output": "exact + style",
}
FLAGS = 14


def run(client: OpenAI, grader: Any, sample: str = "yes", **item: Any) -> Any:
    return client.fine_tuning.alpha.graders.run(grader=grader, model_sample=sample, item=item)


def check(client: OpenAI, grader: Any) -> Any:
    return client.fine_tuning.alpha.graders.validate(grader=grader).grader


def refusal(client: OpenAI, grader: Any, *, route: str = "validate") -> tuple[int, str | None, str | None]:
    call = run if route == "run" else check
    with pytest.raises(sdk.APIStatusError) as caught:
        call(client, grader)
    return caught.value.status_code, caught.value.code, caught.value.param


def flagged(answer: Any) -> set[str]:
    errors = answer.metadata.errors.model_dump(by_alias=True)
    assert len(errors) == FLAGS
    return {name for name, value in errors.items() if value is True}


def test_a_grader_comes_back_with_its_defaults(openai: OpenAI, gateway: Gateway) -> None:
    checked = check(openai, {**EXACT, "operation": "neq"})
    assert (checked.type, checked.name, checked.operation) == ("string_check", "exact", "ne")
    checked = check(openai, SCORE)
    assert (checked.model, checked.range, checked.pass_threshold) == (BASE, [0, 5], 2.5)
    assert (checked.sampling_params.temperature, checked.input[0].content) == (0, "Judge {{ sample.output_text }}")
    checked = check(openai, MULTI)
    assert (checked.calculate_output, set(checked.graders)) == ("exact + style", {"exact", "style"})
    assert gateway.backends.judges.asked == []


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        ({**EXACT, "operation": "same"}, "grader.operation"),
        ({**EXACT, "reference": "{{ row.x }}"}, "grader.reference"),
        ({**EXACT, "more": 1}, "grader.more"),
        ({**EXACT, "input": 7}, "grader.input"),
        ({**EXACT, "reference": ""}, "grader.reference"),
        ({"type": "telepathy", "name": "x"}, "grader.type"),
        ({**SCORE, "range": [5, 0]}, "grader.range"),
        ({**SCORE, "input": [{"role": "user", "content": "{{"}]}, "grader.input[0].content"),
        ({**SCORE, "sampling_params": {"temperature": 9}}, "grader.sampling_params.temperature"),
        ({**SCORE, "model": "ft:no:such:model:x"}, "grader.model"),
        ({**SCORE, "model": "projects/other/models/m/versions/1"}, "grader.model"),
        ({**MULTI, "calculate_output": "exact + "}, "grader.calculate_output"),
        ({**MULTI, "graders": EXACT}, "grader.graders"),
        ({**MULTI, "graders": {"exact": EXACT, "style": {**SCORE, "range": [5, 0]}}}, "grader.graders.style.range"),
        ({**MULTI, "graders": {"exact": EXACT, "style": {**SCORE, "model": "a:b"}}}, "grader.graders.style.model"),
        ({**NEAR, "evaluation_metric": "vibes"}, "grader.evaluation_metric"),
        ({**NEAR, "evaluation_metric": "cosine"}, "grader.model"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(openai: OpenAI, grader: Any, param: str) -> None:
    for route in ("validate", "run"):
        status, code, named = refusal(openai, grader, route=route)
        assert (status, named) == (400, param)
        assert code


def test_a_formula_is_refused_with_its_character(openai: OpenAI) -> None:
    with pytest.raises(sdk.BadRequestError, match="wrong at character 9: 'styl' is neither a grader"):
        check(openai, {**MULTI, "calculate_output": "exact + styl"})


def test_an_answer_gets_its_reward(openai: OpenAI) -> None:
    right, wrong = run(openai, EXACT, right="yes"), run(openai, EXACT, right="no")
    assert (right.reward, wrong.reward, flagged(right), flagged(wrong)) == (1.0, 0.0, set(), set())
    assert (right.metadata.name, right.metadata.type) == ("exact", "string_check")
    assert right.metadata.execution_time >= 0
    assert (right.metadata.token_usage, right.metadata.sampled_model_name) == (None, None)
    assert (right.sub_rewards, right.api_model_grader_token_usage_per_model) == ({}, {})
    assert run(openai, NEAR, right="yet").reward == pytest.approx(2 / 3)
    by_json = {**EXACT, "input": "{{ sample.output_json.a }}"}
    assert run(openai, by_json, '{"a": "yes"}', right="yes").reward == 1.0


def test_a_judge_is_asked_by_the_name_that_inference_has_and_paid_for_by_the_callers(
    openai: OpenAI, gateway: Gateway
) -> None:
    gateway.backends.judges.result = 4
    answer = run(openai, SCORE)
    assert answer.reward == 4.0
    (asked,) = gateway.backends.judges.asked
    assert asked != BASE
    assert ":" in asked
    assert (answer.metadata.token_usage, answer.metadata.sampled_model_name) == (40, BASE)
    usage = answer.api_model_grader_token_usage_per_model
    assert usage[BASE] == {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40}


def test_a_formula_gives_its_parts(openai: OpenAI, gateway: Gateway) -> None:
    gateway.backends.judges.result = 4
    answer = run(openai, MULTI, right="yes")
    assert (answer.reward, answer.sub_rewards) == (5.0, {"exact": 1.0, "style": 4.0})


@pytest.mark.parametrize(
    ("grader", "item", "flag"),
    [
        (EXACT, {}, "invalid_variable_error"),
        ({**SCORE, "model": GONE}, {}, "model_grader_server_error"),
        ({**MULTI, "graders": {"a": EXACT}, "calculate_output": "1 / a"}, {"right": "no"}, "formula_parse_error"),
        ({"type": "numeric", "name": "n", "reference": "{{ item.right }}"}, {"right": "x"}, "other_error"),
        ({"type": "choice", "name": "c", "reference": "A", "options": ["A", "B"]}, {}, "sample_parse_error"),
    ],
)
def test_what_fails_at_a_row_is_a_reward_of_zero_with_a_flag(openai: OpenAI, grader: Any, item: Any, flag: str) -> None:
    answer = run(openai, grader, **item)
    assert (answer.reward, flagged(answer)) == (0.0, {flag})


def test_a_judge_without_a_result_is_flagged(openai: OpenAI, gateway: Gateway) -> None:
    gateway.backends.judges.result = None
    answer = run(openai, SCORE)
    assert (answer.reward, flagged(answer)) == (0.0, {"model_grader_parse_error"})
    assert answer.metadata.token_usage == 40


def test_a_row_may_be_left_out_and_must_not_be_bottomless(openai: OpenAI) -> None:
    answer = openai.fine_tuning.alpha.graders.run(grader={**EXACT, "reference": "yes"}, model_sample="yes")  # type: ignore[arg-type]
    assert answer.reward == 1.0
    deep: Any = "x"
    for _ in range(40):
        deep = {"a": deep}
    with pytest.raises(sdk.BadRequestError) as caught:
        run(openai, EXACT, right=deep)
    assert caught.value.param == "item"
