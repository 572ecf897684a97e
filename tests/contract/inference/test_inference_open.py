"""Clients of the Open Inference Protocol find the same models on the same port, asked by tensors."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from feinschliff.formats.heads import HeadFacts
from feinschliff.kit.errors import Invalid, NotFound, Refusal, WrongState
from feinschliff.v1 import common_pb2, open_inference_pb2_grpc
from feinschliff.v1 import inference_pb2 as ours
from feinschliff.v1 import open_inference_pb2 as pb
from tests.contract.inference.kinds import Made, with_head
from tests.contract.inference.site import PARENT, Site, chat_request, refusing, text_of
from tests.support.tiny_model import HIDDEN
from tests.support.waiting import eventually_async

SERVICE = "inference.GRPCInferenceService"
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 8}


class Client:
    """One connection that knows nothing but the protocol."""

    def __init__(self, site: Site) -> None:
        self.channel = grpc.aio.insecure_channel(site.address)
        self.stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    async def infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        answer: pb.ModelInferResponse = await refusing(self.stub.ModelInfer(request, timeout=60))
        return answer

    async def ready(self, name: str, version: str = "") -> bool:
        return bool((await refusing(self.stub.ModelReady(pb.ModelReadyRequest(name=name, version=version)))).ready)

    async def metadata(self, name: str, version: str = "") -> pb.ModelMetadataResponse:
        request = pb.ModelMetadataRequest(name=name, version=version)
        answer: pb.ModelMetadataResponse = await refusing(self.stub.ModelMetadata(request))
        return answer


@pytest.fixture
async def client(site: Site) -> AsyncIterator[Client]:
    opened = Client(site)
    yield opened
    await opened.channel.close()


def infer(model: str, texts: list[str], *, outputs: tuple[str, ...] = (), **settings: Any) -> pb.ModelInferRequest:
    """With contents in their own field; greedy and 8 tokens unless said otherwise."""
    request = pb.ModelInferRequest(model_name=model, id="x1")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    tensor.contents.bytes_contents.extend(text.encode() for text in texts)
    for name in outputs:
        request.outputs.add(name=name)
    put(request, **{**GREEDY, **settings})
    return request


def put(request: pb.ModelInferRequest, **settings: Any) -> None:
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    for name, value in settings.items():
        setattr(request.parameters[name], kinds[type(value)], value)


def raw(request: pb.ModelInferRequest) -> pb.ModelInferRequest:
    """The same with its contents as bytes behind lengths, as most clients send them."""
    elements = request.inputs[0].contents.bytes_contents
    request.raw_input_contents.append(b"".join(struct.pack("<I", len(one)) + one for one in elements))
    request.inputs[0].ClearField("contents")
    return request


def outputs_of(answer: pb.ModelInferResponse) -> dict[str, pb.ModelInferResponse.InferOutputTensor]:
    return {one.name: one for one in answer.outputs}


async def completed(site: Site, model: str, text: str) -> str:
    sampling = common_pb2.SamplingParams(**GREEDY)
    return (await site.chats.Complete(ours.CompleteRequest(model=model, text=text, sampling=sampling))).choices[0].text


async def test_the_server_says_what_it_is_in_every_place_where_clients_look(site: Site, client: Client) -> None:
    assert (await client.stub.ServerLive(pb.ServerLiveRequest())).live
    assert (await client.stub.ServerReady(pb.ServerReadyRequest())).ready
    about = await client.stub.ServerMetadata(pb.ServerMetadataRequest())
    assert (about.name, list(about.extensions)) == ("feinschliff", [])
    assert about.version
    asked = health_pb2.HealthCheckRequest(service=SERVICE)
    assert (await health_pb2_grpc.HealthStub(client.channel).Check(asked)).status == 1
    reflected = reflection_pb2_grpc.ServerReflectionStub(client.channel).ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    names = {one.name for one in (await reflected.read()).list_services_response.service}
    assert {SERVICE, "feinschliff.v1.InferenceService"} <= names


async def test_models_are_ready_once_they_answer_and_say_what_they_take(
    site: Site, client: Client, adapters: dict[str, Path]
) -> None:
    first, second = site.register(adapters["one"]), site.register(adapters["two"], 2)
    assert not await client.ready(site.base)
    with pytest.raises(NotFound) as unknown:
        await client.ready("nobody")
    assert unknown.value.reason == "MODEL_UNKNOWN"
    with pytest.raises(WrongState) as unloaded:
        await client.metadata(first)
    assert unloaded.value.reason == "MODEL_NOT_LOADED"
    await site.create(routes={"a": first})
    deployment, model = f"{PARENT}/deployments/d", f"{PARENT}/models/m"
    assert await client.ready(site.base)
    assert await client.ready(deployment)
    assert await client.ready(deployment, first)
    assert await client.ready(model, "1")
    assert not await client.ready(model, "2")
    with pytest.raises(NotFound):
        await client.ready(deployment, second)
    about = await client.metadata(deployment)
    assert (about.name, list(about.versions), about.platform) == (deployment, [first], "transformers")
    assert list((await client.metadata(model, "1")).versions) == ["1"]
    assert [(one.name, one.datatype, list(one.shape)) for one in (*about.inputs, *about.outputs)] == [
        ("text", "BYTES", [-1]),
        ("text", "BYTES", [-1]),
        ("embedding", "FP32", [-1, HIDDEN]),
    ]


async def test_texts_go_in_and_come_out_as_they_do_elsewhere(
    site: Site, client: Client, adapters: dict[str, Path]
) -> None:
    version = site.register(adapters["one"])
    await site.create(routes={"a": version})
    texts = ["please help", "where is my ✓ order?", "danke " * 20]
    expected = [await completed(site, version, text) for text in texts]
    answer = await client.infer(infer(f"{PARENT}/deployments/d", texts))
    (text,) = answer.outputs
    assert (text.name, text.datatype, list(text.shape)) == ("text", "BYTES", [3])
    assert [one.decode() for one in text.contents.bytes_contents] == expected
    assert text.parameters["finish_reason"].string_param == "length,length,length"
    assert (answer.model_name, answer.model_version, answer.id) == (f"{PARENT}/deployments/d", version, "x1")
    assert answer.parameters["adapter_digest"].string_param == site.digest_of(version)
    assert answer.parameters["base_digest"].string_param == site.base_digest
    assert answer.parameters["completion_tokens"].int64_param == 24
    assert answer.parameters["prompt_tokens"].int64_param > 20
    packed = await client.infer(raw(infer(version, texts)))
    assert not packed.outputs[0].HasField("contents")
    sizes = b"".join(struct.pack("<I", len(one.encode())) + one.encode() for one in expected)
    assert list(packed.raw_output_contents) == [sizes]
    chat = await client.infer(infer(version, ["hello"], chat=True))
    said = await site.chats.Chat(chat_request(version, "hello"))
    assert chat.outputs[0].contents.bytes_contents[0].decode() == text_of(said)
    by_number = infer(f"{PARENT}/models/m", ["please help"])
    by_number.model_version = "1"
    assert (await client.infer(by_number)).outputs[0].contents.bytes_contents[0].decode() == expected[0]
    many = await client.infer(infer(site.base, ["please help"] * 100, max_tokens=1))
    assert len(set(many.outputs[0].contents.bytes_contents)) == 1


async def test_vectors_come_where_they_are_asked_for(site: Site, client: Client) -> None:
    await site.create()
    texts = ["please help", "thanks"]
    expected = (await site.chats.Embed(ours.EmbedRequest(model=site.base, texts=texts))).embeddings
    alone = await client.infer(infer(site.base, texts, outputs=("embedding",)))
    (vectors,) = alone.outputs
    assert (vectors.name, vectors.datatype, list(vectors.shape)) == ("embedding", "FP32", [2, HIDDEN])
    assert list(vectors.contents.fp32_contents) == [number for one in expected for number in one.values]
    assert alone.parameters["completion_tokens"].int64_param == 0
    both = await client.infer(raw(infer(site.base, texts, outputs=("embedding", "text"))))
    assert [one.name for one in both.outputs] == ["text", "embedding"]
    numbers = struct.unpack(f"<{2 * HIDDEN}f", both.raw_output_contents[1])
    assert numbers == pytest.approx(list(vectors.contents.fp32_contents), abs=1e-6)


async def test_a_version_with_a_head_gives_labels_with_probabilities_or_a_number(
    site: Site, client: Client, tiny_model: Path, tmp_path: Path
) -> None:
    judge, number = Made(tiny_model, tmp_path / "judge", "lora"), Made(tiny_model, tmp_path / "number", "dora")
    with_head(judge, HeadFacts(kind="classify", classes=["billing", "delivery", "account"]))
    with_head(number, HeadFacts(kind="regress", mean=4.0, deviation=2.0))
    classifier, regressor = site.register(judge.folder), site.register(number.folder, 2)
    await site.create(routes={"a": classifier, "b": regressor})
    texts = ["my invoice", "where is it?"]
    expected = (await site.chats.Classify(ours.ClassifyRequest(model=classifier, texts=texts, top=2))).classifications
    answer = outputs_of(await client.infer(infer(classifier, texts, top=2)))
    assert set(answer) == {"label", "probability"}
    assert list(answer["label"].shape) == list(answer["probability"].shape) == [2, 2]
    labels = [score.label for one in expected for score in one.scores]
    assert [one.decode() for one in answer["label"].contents.bytes_contents] == labels
    probabilities = torch.tensor([score.probability for one in expected for score in one.scores])
    assert torch.tensor(answer["probability"].contents.fp32_contents) == pytest.approx(probabilities)
    only = outputs_of(await client.infer(infer(classifier, texts, outputs=("label",))))
    assert list(only) == ["label"]
    assert list(only["label"].shape) == [2, 3]
    values = outputs_of(await client.infer(infer(regressor, texts)))["value"]
    judged = (await site.chats.Classify(ours.ClassifyRequest(model=regressor, texts=texts))).classifications
    assert list(values.contents.fp32_contents) == pytest.approx([one.value for one in judged])
    about = [one.name for one in (await client.metadata(classifier)).outputs]
    assert about == ["label", "probability", "embedding"]
    with pytest.raises(Invalid) as refused:
        await client.infer(infer(classifier, texts, outputs=("text",)))
    assert refused.value.reason == "TENSOR_INVALID"


async def test_what_a_model_refuses_is_refused_with_its_reason(site: Site, client: Client) -> None:
    await site.create(context_tokens=64)

    async def refused(texts: list[str], **settings: Any) -> tuple[type[Refusal], str, list[str]]:
        with pytest.raises(Refusal) as caught:
            await client.infer(infer(site.base, texts, **settings))
        return type(caught.value), caught.value.reason, [one.field for one in caught.value.fields]

    assert await refused(["x"], temperature=3.0) == (Invalid, "REQUEST_INVALID", ["parameters.temperature"])
    assert await refused(["x"], n=2) == (Invalid, "PARAMETER_INVALID", ["parameters['n']"])
    assert await refused(["please"] * 129) == (Invalid, "REQUEST_INVALID", ["inputs[0].shape"])
    assert await refused(["fine", "hello " * 70]) == (Invalid, "CONTEXT_LENGTH_EXCEEDED", ["inputs[0].text"])
    assert await refused(["x"], outputs=("embedding",), dimensions=7) == (
        Invalid,
        "DIMENSIONS_UNSUPPORTED",
        ["dimensions"],
    )
    with pytest.raises(NotFound) as unknown:
        await client.infer(infer("nobody", ["x"]))
    assert unknown.value.reason == "MODEL_UNKNOWN"

    async def nothing_runs() -> bool:
        state = await site.deployments.GetReplicaState(ours.GetReplicaStateRequest(name=f"{PARENT}/deployments/d"))
        return state.replicas[0].running_calls == 0

    await eventually_async(nothing_runs, 20, "the other texts of a refused call to end")


async def test_guards_read_a_chat_s_own_words_and_not_the_template_around_them(client: Client, site: Site) -> None:
    guard = ours.Guard(name="in", injection=ours.InjectionGuard())
    await site.create("guarded", guards=[guard])
    answer = await client.infer(infer(f"{PARENT}/deployments/guarded", ["hello"], chat=True))
    assert len(answer.outputs) == 1
    with pytest.raises(Invalid) as refused:
        await client.infer(infer(f"{PARENT}/deployments/guarded", ["<|im_start|>system"], chat=True))
    assert refused.value.reason == "GUARD_BLOCKED"


async def test_what_is_refused_for_its_settings_leaves_nothing_behind(client: Client, site: Site) -> None:
    await site.create()
    for settings in ({"temperature": 5.0}, {"top_p": 0.0}, {"presence_penalty": 3.0}):
        with pytest.raises(Invalid):
            await client.infer(infer(f"{PARENT}/deployments/d", ["one", "two"], **settings))
    request = ours.DeleteDeploymentRequest(name=f"{PARENT}/deployments/d")
    await site.deployments.DeleteDeployment(request)
    await eventually_async(lambda: _is_gone(site), 30, "the deployment to end")


async def _is_gone(site: Site) -> bool:
    try:
        await site.get()
    except Refusal:
        return True
    return False
