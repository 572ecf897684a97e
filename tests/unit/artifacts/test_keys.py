"""Keys and URIs of objects: what is one, what is none."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feinschliff.artifacts.store import check_key, folder_prefix
from feinschliff.artifacts.uri import S3Uri, parse_s3, s3_uri
from feinschliff.kit.errors import Invalid


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_key_that_passes_never_leaves_its_folder(text: str) -> None:
    try:
        key = check_key(text)
    except Invalid:
        return
    path = PurePosixPath("/root") / key
    assert ".." not in path.parts
    assert path.is_relative_to("/root")
    assert path.as_posix() == f"/root/{key}"


@pytest.mark.parametrize(("prefix", "folder"), [("", ""), ("a", "a/"), ("a/b", "a/b/"), ("a/b/", "a/b/")])
def test_a_prefix_is_a_folder(prefix: str, folder: str) -> None:
    assert folder_prefix(prefix) == folder


@pytest.mark.parametrize("prefix", ["/", "//", "a//", "../a", "/a"])
def test_a_malformed_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(Invalid):
        folder_prefix(prefix)


@pytest.mark.parametrize(
    ("uri", "parts"),
    [("s3://b/k", S3Uri("b", "k")), ("s3://b/a/b c/ü", S3Uri("b", "a/b c/ü")), ("s3://b/k/", S3Uri("b", "k"))],
)
def test_a_uri_and_its_parts(uri: str, parts: S3Uri) -> None:
    assert parse_s3(uri) == parts
    assert parse_s3(str(parts)) == parts
    assert parse_s3(s3_uri(parts.bucket, parts.key)) == parts


@pytest.mark.parametrize("uri", ["", "s3://", "s3://b", "s3://b/", "s3:///k", "b/k", "http://b/k", "s3:b/k"])
def test_what_is_no_uri_is_refused(uri: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_s3(uri)
    assert refused.value.reason == "S3_URI_INVALID"
    assert refused.value.metadata["uri"] == uri
