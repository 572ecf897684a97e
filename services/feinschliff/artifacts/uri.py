"""Names of places in S3: `s3://bucket/key`."""

from __future__ import annotations

from typing import NamedTuple

from feinschliff.artifacts.store import check_key
from feinschliff.kit.errors import Invalid

_SCHEME = "s3://"


class S3Uri(NamedTuple):
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}/{self.key}"


def parse_s3(uri: str) -> S3Uri:
    """`s3://bucket/a/b` (a trailing slash is dropped) in its parts; `Invalid(S3_URI_INVALID)` for anything else."""
    bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
    if not uri.startswith(_SCHEME) or not bucket or not key.strip("/"):
        raise Invalid("S3_URI_INVALID", f"{uri!r} is not s3://bucket/key.", uri=uri)
    return S3Uri(bucket, check_key(key.removesuffix("/")))


def s3_uri(bucket: str, key: str) -> str:
    return str(S3Uri(bucket, check_key(key)))
