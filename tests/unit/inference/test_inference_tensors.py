"""Tensors of the Open Inference Protocol: what is read, what is refused, and models named in two words."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.inference.naming import named, versions_of
from feinschliff.inference.tensors import Outputs, read_infer, refuse_outputs
from feinschliff.kit.errors import Invalid, NotFound
from feinschliff.v1 import open_inference_pb2 as pb
from tests.unit.inference.builders import MODEL, deployment, failed, ready


def asked(*texts: bytes) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    tensor.contents.bytes_contents.extend(texts)
    return request


def packed(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def refusal(request: pb.ModelInferRequest) -> tuple[str, str]:
    with pytest.raises(Invalid) as caught:
        read_infer(request)
    return caught.value.reason, caught.value.fields[0].field


@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=8))
def test_texts_are_the_same_in_both_forms(texts: list[str]) -> None:
    elements = [text.encode() for text in texts]
    plain, raw = asked(*elements), asked(*elements)
    raw.inputs[0].ClearField("contents")
    raw.raw_input_contents.append(packed(*elements))
    assert (read_infer(plain).texts, read_infer(plain).is_raw) == (texts, False)
    assert (read_infer(raw).texts, read_infer(raw).is_raw) == (texts, True)


@given(raw=st.binary(min_size=1, max_size=40), count=st.integers(1, 4))
def test_whatever_bytes_come_are_read_or_refused(raw: bytes, count: int) -> None:
    request = asked(*[b""] * count)
    request.inputs[0].ClearField("contents")
    request.raw_input_contents.append(raw)
    texts, reason = list[str](), ""
    try:
        texts = read_infer(request).texts
    except Invalid as refused:
        reason = refused.reason
    assert reason == "TENSOR_INVALID" or packed(*(text.encode() for text in texts)) == raw


def reshape(*shape: int) -> Callable[[pb.ModelInferRequest], None]:
    def change(request: pb.ModelInferRequest) -> None:
        request.inputs[0].ClearField("shape")
        request.inputs[0].shape.extend(shape)

    return change


def both_forms(request: pb.ModelInferRequest) -> None:
    request.raw_input_contents.append(packed(b"a", b"b"))


def other_numbers(request: pb.ModelInferRequest) -> None:
    request.inputs[0].contents.fp32_contents.append(1.0)


def large(request: pb.ModelInferRequest) -> None:
    request.inputs[0].contents.bytes_contents[1] = b"x" * (1024 * 1024 + 1)


CONTENTS = "inputs[0].contents.bytes_contents"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda request: request.inputs.pop(), "inputs"),
        (lambda request: request.inputs.add(name="text"), "inputs"),
        (lambda request: setattr(request.inputs[0], "name", "prompt"), "inputs"),
        (lambda request: setattr(request.inputs[0], "datatype", "INT64"), "inputs[0].datatype"),
        (reshape(3), CONTENTS),
        (reshape(1), CONTENTS),
        (reshape(2, 1), "inputs[0].shape"),
        (reshape(), "inputs[0].shape"),
        (reshape(-1), "inputs[0].shape"),
        (other_numbers, CONTENTS),
        (both_forms, "raw_input_contents"),
        (large, f"{CONTENTS}[1]"),
        (lambda request: request.inputs[0].contents.bytes_contents.__setitem__(0, b"\xff"), f"{CONTENTS}[0]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_their_path(
    change: Callable[[pb.ModelInferRequest], object], field: str
) -> None:
    request = asked(b"a", b"b")
    change(request)
    assert refusal(request) == ("TENSOR_INVALID", field)


def test_settings_have_the_names_and_kinds_of_sampling() -> None:
    request = asked(b"a")
    request.parameters["temperature"].int64_param = 1
    request.parameters["max_tokens"].uint64_param = 5
    request.parameters["seed"].int64_param = -3
    request.parameters["stop"].string_param = "END"
    request.parameters["chat"].bool_param = True
    request.parameters["top"].int64_param = 2
    found = read_infer(request)
    assert (found.sampling.temperature, found.sampling.max_tokens, found.sampling.seed) == (1.0, 5, -3)
    assert (list(found.sampling.stop), found.is_chat, found.top, found.dimensions) == (["END"], True, 2, 0)
    assert not found.sampling.HasField("top_p")


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("wings", "int64_param", 2),
        ("logit_bias", "int64_param", 2),
        ("temperature", "string_param", "1"),
        ("temperature", "bool_param", True),
        ("max_tokens", "double_param", 5.0),
        ("max_tokens", "uint64_param", 2**40),
        ("chat", "int64_param", 1),
        ("stop", "int64_param", 1),
        ("top", "bool_param", True),
    ],
)
def test_settings_that_are_unknown_or_of_another_kind_are_refused(name: str, field: str, value: object) -> None:
    request = asked(b"a")
    setattr(request.parameters[name], field, value)
    assert refusal(request) == ("PARAMETER_INVALID", f"parameters[{name!r}]")


def test_a_setting_without_a_value_and_settings_of_tensors_are_refused() -> None:
    empty = asked(b"a")
    empty.parameters["seed"].SetInParent()
    assert refusal(empty) == ("PARAMETER_INVALID", "parameters['seed']")
    tensor = asked(b"a")
    tensor.inputs[0].parameters["binary"].bool_param = True
    assert refusal(tensor) == ("PARAMETER_INVALID", "inputs[0].parameters['binary']")
    output = asked(b"a")
    output.outputs.add(name="text").parameters["classification"].int64_param = 3
    assert refusal(output) == ("PARAMETER_INVALID", "outputs[0].parameters['classification']")


def test_outputs_that_a_model_does_not_have_are_refused() -> None:
    refuse_outputs(["text"], ["text", "embedding"])
    with pytest.raises(Invalid) as refused:
        refuse_outputs(["text", "label"], ["text", "embedding"])
    assert refused.value.fields[0].field == "outputs[1].name"


def test_raw_outputs_are_little_endian_without_gaps() -> None:
    response = pb.ModelInferResponse()
    outputs = Outputs(response, is_raw=True)
    outputs.add_texts("text", [2], ["a", "✓"])
    outputs.add_numbers("embedding", [1, 2], [1.0, -0.5])
    assert list(response.raw_output_contents) == [packed(b"a", "✓".encode()), b"\x00\x00\x80?\x00\x00\x00\xbf"]


def test_a_model_is_named_with_its_version() -> None:
    wanted = {"a": (f"{MODEL}@production", ready(3)), "b": (f"{MODEL}/versions/4", failed())}
    serving = [deployment("d", routes=wanted)]
    name, version = "projects/default/deployments/d", f"{MODEL}/versions/3"
    assert named(name, "", serving) == name
    assert named(name, version, serving) == version
    assert named(MODEL, "7", serving) == f"{MODEL}/versions/7"
    assert named(MODEL, "@production", serving) == f"{MODEL}@production"
    assert (versions_of(name, serving), versions_of(MODEL, serving)) == ([version], ["3"])
    for one, other in ((name, f"{MODEL}/versions/4"), ("file:/base", "1")):
        with pytest.raises(NotFound) as refused:
            named(one, other, serving)
        assert refused.value.reason == "MODEL_UNKNOWN"
