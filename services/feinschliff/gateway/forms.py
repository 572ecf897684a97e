"""The form of an answer, `response_format`, as inference asks for it."""

from __future__ import annotations

from typing import Any, Literal

from google.protobuf.struct_pb2 import Struct
from pydantic import Field, JsonValue

from feinschliff.formats.schemas import with_order
from feinschliff.gateway.bodies import Body
from feinschliff.gateway.errors import required
from feinschliff.v1 import common_pb2

NAME = r"^[A-Za-z0-9_-]{1,64}$"


class JsonSchema(Body):
    name: str = Field(pattern=NAME)
    description: str | None = None
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def to_message(self) -> common_pb2.ResponseFormat | None:
        """
        Raises:
            ApiError: 400 where a schema is asked for and none is given.
        """
        if self.type == "json_object":
            return common_pb2.ResponseFormat(json_object=common_pb2.ResponseFormat.JsonObject())
        if self.type == "text":
            return None
        if self.json_schema is None or self.json_schema.schema_ is None:
            raise required("response_format.json_schema" + (".schema" if self.json_schema else ""))
        given = self.json_schema
        schema = common_pb2.ResponseFormat.JsonSchema(
            name=given.name, schema=schema_struct(given.schema_ or {}), strict=bool(given.strict)
        )
        return common_pb2.ResponseFormat(json_schema=schema)


def schema_struct(schema: dict[str, JsonValue]) -> Struct:
    """A schema that says in which order its properties were written."""
    struct, ordered = Struct(), dict[str, Any](with_order(schema))
    struct.update(ordered)
    return struct
