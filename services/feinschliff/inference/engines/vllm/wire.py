"""What goes to a vLLM server and comes back, as plain values; nothing here opens a connection.

The API is that of vLLM 0.31 (its `entrypoints/openai/completion/protocol.py`, `entrypoints/serve/lora/protocol.py`,
`v1/metrics/loggers.py`); `return_token_ids`, without which we could not tell tokens, came with 0.10.2.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from feinschliff.inference.engine import GenerationRequest
from feinschliff.inference.scores import Likely, ScoringRequest, TokenScore

OLDEST = (0, 10, 2)
TOP_LOGPROBS_MAX = 20
ALLOWED = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
_TOKEN = "token_id:"
_METRIC = re.compile(r"(?P<name>[\w:]+)(\{(?P<labels>.*)\})?\s+(?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Broken(Exception):
    """A server said what no vLLM of a known version says."""


class Said(NamedTuple):
    """An error as a server words it."""

    status: int
    kind: str
    message: str

    @property
    def is_unknown_model(self) -> bool:
        return self.status == 404


class Piece(NamedTuple):
    """One event of a stream.

    Args:
        finish: why the server ended; empty while it goes on.
        stop_token_id: the token that ended it, where the server says so.
        prompt_ids: what it read, told once.
        cached_tokens: of the prompt, told at the very end.
    """

    token_ids: Sequence[int] = ()
    scores: Sequence[TokenScore | None] = ()
    finish: str = ""
    stop_token_id: int | None = None
    prompt_ids: Sequence[int] | None = None
    cached_tokens: int | None = None


class Load(NamedTuple):
    """What a server's metrics say of it; `cache_tokens` is all that fits, 0 where it does not say."""

    running: int = 0
    waiting: int = 0
    cache_share: float = 0.0
    cache_tokens: int = 0


def served_name(base_digest: str, precision: str) -> str:
    """The name by which a server serves a base: whoever answers to it holds these weights in this precision."""
    return f"{base_digest}@{precision}"


def completion(request: GenerationRequest, model: str, stop_ids: Iterable[int], grammar: str = "") -> dict[str, Any]:
    """The body of `POST /v1/completions`: tokens in, tokens out; what ends the answer, we say.

    Every setting is sent, so that no default of the server's or of the base's files counts. `ignore_eos` goes with a
    list of all tokens that end a turn.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(request.prompt_ids),
        "add_special_tokens": False,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "seed": request.seed,
        "watermarking": False,
        "ignore_eos": True,
        "stop_token_ids": sorted({*stop_ids, *request.stop_token_ids}),
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    if request.logit_bias:
        body["logit_bias"] = {str(token): value for token, value in request.logit_bias.items()}
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    if grammar:
        body["structured_outputs"] = {"grammar": grammar}
    return body | _apart(request.tenant)


def scoring(request: ScoringRequest, model: str) -> dict[str, Any]:
    """The body that has a text's own tokens scored; a server always generates one token behind it."""
    return {
        "model": model,
        "prompt": list(request.token_ids),
        "add_special_tokens": False,
        "max_tokens": 1,
        "temperature": 0.0,
        "watermarking": False,
        "prompt_logprobs": request.top_logprobs,
        "return_token_ids": True,
    }


def _apart(tenant: str) -> dict[str, str]:
    """Projects share nothing of what prompts begin with, so none can learn from delays what others asked."""
    return {"cache_salt": hashlib.sha256(tenant.encode()).hexdigest()} if tenant else {}


