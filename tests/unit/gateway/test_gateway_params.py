"""Where a field of inference's request stands in the HTTP body."""

from __future__ import annotations

import pytest

from feinschliff.gateway.conversation import param_of


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("chat.sampling.max_tokens", "max_completion_tokens"),
        ("sampling.logit_bias[7]", "logit_bias[7]"),
        ("sampling.response_format.json_schema.schema.properties.a", "response_format.json_schema.schema.properties.a"),
        ("chat.tools[1].parameters.properties.a", "tools[1].function.parameters.properties.a"),
        ("tools[0].name", "tools[0].function.name"),
        ("tool_choice.function", "tool_choice"),
        ("messages[2].parts[0]", "messages[2].content[0]"),
    ],
)
def test_paths_are_those_of_the_http_body(path: str, param: str) -> None:
    assert param_of(path) == param
