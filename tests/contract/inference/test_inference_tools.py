"""Tools over real gRPC: told to the model by its template, called in its own way, parsed whatever it says."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.protobuf import json_format
from tokenizers import Tokenizer

from feinschliff.kit.errors import Invalid, Refusal
from feinschliff.v1 import common_pb2
from feinschliff.v1 import inference_pb2 as pb
from tests.contract.inference.site import Site, chat_request, open_site, refusing
from tests.support.tiny_model import CHAT_TEMPLATE

TOLD = "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<MARK>{% endif %}"
MARKS = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]", "llama": "<|python_tag|>"}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Ulm", "Bonn"]}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def with_tools(base: Path, folder: Path, family: str) -> Path:
    """The tiny model with a template that knows tools, and the family's mark as a control token."""
    shutil.copytree(base, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = TOLD.replace("<MARK>", MARKS[family]) + CHAT_TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    if family != "hermes":
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_special_tokens([MARKS[family]])
        tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(params=sorted(MARKS))
async def tooled(request: pytest.FixtureRequest, tmp_path: Path, tiny_model: Path) -> AsyncIterator[Site]:
    (tmp_path / "site").mkdir()
    async with open_site(tmp_path / "site", with_tools(tiny_model, tmp_path / "base", request.param)) as site:
        await site.create()
        yield site


def tool(name: str, parameters: dict[str, Any] | None = None, *, strict: bool = False) -> common_pb2.Tool:
    found = common_pb2.Tool(name=name, description=f"Does {name}.", strict=strict)
    if parameters is not None:
        found.parameters.update(parameters)
    return found


LOOK, PING = tool("look", PARAMETERS), tool("ping")


def asking(site: Site, mode: str, *tools: common_pb2.Tool, seed: int = 1, **more: Any) -> pb.ChatRequest:
    sampling = {"temperature": 1.0, "seed": seed, "max_tokens": 200, **more.pop("sampling", {})}
    request = chat_request(site.base, **sampling)
    request.tools.extend(tools)
    function = more.pop("function", "")
    request.tool_choice.CopyFrom(common_pb2.ToolChoice(mode=f"MODE_{mode}", function=function))
    request.MergeFrom(pb.ChatRequest(**more))
    return request


async def answered(site: Site, request: pb.ChatRequest) -> pb.ChatResponse:
    answer: pb.ChatResponse = await refusing(site.chats.Chat(request, timeout=60))
    return answer


def calls_of(message: common_pb2.Message) -> list[common_pb2.ToolCall]:
    return [part.tool_call for part in message.parts if part.HasField("tool_call")]


async def test_calls_that_are_required_always_parse_and_follow_their_schema(tooled: Site) -> None:
    named = 0
    for seed in range(6):
        function = "look" if seed % 2 else ""
        mode = "FUNCTION" if function else "REQUIRED"
        request = asking(tooled, mode, PING, LOOK, seed=seed, function=function, single_tool_call=True)
        answer = await answered(tooled, request)
        (call,) = calls_of(answer.message)
        assert len(answer.message.parts) == 1
        assert answer.finish_reason == common_pb2.FINISH_REASON_TOOL_CALLS
        assert call.name in (("look",) if function else ("look", "ping"))
        assert call.id
        if call.name == "look":
            jsonschema.validate(json_format.MessageToDict(call.arguments), PARAMETERS)
            named += 1
        else:
            assert call.HasField("arguments")
            assert not call.arguments.fields
    assert named >= 3


async def test_a_stream_of_calls_makes_the_whole_answer(tooled: Site) -> None:
    request = asking(tooled, "FUNCTION", LOOK, function="look", sampling={"n": 2})
    whole = await answered(tooled, request)
    stream = tooled.chats.ChatStream(pb.ChatStreamRequest(chat=request), timeout=60)
    deltas = [one.delta async for one in stream if one.HasField("delta")]
    for choice in whole.choices:
        mine = [delta for delta in deltas if delta.index == choice.index]
        pieces = [delta.tool_call for delta in mine if delta.HasField("tool_call")]
        assert [bool(piece.id) for piece in pieces] == [True] + [False] * (len(pieces) - 1)
        assert len(pieces) > 2  # the arguments come as they grow
        (call,) = calls_of(choice.message)
        assert (pieces[0].name, {piece.index for piece in pieces}) == ("look", {0})
        assert json.loads("".join(piece.arguments_text for piece in pieces)) == json_format.MessageToDict(
            call.arguments
        )
        assert mine[-1].finish_reason == choice.finish_reason == common_pb2.FINISH_REASON_TOOL_CALLS
        assert not any(delta.text for delta in mine)


async def test_strict_tools_are_followed_wherever_the_model_calls_them(tooled: Site) -> None:
    strict = tool("look", PARAMETERS, strict=True)
    for seed in range(3):
        answer = await answered(tooled, asking(tooled, "AUTO", strict, seed=seed, sampling={"max_tokens": 40}))
        for call in calls_of(answer.message):
            jsonschema.validate(json_format.MessageToDict(call.arguments), PARAMETERS)
        assert answer.finish_reason in (
            common_pb2.FINISH_REASON_STOP,
            common_pb2.FINISH_REASON_LENGTH,
            common_pb2.FINISH_REASON_TOOL_CALLS,
        )


async def test_the_model_hears_of_its_tools_unless_it_must_not_use_them(tooled: Site) -> None:
    turns = chat_request(tooled.base).messages
    plain, told = [
        await tooled.chats.Tokenize(
            pb.TokenizeRequest(
                model=tooled.base, conversation=pb.Conversation(messages=turns, tools=tools, add_generation_prompt=True)
            )
        )
        for tools in ([], [LOOK])
    ]
    schema = json.loads(told.rendered.splitlines()[0])
    assert (schema["type"], schema["function"]["name"]) == ("function", "look")
    assert list(schema["function"]["parameters"]["properties"]) == ["city", "days"]
    short = {"sampling": {"max_tokens": 1}}
    used = await answered(tooled, asking(tooled, "AUTO", LOOK, **short))
    silent = await answered(tooled, asking(tooled, "NONE", LOOK, **short))
    assert (used.usage.prompt_tokens, silent.usage.prompt_tokens) == (len(told.ids), len(plain.ids))
    closed = pb.Conversation(messages=turns)
    rendered = (await tooled.chats.Tokenize(pb.TokenizeRequest(model=tooled.base, conversation=closed))).rendered
    assert plain.rendered == f"{rendered}<|im_start|>assistant\n"


async def refused(site: Site, request: pb.ChatRequest) -> Refusal:
    with pytest.raises(Invalid) as caught:
        await answered(site, request)
    return caught.value


async def test_tools_are_refused_where_the_template_takes_none(site: Site) -> None:
    await site.create()
    refusal = await refused(site, asking(site, "AUTO", LOOK))
    assert (refusal.reason, "no place for tools" in refusal.metadata["why"]) == ("TOOLS_UNSUPPORTED", True)
    assert await answered(site, asking(site, "NONE", LOOK))  # nobody would call them
    conversation = pb.Conversation(messages=chat_request("").messages, tools=[LOOK])
    with pytest.raises(Invalid):
        await refusing(site.chats.Tokenize(pb.TokenizeRequest(model=site.base, conversation=conversation)))


async def test_tools_that_make_no_sense_are_refused_by_their_path(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "site").mkdir()
    async with open_site(tmp_path / "site", with_tools(tiny_model, tmp_path / "base", "hermes")) as site:
        await site.create()
        bad_schema = tool("look", {"properties": {"a": {"not": {}}}}, strict=True)
        wrong = [
            (asking(site, "AUTO", tool("no blanks")), "tools[0].name"),
            (asking(site, "AUTO", LOOK, LOOK), "tools[1].name"),
            (asking(site, "AUTO", tool("f", {"type": "string"})), "tools[0].parameters"),
            (asking(site, "AUTO", *(tool(f"t{i}") for i in range(129))), "tools"),
            (asking(site, "REQUIRED"), "tool_choice.mode"),
            (asking(site, "FUNCTION", LOOK, function="other"), "tool_choice.function"),
            (asking(site, "AUTO", PING, bad_schema), "tools[1].parameters.properties.a"),
        ]
        for request, path in wrong:
            assert [field.field for field in (await refused(site, request)).fields] == [path]