def read_event(line: str) -> Piece | None:
    """A line of a stream; None for one that carries nothing.

    Raises:
        Broken: it cannot be read, or the server says that it failed.
    """
    if not line.startswith("data:"):
        return None
    text = line[len("data:") :].strip()
    if text == "[DONE]":
        return None
    try:
        said = orjson.loads(text)
        if "error" in said or said.get("object") == "error":
            raise Broken(f"vLLM failed: {read_error(500, text.encode()).message}")
        usage = said.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0) if usage else None
        if not said["choices"]:
            return Piece(cached_tokens=cached)
        (choice,) = said["choices"]
        token_ids = choice["token_ids"] or ()
        scores = _scores(choice["logprobs"]) if choice.get("logprobs") else []
        if scores and [score.token_id for score in scores] != list(token_ids):
            raise ValueError("scores of other tokens")
        stop = choice.get("stop_reason")
        return Piece(
            token_ids,
            scores or [None] * len(token_ids),
            choice.get("finish_reason") or "",
            stop if isinstance(stop, int) else None,
            choice.get("prompt_token_ids"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Broken(f"vLLM's stream cannot be read: {type(error).__name__} at {text[:200]!r}") from error


def _scores(logprobs: Mapping[str, Any]) -> list[TokenScore]:
    """vLLM names the drawn token beside the likeliest ones, so there may be one more than was asked for."""
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    return [
        TokenScore(_id(token), float(logprob), _best_first({_id(name): one for name, one in (top or {}).items()}))
        for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
    ]


def only_wanted(score: TokenScore, count: int) -> TokenScore:
    return score._replace(top=score.top[:count])


def _id(name: str) -> int:
    if not name.startswith(_TOKEN):
        raise ValueError(name)
    return int(name[len(_TOKEN) :])


def _best_first(found: Mapping[int, float]) -> tuple[Likely, ...]:
    return tuple(sorted((Likely(token, float(one)) for token, one in found.items()), key=lambda one: (-one[1], one[0])))


def read_scores(said: Mapping[str, Any], request: ScoringRequest) -> list[TokenScore]:
    """
    Raises:
        Broken: the answer is about another text, or lacks a score.
    """
    try:
        (choice,) = said["choices"]
        if list(choice["prompt_token_ids"]) != list(request.token_ids):
            raise Broken("vLLM scored other tokens than it was given")
        places = choice["prompt_logprobs"]
        scores = []
        for place in range(request.first, len(request.token_ids)):
            found = {int(token): float(one["logprob"]) for token, one in places[place].items()}
            token = request.token_ids[place]
            scores.append(TokenScore(token, found[token], _best_first(found)[: request.top_logprobs]))
        return scores
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Broken(f"vLLM's scores cannot be read: {type(error).__name__}") from error


def read_error(status: int, body: bytes) -> Said:
    """Errors lie in `error` since 0.10; before, and from what stands between, they look otherwise."""
    try:
        said = orjson.loads(body)
        found = said.get("error", said)
        return Said(
            status, str(found.get("type", "")), str(found.get("message") or found.get("detail") or found)[:1000]
        )
    except (ValueError, AttributeError):
        return Said(status, "", body[:1000].decode("utf-8", "replace") or f"status {status}")


def read_version(said: Mapping[str, Any]) -> tuple[int, ...]:
    """The numbers of a version, without what a build adds; empty where there are none (a build of one's own)."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", str(said.get("version", "")))
    return tuple(int(number or 0) for number in found.groups()) if found else ()


def read_load(text: str) -> Load:
    """Out of a server's metrics, over all its engines."""
    running = waiting = tokens = 0
    share = 0.0
    for line in text.splitlines():
        found = _METRIC.fullmatch(line.strip())
        if found is None or line.startswith("#"):
            continue
        name, labels = found["name"], dict(_LABEL.findall(found["labels"] or ""))
        value = float(found["value"])
        if not math.isfinite(value):
            continue
        if name == "vllm:num_requests_running":
            running += int(value)
        elif name == "vllm:num_requests_waiting":
            waiting += int(value)
        elif name in ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"):
            share = max(share, value)
        elif name == "vllm:cache_config_info" and labels.get("num_gpu_blocks", "").isdigit():
            tokens += int(labels["num_gpu_blocks"]) * int(labels.get("block_size", "0") or 0)
    return Load(running, waiting, share, tokens)
