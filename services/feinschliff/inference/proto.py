"""Between the API's messages and this room's own types."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import orjson
from google.protobuf import json_format
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.timestamp_pb2 import Timestamp

from feinschliff.formats.records import Message, Role
from feinschliff.inference.deployments import etag_of
from feinschliff.inference.engine import Finish
from feinschliff.inference.life import (
    Deployment,
    Failure,
    Precision,
    Route,
    RouteState,
    RouteStatus,
    Sampling,
    Spec,
    State,
)
from feinschliff.inference.models import Identity
from feinschliff.inference.requests import MESSAGES_MAX
from feinschliff.kit.errors import FieldViolation, Invalid, Unserved
from feinschliff.v1 import common_pb2, inference_pb2

_ROLES: dict[int, Role] = {
    common_pb2.ROLE_SYSTEM: "system",
    common_pb2.ROLE_DEVELOPER: "developer",
    common_pb2.ROLE_USER: "user",
    common_pb2.ROLE_ASSISTANT: "assistant",
    common_pb2.ROLE_TOOL: "tool",
}
_FINISH = {
    Finish.STOP: common_pb2.FINISH_REASON_STOP,
    Finish.LENGTH: common_pb2.FINISH_REASON_LENGTH,
    Finish.CANCELLED: common_pb2.FINISH_REASON_CANCELLED,
    Finish.FAILED: common_pb2.FINISH_REASON_ERROR,
}
_PRECISIONS: dict[int, Precision] = {
    inference_pb2.Deployment.PRECISION_UNSPECIFIED: "auto",
    inference_pb2.Deployment.PRECISION_AUTO: "auto",
    inference_pb2.Deployment.PRECISION_BF16: "bf16",
    inference_pb2.Deployment.PRECISION_FP32: "fp32",
}
