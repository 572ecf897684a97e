"""W3C trace context: read from a call, made where there is none, passed on."""

import re
import secrets
from collections.abc import Mapping
from typing import NamedTuple

TRACEPARENT_KEY = "traceparent"
TRACEPARENT_VARIABLE = "TRACEPARENT"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Trace(NamedTuple):
    """Where we are in a trace: its id, our span's id, and whether it is sampled."""

    trace_id: str
    span_id: str
    sampled: bool

    def header(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"

    def child(self) -> "Trace":
        return Trace(self.trace_id, secrets.token_hex(8), self.sampled)


def new_trace() -> Trace:
    return Trace(secrets.token_hex(16), secrets.token_hex(8), sampled=False)


def parse_traceparent(header: str) -> Trace | None:
    """The trace that a caller names, or None where the header breaks the standard."""
    match = _FORM.fullmatch(header)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or set(trace_id) == {"0"} or set(span_id) == {"0"}:
        return None
    return Trace(trace_id, span_id, bool(int(flags, 16) & 1))


def environment(traceparent: str) -> dict[str, str]:
    """What a program is started with so that it goes on with this trace; nothing where there is none."""
    return {TRACEPARENT_VARIABLE: traceparent} if parse_traceparent(traceparent) else {}


def from_environment(variables: Mapping[str, str]) -> Trace | None:
    """The trace that whoever started this program is in."""
    return parse_traceparent(variables.get(TRACEPARENT_VARIABLE, ""))
