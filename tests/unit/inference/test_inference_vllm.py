"""What goes to a vLLM server, how its words are read, how one is started, and what it is not asked to do."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from feinschliff.inference.__main__ import engine_check, vllm_options
from feinschliff.inference.abilities import refuse_unable
from feinschliff.inference.answers import refuse_broken
from feinschliff.inference.engine import Done, Finish, GenerationRequest
from feinschliff.inference.engines.vllm import wire
from feinschliff.inference.engines.vllm.options import VllmOptions, refuse_without_server
from feinschliff.inference.engines.vllm.servers import Elsewhere, command_of, environment_of
from feinschliff.inference.inputs import refuse_dimensions
from feinschliff.inference.scores import Likely, ScoringRequest, TokenScore
from feinschliff.inference.settings import InferenceSettings
from feinschliff.kit.errors import Unavailable, Unserved
from tests.unit.inference.builders import version


def event(**choice: Any) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "text": "", "token_ids": [7], **choice}], "usage": None})


def test_a_completion_says_every_setting_in_tokens() -> None:
    request = GenerationRequest([1, 2], "sha256:a", 9, 0.5, logit_bias={4: -1.0}, seed=3, logprobs=2, tenant="default")
    body = wire.completion(request, "sha256:a", [2, 0], "start: TEXT")
    defaults = {"top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "temperature"}
    assert defaults <= body.keys()
    assert (body["model"], body["prompt"], body["seed"], body["logprobs"]) == ("sha256:a", [1, 2], 3, 2)
    assert (body["stop_token_ids"], body["ignore_eos"], body["logit_bias"]) == ([0, 2], True, {"4": -1.0})
    assert body["structured_outputs"] == {"grammar": "start: TEXT"}
    assert (body["return_token_ids"], body["stream"], body["add_special_tokens"]) == (True, True, False)


def test_projects_share_no_beginnings_of_prompts() -> None:
    salts = [
        wire.completion(GenerationRequest([1], tenant=one), "m", []).get("cache_salt", "") for one in ("a", "b", "")
    ]
    assert len(set(salts)) == 3
    assert salts[2] == ""


def test_an_event_is_its_tokens_with_their_scores_best_first() -> None:
    named = {"token_id:7": -2.0, "token_id:5": -0.5, "token_id:4": -0.5}
    logprobs = {"tokens": ["token_id:7"], "token_logprobs": [-2.0], "top_logprobs": [named]}
    piece = wire.read_event(event(logprobs=logprobs, prompt_token_ids=[1]))
    assert piece is not None
    assert (piece.token_ids, piece.prompt_ids, piece.finish) == ([7], [1], "")
    (score,) = piece.scores
    assert score is not None
    assert wire.only_wanted(score, 2) == TokenScore(7, -2.0, (Likely(4, -0.5), Likely(5, -0.5)))


def test_events_without_scores_ends_and_usage_are_read() -> None:
    piece = wire.read_event(event(finish_reason="stop", stop_reason=7))
    assert piece == wire.Piece([7], [None], "stop", 7)
    usage = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}
    assert wire.read_event("data: " + json.dumps({"choices": [], "usage": usage})) == wire.Piece(cached_tokens=4)
    assert wire.read_event("data: [DONE]") is None
    assert wire.read_event(": a comment") is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('data: {"error": {"message": "CUDA error", "type": "InternalServerError"}}', "CUDA error"),
        ("data: {", "cannot be read"),
        ('data: {"choices": [{"text": "no tokens"}]}', "cannot be read"),
        (event(logprobs={"tokens": ["word"], "token_logprobs": [0.0], "top_logprobs": [None]}), "cannot be read"),
    ],
)
def test_what_no_vllm_says_is_not_believed(line: str, told: str) -> None:
    with pytest.raises(wire.Broken, match=told):
        wire.read_event(line)


def test_scores_are_those_of_the_tokens_that_were_sent() -> None:
    request = ScoringRequest([5, 6, 7], 2, top_logprobs=1)
    places = [None, {"6": {"logprob": -1.0}}, {"7": {"logprob": -3.0}, "9": {"logprob": -0.1}}]
    said = {"choices": [{"prompt_token_ids": [5, 6, 7], "prompt_logprobs": places}]}
    assert wire.read_scores(said, request) == [TokenScore(7, -3.0, (Likely(9, -0.1),))]
    said["choices"][0]["prompt_token_ids"] = [5, 6, 8]
    with pytest.raises(wire.Broken, match="other tokens"):
        wire.read_scores(said, request)
    with pytest.raises(wire.Broken, match="cannot be read"):
        wire.read_scores({"choices": [{"prompt_token_ids": [5, 6, 7]}]}, request)


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b'{"error": {"message": "m", "type": "NotFoundError", "code": 404}}', "NotFoundError", "m"),
        (b'{"object": "error", "message": "old", "type": "BadRequestError"}', "BadRequestError", "old"),
        (b'{"detail": "Not Found"}', "", "Not Found"),
        (b"<html>", "", "<html>"),
        (b"", "", "status 404"),
    ],
)
def test_errors_are_read_whoever_words_them(body: bytes, kind: str, message: str) -> None:
    assert wire.read_error(404, body) == wire.Said(404, kind, message)


def test_versions_are_numbers_or_nothing() -> None:
    found = [wire.read_version({"version": text}) for text in ("0.31.0", "0.31.1rc2+cu130", "dev", "")]
    assert found == [(0, 31, 0), (0, 31, 1), (), ()]
    assert found[0] >= wire.OLDEST


def test_the_load_is_added_up_over_a_server_s_engines() -> None:
    text = "\n".join(
        [
            "# HELP vllm:num_requests_running Number",
            *(f'vllm:num_requests_running{{engine="{one}",model_name="x y"}} 2.0' for one in (0, 1)),
            'vllm:num_requests_waiting{engine="0"} 1',
            'vllm:kv_cache_usage_perc{engine="0"} 0.25',
            'vllm:kv_cache_usage_perc{engine="1"} NaN',
            'vllm:cache_config_info{block_size="16",num_gpu_blocks="100",engine="0"} 1.0',
            'vllm:cache_config_info{block_size="16",num_gpu_blocks="None",engine="1"} 1.0',
        ]
    )
    assert wire.read_load(text) == wire.Load(4, 1, 0.25, 1600)
    assert wire.read_load("") == wire.Load()


def test_a_server_is_started_under_a_name_that_says_what_it_holds() -> None:
    options = VllmOptions(command="nice vllm serve", arguments="--max-model-len 8192", lora_rank_max=32)
    command = command_of(options, Path("/base"), "sha256:1", "bf16", rows_max=7)
    assert command[:4] == ["nice", "vllm", "serve", "/base"]
    pairs = dict(pairwise(command))
    assert (pairs["--served-model-name"], pairs["--dtype"]) == ("sha256:1@bf16", "bfloat16")
    assert (pairs["--max-num-seqs"], pairs["--max-lora-rank"], pairs["--max-model-len"]) == ("7", "32", "8192")
    assert pairs["--logprobs-mode"] == "raw_logprobs"


def test_a_server_gets_none_of_our_settings() -> None:
    ours = {"PATH": "/bin", "FEINSCHLIFF_S3_SECRET_KEY": "s", "VLLM_BATCH_INVARIANT": "1"}
    given = environment_of(ours)
    assert given["PATH"] == "/bin"
    assert (given["VLLM_ALLOW_RUNTIME_LORA_UPDATING"], given["VLLM_BATCH_INVARIANT"]) == ("1", "1")
    assert not any(name.startswith("FEINSCHLIFF_") for name in given)


def test_servers_elsewhere_may_see_the_folder_by_another_name() -> None:
    here = Path("/here/vllm")
    one, other = (Elsewhere(VllmOptions(folder=here, folder_there="/there/")) for _ in range(2))
    assert one.folder() != other.folder()
    assert one.seen(one.folder() / "sha256-1") == f"/there/{one.folder().name}/sha256-1"
    alike = Elsewhere(VllmOptions(folder=here))
    assert alike.seen(alike.folder() / "sha256-1") == f"{alike.folder()}/sha256-1"


def test_settings_say_it_all(tmp_path: Path) -> None:
    chosen = {"inference_vllm_urls": "http://a:8000, http://b:8000,", "inference_vllm_api_key": "k", "home": tmp_path}
    options = vllm_options(InferenceSettings(**chosen))  # type: ignore[arg-type]
    assert (options.urls, options.api_key) == (["http://a:8000", "http://b:8000"], "k")
    assert options.folder == tmp_path / "vllm"
    with pytest.raises(ValidationError, match="vLLM takes one of 8"):
        InferenceSettings(inference_vllm_lora_rank_max=65)


def test_without_a_server_or_a_program_no_deployment_asks_for_vllm() -> None:
    with pytest.raises(Unserved) as refused:
        refuse_without_server(VllmOptions(command="no-such-program serve"))
    assert (refused.value.reason, refused.value.fields[0].field) == ("ENGINE_UNSERVED", "deployment.engine")
    refuse_without_server(VllmOptions(command=f"{sys.executable} serve"))
    refuse_without_server(VllmOptions(command="no-such-program", urls=["http://a"]))
    check = engine_check(InferenceSettings(inference_vllm_command="no-such-program"))
    check("transformers")
    with pytest.raises(Unserved):
        check("vllm")


@pytest.mark.parametrize("change", [{"adaptation": "dora"}, {"adaptation": "full"}, {"has_head": True}])
def test_what_vllm_cannot_compute_is_known_before_it_is_loaded(change: dict[str, Any]) -> None:
    asked = version().model_copy(update=change)
    with pytest.raises(Unserved) as refused:
        refuse_unable("vllm", asked)
    assert refused.value.reason == "ENGINE_UNSERVED"
    assert asked.name in refused.value.message
    refuse_unable("transformers", asked)


@pytest.mark.parametrize("adaptation", ["lora", ""])
def test_lora_and_imports_are_tried(adaptation: str) -> None:
    refuse_unable("vllm", version().model_copy(update={"adaptation": adaptation}))


def test_an_engine_without_vectors_says_so() -> None:
    with pytest.raises(Unserved) as refused:
        refuse_dimensions(0, (), "m")
    assert refused.value.reason == "ENGINE_UNSERVED"


def test_an_answer_that_a_lost_server_broke_off_may_be_asked_for_again() -> None:
    with pytest.raises(Unavailable) as refused:
        refuse_broken(Done(Finish.FAILED, 3, error="it ended with -9", retry_after_seconds=5.0))
    assert (refused.value.reason, refused.value.retry_after_seconds) == ("ENGINE_LOST", 5.0)
    assert "it ended with -9" in refused.value.message
