"""A web server of the user's grades."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self
from urllib.parse import urlsplit

from feinschliff.graders.grade import Fault, Grade, Item, Sample, is_number, ungraded
from feinschliff.graders.outside import Call, CannotAsk, Outside
from feinschliff.graders.spec import PASS_THRESHOLD_DEFAULT, TEXT_CHARACTERS_MAX, Spec, SpecReader, refused

RATE_DEFAULT, RATE_MAX = 50.0, 1000.0
TIMEOUT_DEFAULT, TIMEOUT_MAX = 60.0, 600.0
_TINY = 1e-3


@dataclass(frozen=True)
class Endpoint:
    """Grades by the `score` that the server answers `{"sample", "item", "trace_id"}` with, clipped to 0 to 1."""

    type: ClassVar[str] = "endpoint"
    is_binary: ClassVar[bool] = False

    name: str
    url: str
    headers_secret: str
    requests_per_second: float
    timeout_seconds: float
    pass_threshold: float

    @classmethod
    def from_spec(cls, reader: SpecReader) -> Self:
        names = ("name", "url", "headers_secret", "requests_per_second", "rate_limit", "timeout_seconds")
        reader.only(*names, "pass_threshold", "headers")
        if reader.has("headers"):
            message = "Headers hold secrets and are not kept with a grader; name the installation's in headers_secret."
            raise refused("GRADER_HEADERS_REFUSED", reader.field("headers"), message)
        rate = "rate_limit" if reader.has("rate_limit") else "requests_per_second"
        return cls(
            name=reader.name(),
            url=_url(reader),
            headers_secret=reader.text("headers_secret", "", characters_max=200),
            requests_per_second=reader.number(rate, RATE_DEFAULT, _TINY, RATE_MAX),
            timeout_seconds=reader.number("timeout_seconds", TIMEOUT_DEFAULT, _TINY, TIMEOUT_MAX),
            pass_threshold=reader.fraction("pass_threshold", PASS_THRESHOLD_DEFAULT),
        )

    def spec(self) -> Spec:
        return {
            "type": self.type,
            "name": self.name,
            "url": self.url,
            **({"headers_secret": self.headers_secret} if self.headers_secret else {}),
            "requests_per_second": self.requests_per_second,
            "timeout_seconds": self.timeout_seconds,
            "pass_threshold": self.pass_threshold,
        }

    async def ask(self, item: Item, sample: Sample, outside: Outside) -> Grade:
        trace = uuid.uuid4().hex
        body = {"sample": sample.values, "item": item, "trace_id": trace}
        call = Call(self.url, self.headers_secret, self.requests_per_second, self.timeout_seconds, body)
        try:
            answer = await outside.post(call)
        except CannotAsk as error:
            return ungraded(error.fault, str(error))
        score = answer.get("score") if isinstance(answer, Mapping) else None
        if not is_number(score):
            return ungraded(Fault.ENDPOINT, f'the server did not answer {{"score": number}} (trace {trace})')
        value = min(max(float(score), 0.0), 1.0)
        why = f"the server gave {score:g}, passes from {self.pass_threshold:g} (trace {trace})"
        return Grade(value, why, raw=None if value == score else float(score))


def _url(reader: SpecReader) -> str:
    url = reader.text("url", characters_max=TEXT_CHARACTERS_MAX)
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("https", "http") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_whole = False
    if not is_whole or parts.username is not None or any(one.isspace() or ord(one) < 33 for one in url):
        message = "'url' must be https://host/path, without a user, a password or blanks."
        raise refused("GRADER_URL_INVALID", reader.field("url"), message)
    return url
