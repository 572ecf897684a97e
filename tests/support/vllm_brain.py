"""What a vLLM stub says, computed with a real model by our own engine, from adapters as vLLM reads them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from llguidance import LLMatcher, grammar_from

from feinschliff.inference.engine import Delta, Done, Engine, Event, Finish, GenerationRequest
from feinschliff.inference.forms import Form
from feinschliff.inference.scores import ScoringRequest, TokenScore
from tests.support.vllm_stub import End, Say

_READ = ("peft_type", "r", "lora_alpha", "target_modules", "bias", "modules_to_save", "use_rslora", "use_dora")


class Computing:
    """Args: engine: answers with its base's stop tokens, which every request names."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def begin(self, body: dict[str, Any], adapter: str, say: Say, end: End) -> Callable[[], None]:
        def tell(event: Event) -> None:
            score = event.score if isinstance(event, Delta | Done) else None
            if score is not None:
                say(score.token_id, found_of(score))
            if isinstance(event, Done):
                end({Finish.STOP: "stop", Finish.LENGTH: "length"}.get(event.finish, "error"))

        text = (body.get("structured_outputs") or {}).get("grammar")
        if text:
            assert not LLMatcher.validate_grammar(grammar_from("grammar", text)), "as vLLM's guidance backend looks"
        return self.engine.generate(
            GenerationRequest(
                body["prompt"],
                adapter,
                max_tokens=body["max_tokens"],
                temperature=body["temperature"],
                top_p=body["top_p"],
                top_k=body["top_k"],
                min_p=body["min_p"],
                presence_penalty=body["presence_penalty"],
                frequency_penalty=body["frequency_penalty"],
                repetition_penalty=body["repetition_penalty"],
                logit_bias={int(token): value for token, value in body.get("logit_bias", {}).items()},
                seed=body["seed"],
                stop_token_ids=tuple(body["stop_token_ids"]),
                logprobs=body.get("logprobs") or 0,
                grammar=self.engine.grammar(Form(text)) if text else None,
                tenant=body.get("cache_salt", ""),
            ),
            tell,
        )

    def score(self, token_ids: list[int], adapter: str, top: int) -> list[dict[int, float] | None]:
        scores = self.engine.score(ScoringRequest(token_ids, 1, adapter, top)).result(60)
        return [None, *(found_of(score) for score in scores)]

    def load(self, name: str, folder: Path) -> None:
        """Of an adapter's settings, vLLM reads these and passes over all others."""
        with tempfile.TemporaryDirectory() as aside:
            settings = orjson.loads((folder / "adapter_config.json").read_bytes())
            read = {key: value for key, value in settings.items() if key in _READ}
            (Path(aside) / "adapter_config.json").write_bytes(orjson.dumps(read))
            (Path(aside) / "adapter_model.safetensors").symlink_to(folder / "adapter_model.safetensors")
            self.engine.load_adapter(name, Path(aside))

    def unload(self, name: str) -> None:
        self.engine.unload_adapter(name)

    def cache_share(self) -> float:
        return 0.5 if self.engine.capacity().kv_cache_bytes else 0.0


def found_of(score: TokenScore) -> dict[int, float]:
    return {score.token_id: score.logprob, **{one.token_id: one.logprob for one in score.top}}
