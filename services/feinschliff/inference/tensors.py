"""Between the tensors of the Open Inference Protocol and texts, settings and numbers; every problem by its path."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NoReturn

from google.protobuf.descriptor import FieldDescriptor

from feinschliff.kit.errors import FieldViolation, Invalid
from feinschliff.v1 import common_pb2
from feinschliff.v1 import open_inference_pb2 as pb

TEXT, EMBEDDING, LABEL, PROBABILITY, VALUE = "text", "embedding", "label", "probability", "value"
ELEMENT_BYTES_MAX = 1024 * 1024
_BYTES, _FP32 = "BYTES", "FP32"
_LENGTH = struct.Struct("<I")
_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_WHOLE = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
_SCALARS = (*_FLOATS, *_WHOLE, FieldDescriptor.CPPTYPE_BOOL)

_NOT_HERE = ("n", "logprobs", "top_logprobs")  # one text comes out for each that goes in, and nothing about its tokens

Value = bool | int | float | str


@dataclass(frozen=True)
class Infer:
    """What a ModelInfer asks for.

    Attributes:
        is_chat: each text is what a user says, rendered by the chat template; else it is continued as it is.
        top: classes told of each text; 0 for all.
        dimensions: length of the vectors; 0 for the whole.
        wanted: names of outputs; empty for all there is.
        is_raw: tensors travel as bytes, there and back.
    """

    texts: list[str]
    sampling: common_pb2.SamplingParams
    is_chat: bool
    top: int
    dimensions: int
    wanted: tuple[str, ...]
    is_raw: bool


def read_infer(request: pb.ModelInferRequest) -> Infer:
    """
    Raises:
        Invalid: TENSOR_INVALID, PARAMETER_INVALID.
    """
    is_raw = bool(request.raw_input_contents)
    texts = _texts(request, is_raw=is_raw)
    for place, output in enumerate(request.outputs):
        _refuse_parameters(output.parameters, f"outputs[{place}].parameters")
    own: dict[str, Value] = {"chat": False, "top": 0, "dimensions": 0}
    sampling = common_pb2.SamplingParams()
    for name, parameter in sorted(request.parameters.items()):
        if name in own:
            own[name] = _value(parameter, name, type(own[name]))
        else:
            _set(sampling, name, parameter)
    wanted = tuple(dict.fromkeys(output.name for output in request.outputs))
    return Infer(texts, sampling, bool(own["chat"]), int(own["top"]), int(own["dimensions"]), wanted, is_raw)


def refuse_outputs(wanted: Sequence[str], known: Sequence[str]) -> None:
    """
    Raises:
        Invalid: TENSOR_INVALID for outputs that the model does not have.
    """
    for place, name in enumerate(wanted):
        if name not in known:
            _refuse(f"outputs[{place}].name", f"This model gives {', '.join(known)}, not {name[:100]!r}.")


class Outputs:
    """The tensors of an answer, in the form that the request came in."""

    def __init__(self, response: pb.ModelInferResponse, *, is_raw: bool) -> None:
        self._response = response
        self._is_raw = is_raw

    def add_texts(
        self, name: str, shape: Sequence[int], texts: Sequence[str]
    ) -> pb.ModelInferResponse.InferOutputTensor:
        elements = [text.encode() for text in texts]
        tensor = self._response.outputs.add(name=name, datatype=_BYTES, shape=shape)
        if self._is_raw:
            raw = b"".join(_LENGTH.pack(len(one)) + one for one in elements)
            self._response.raw_output_contents.append(raw)
        else:
            tensor.contents.bytes_contents.extend(elements)
        return tensor

    def add_numbers(self, name: str, shape: Sequence[int], numbers: Sequence[float]) -> None:
        tensor = self._response.outputs.add(name=name, datatype=_FP32, shape=shape)
        if self._is_raw:
            self._response.raw_output_contents.append(struct.pack(f"<{len(numbers)}f", *numbers))
        else:
            tensor.contents.fp32_contents.extend(numbers)


def metadata(name: str, shape: Sequence[int]) -> pb.ModelMetadataResponse.TensorMetadata:
    datatype = _BYTES if name in (TEXT, LABEL) else _FP32
    return pb.ModelMetadataResponse.TensorMetadata(name=name, datatype=datatype, shape=shape)


def _texts(request: pb.ModelInferRequest, *, is_raw: bool) -> list[str]:
    if len(request.inputs) != 1 or request.inputs[0].name != TEXT:
        names = ", ".join(repr(one.name[:100]) for one in request.inputs) or "nothing"
        _refuse("inputs", f"Exactly one input goes in, `{TEXT}`, not {names}.")
    tensor = request.inputs[0]
    _refuse_parameters(tensor.parameters, "inputs[0].parameters")
    if tensor.datatype != _BYTES:
        _refuse("inputs[0].datatype", f"`{TEXT}` is of {_BYTES}, not {tensor.datatype[:100]!r}.")
    if len(tensor.shape) != 1 or tensor.shape[0] < 1:
        _refuse("inputs[0].shape", f"`{TEXT}` has the shape [n], n at least 1, not {list(tensor.shape)}.")
    path = "raw_input_contents" if is_raw else "inputs[0].contents.bytes_contents"
    if is_raw and (len(request.raw_input_contents) > 1 or tensor.HasField("contents")):
        _refuse(path, "Raw contents are one for each input, and then an input has no contents of its own.")
    elements = list(_unpacked(request.raw_input_contents[0])) if is_raw else list(tensor.contents.bytes_contents)
    if len(elements) != prod(tensor.shape) or any(tensor.contents.ListFields()[1:]):
        _refuse(path, f"The shape says {tensor.shape[0]} elements of {_BYTES}; there are {len(elements)}.")
    return [_text(element, f"{path}[{place}]") for place, element in enumerate(elements)]


def _text(element: bytes, path: str) -> str:
    if len(element) > ELEMENT_BYTES_MAX:
        _refuse(path, f"An element has at most {ELEMENT_BYTES_MAX} bytes, not {len(element)}.")
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        _refuse(path, f"A text is UTF-8; this one is not at byte {error.start}.")


def _unpacked(raw: bytes) -> Iterator[bytes]:
    """Elements of BYTES one behind the other, each behind its length in four bytes."""
    at = 0
    while at < len(raw):
        stop = at + _LENGTH.size
        if stop <= len(raw):
            at, stop = stop, stop + _LENGTH.unpack_from(raw, at)[0]
        if stop > len(raw):
            _refuse("raw_input_contents", f"The last element ends {stop - len(raw)} bytes behind the end.")
        yield raw[at:stop]
        at = stop


def _set(sampling: common_pb2.SamplingParams, name: str, parameter: pb.InferParameter) -> None:
    """A setting by its name in SamplingParams; `stop` is one text here."""
    field = sampling.DESCRIPTOR.fields_by_name.get(name)
    if name == "stop":
        sampling.stop.append(str(_value(parameter, name, str)))
        return
    if field is None or name in _NOT_HERE or field.is_repeated or field.cpp_type not in _SCALARS:
        told = "This setting is not known; `temperature`, `top_p`, `max_tokens`, `seed`, `stop` and `chat` are."
        _refuse(f"parameters[{name[:100]!r}]", told, reason="PARAMETER_INVALID")
    kind = float if field.cpp_type in _FLOATS else int if field.cpp_type in _WHOLE else bool
    value = _value(parameter, name, kind)
    try:
        setattr(sampling, name, value)
    except ValueError:
        _refuse(f"parameters[{name!r}]", f"{name} cannot be {value}.", reason="PARAMETER_INVALID")


def _value(parameter: pb.InferParameter, name: str, kind: type[Value]) -> Value:
    """Whole numbers are numbers too; nothing else is converted."""
    choice = parameter.WhichOneof("parameter_choice")
    value: Value | None = getattr(parameter, choice) if choice else None
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        words = {bool: "a truth value", int: "a whole number", float: "a number", str: "a text"}[kind]
        _refuse(f"parameters[{name!r}]", f"{name} is {words}.", reason="PARAMETER_INVALID")
    return value


def _refuse_parameters(parameters: Mapping[str, pb.InferParameter], path: str) -> None:
    for name in parameters:
        _refuse(f"{path}[{name[:100]!r}]", "No setting of a tensor is known.", reason="PARAMETER_INVALID")


def _refuse(path: str, message: str, *, reason: str = "TENSOR_INVALID") -> NoReturn:
    fields = [FieldViolation(path, message, reason)]
    if reason == "PARAMETER_INVALID":
        raise Invalid("PARAMETER_INVALID", message, fields=fields)
    raise Invalid("TENSOR_INVALID", message, fields=fields)
