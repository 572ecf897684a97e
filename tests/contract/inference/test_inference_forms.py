"""Answers of a given form: whatever the model would rather say, they parse and validate."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.formats.schemas import in_order
from feinschliff.inference.engine import Engine, Finish, GenerationRequest
from feinschliff.inference.engines import ENGINES, EngineOptions
from feinschliff.inference.forms import Form, Schema, form_of
from feinschliff.kit.errors import Invalid
from feinschliff.v1 import common_pb2
from tests.contract.inference.generating import generate
from tests.contract.inference.schemas import CLOSED, OPEN
from tests.contract.inference.site import Site, text_of

PROMPT = list(range(3, 20))
ROWS = 16


@pytest.fixture(scope="module", params=list(ENGINES))
def forming(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """Every engine, without adapters that count here."""
    if request.param == "vllm":
        yield request.getfixturevalue("vllm").engine
        return
    base = BaseFiles(f"file:{tiny_model}", "sha256:tiny", "folder", tiny_model)
    options = EngineOptions(tmp_path_factory.mktemp("cache"), rows_max=ROWS, queue_max=1000)
    loaded = ENGINES[request.param](base, "fp32", options)
    yield loaded
    loaded.close()


def form(schema: dict[str, Any], *, strict: bool = True) -> Form:
    return form_of(Schema.of(in_order(schema), "schema", strict=strict))


def asked(engine: Engine, schema: dict[str, Any], seed: int, **more: Any) -> GenerationRequest:
    heat = {"temperature": 0.0 if seed == 0 else 1.2, "seed": seed}
    return GenerationRequest(
        PROMPT[seed:], max_tokens=80 if schema in OPEN else 300, grammar=engine.grammar(form(schema)), **heat, **more
    )


def test_answers_parse_and_validate_unless_they_are_cut_off(forming: Engine) -> None:
    schemas = [*CLOSED, *OPEN]
    assert len(schemas) >= 64
    pairs = [(schema, seed) for schema in schemas for seed in range(3)]
    answers = generate(forming, [asked(forming, schema, seed) for schema, seed in pairs])
    whole = 0
    for (schema, _), answer in zip(pairs, answers, strict=True):
        assert answer.done.finish in (Finish.STOP, Finish.LENGTH), (schema, answer.done)
        if answer.done.finish is Finish.STOP:
            jsonschema.validate(json.loads(answer.text), schema)
            whole += 1
        else:
            assert schema in OPEN, (schema, answer.text)
    assert whole >= 3 * len(CLOSED)


def test_a_row_with_a_form_leaves_its_neighbours_alone(forming: Engine) -> None:
    free = [GenerationRequest(PROMPT, max_tokens=20, temperature=1.1, seed=seed) for seed in range(4)]
    alone = [generate(forming, [request])[0].text for request in free]
    constrained = [asked(forming, schema, seed) for seed, schema in enumerate(CLOSED[-4:])]
    mixed = generate(forming, [one for pair in zip(free, constrained, strict=True) for one in pair])
    assert [answer.text for answer in mixed[::2]] == alone


def test_bias_and_seed_work_inside_a_form(forming: Engine) -> None:
    schema = {"enum": ["aa", "bb", "cc", "dd"]}
    said = {generate(forming, [asked(forming, schema, seed)])[0].text for seed in range(1, 14)}
    assert len(said) > 1
    letter = forming.encode_text("d")[0]
    assert generate(forming, [asked(forming, schema, 1, logit_bias={letter: 100.0})])[0].text == '"dd"'


def test_properties_come_in_the_order_that_was_asked_for(forming: Engine) -> None:
    properties = {name: {"enum": [1]} for name in ("b", "a", "c")}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    by_order = {**schema, "required": ["a", "b", "c"], "propertyOrdering": ["c", "a", "b"]}
    for given, order in ((by_order, "cab"), ({**schema, "required": ["c", "b", "a"]}, "cba")):
        text = generate(forming, [asked(forming, given, 0)])[0].text
        assert "".join(json.loads(text)) == order


@pytest.mark.parametrize(
    ("schema", "path", "why"),
    [
        (
            {"type": "object", "properties": {"a": {"type": "array", "items": {"not": {}}}}},
            ".properties.a.items",
            "not",
        ),
        ({"type": "objekt"}, "", "objekt"),
        ({"anyOf": [{"type": "string"}, {"type": "string", "format": "shoe-size"}]}, ".anyOf[1]", "shoe-size"),
        ({"$defs": {"u": {"type": "array", "uniqueItems": True}}, "$ref": "#/$defs/u"}, ".$defs.u", "uniqueItems"),
        ({"properties": {"x": {"$ref": "#/$defs/none"}}}, ".properties.x", "/$defs/none"),
        ({"type": "string", "pattern": "(?=a)"}, "", "look-around"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "", "greater"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_path_and_reason(
    forming: Engine, schema: dict[str, Any], path: str, why: str
) -> None:
    with pytest.raises(Invalid) as refused:
        forming.grammar(form(schema))
    assert refused.value.reason == "SCHEMA_UNSUPPORTED"
    assert refused.value.fields[0].field == f"schema{path}"
    assert why in refused.value.metadata["why"]


def test_what_is_not_strict_enforces_what_it_can(forming: Engine) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3, "uniqueItems": True}
    grammar = forming.grammar(form(schema, strict=False))
    answer = generate(forming, [GenerationRequest(PROMPT, max_tokens=60, temperature=1.0, seed=1, grammar=grammar)])[0]
    assert set(json.loads(answer.text)) <= {1, 2}


def test_a_form_is_made_ready_once_and_from_any_thread(forming: Engine) -> None:
    found: list[Any] = []
    wanted = form({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(50)}})
    threads = [threading.Thread(target=lambda: found.append(forming.grammar(wanted))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert forming.grammar(wanted) is forming.grammar(wanted)


async def test_a_call_gets_json_and_a_bad_schema_is_named_in_the_request(site: Site) -> None:
    await site.create()
    wanted = common_pb2.ResponseFormat()
    wanted.json_schema.strict = True
    wanted.json_schema.schema.update(
        {
            "type": "object",
            "properties": {"a": {"type": "integer", "maximum": 9, "minimum": 0}},
            "required": ["a"],
            "additionalProperties": False,
        }
    )
    answer = await site.chat(site.base, max_tokens=60, response_format=wanted, n=2, temperature=1.0, seed=2)
    for choice in answer.choices:
        assert choice.finish_reason == common_pb2.FINISH_REASON_STOP
        assert 0 <= json.loads(choice.message.parts[0].text)["a"] <= 9
    anything = common_pb2.ResponseFormat(json_object=common_pb2.ResponseFormat.JsonObject())
    assert text_of(await site.chat(site.base, response_format=anything)).startswith("{")
    wanted.json_schema.schema.update({"properties": {"a": {"not": {}}}})
    refusal = await site.refused(site.base, response_format=wanted)
    assert refusal.reason == "SCHEMA_UNSUPPORTED"
    assert refusal.fields[0].field == "sampling.response_format.json_schema.schema.properties.a"
