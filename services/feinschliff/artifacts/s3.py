"""A store on any S3: the only module that knows the minio client."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, S3Error, ServerError

from feinschliff.artifacts.store import (
    CHUNK_BYTES,
    GET_BYTES_MAX,
    OCTETS,
    Found,
    Stored,
    check_key,
    file_chunks,
    folder_prefix,
    missing,
    save_chunks,
    too_large,
    unavailable,
)
from feinschliff.artifacts.writer import Writer, pushed
from feinschliff.formats.manifest import MANIFEST_NAME
from feinschliff.kit.errors import Invalid, NotFound, Refusal, Unavailable

PART_BYTES = 8 * 1024 * 1024
_MISSING = frozenset({"NoSuchKey", "NoSuchObject", "ResourceNotFound"})
_REFUSED = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"})
_BUCKET_IS_OURS = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})


@dataclass(frozen=True)
class S3Settings:
    """Where the store is and how long to wait for it; `endpoint` is an http(s) URL without a path, `ca` a PEM file of
    those that it is trusted by, where they are not the system's.

    A refused connection or a 5xx is tried `tries` times, a silent server at most twice.
    """

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    region: str = "us-east-1"
    ca: Path | None = None
    connect_timeout_seconds: float = 2.0
    read_timeout_seconds: float = 15.0
    check_timeout_seconds: float = 2.0
    tries: int = 3
    part_bytes: int = PART_BYTES


class S3Store:
    """Objects in one bucket; safe for many threads at once.

    A stream goes up in parts of 8 MiB, so an object has at most 80 GB and a writer holds a few parts in memory.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._client = _client(settings, settings.read_timeout_seconds, settings.tries)
        self._quick = _client(settings, settings.check_timeout_seconds, 1)

    @property
    def bucket(self) -> str:
        return self._settings.bucket

    def in_bucket(self, bucket: str) -> S3Store:
        return self if bucket == self.bucket else S3Store(replace(self._settings, bucket=bucket))

    def ensure_bucket(self) -> None:
        """Make the bucket if it is missing; harmless when several processes do it at once."""
        with _answering(self.bucket):
            if self._client.bucket_exists(self.bucket):
                return
            try:
                self._client.make_bucket(self.bucket, location=self._settings.region)
            except S3Error as error:
                if error.code not in _BUCKET_IS_OURS:
                    raise

    def put_stream(self, key: str, chunks: Iterable[bytes], *, media_type: str = OCTETS) -> Stored:
        check_key(key)
        source = _HashingReader(chunks)
        with _answering(key):
            self._client.put_object(
                self.bucket,
                key,
                cast(BinaryIO, source),
                length=-1,
                part_size=self._settings.part_bytes,
                num_parallel_uploads=1,
                content_type=media_type,
            )
        return Stored(key, source.digest.hexdigest(), source.bytes_read)

    def put_bytes(self, key: str, data: bytes, *, media_type: str = OCTETS) -> Stored:
        check_key(key)
        with _answering(key):
            self._client.put_object(self.bucket, key, io.BytesIO(data), len(data), content_type=media_type)
        return Stored(key, hashlib.sha256(data).hexdigest(), len(data))

    def writer(self, key: str, *, media_type: str = OCTETS) -> AbstractContextManager[Writer]:
        check_key(key)
        return pushed(lambda chunks: self.put_stream(key, chunks, media_type=media_type))

    def open(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        check_key(key)
        if offset:
            found = self.head(key)
            if found is None:
                raise missing(key)
            if offset >= found.size_bytes:
                return iter(())
        with _answering(key):
            response = self._client.get_object(self.bucket, key, offset=offset)
        return _body(response, key)

    def get_bytes(self, key: str, limit_bytes: int = GET_BYTES_MAX) -> bytes:
        data = bytearray()
        for chunk in self.open(key):
            data += chunk
            if len(data) > limit_bytes:
                raise too_large(key, len(data), limit_bytes)
        return bytes(data)

    def head(self, key: str) -> Found | None:
        check_key(key)
        try:
            with _answering(key):
                stat = self._client.stat_object(self.bucket, key)
        except NotFound:
            return None
        return Found(key, stat.size or 0, stat.last_modified or datetime.fromtimestamp(0, UTC))

    def list(self, prefix: str = "") -> Iterator[str]:
        with _answering(prefix):
            for found in self._client.list_objects(self.bucket, folder_prefix(prefix) or None, recursive=True):
                if found.object_name and not found.is_dir:
                    yield found.object_name

    def delete(self, key: str) -> None:
        check_key(key)
        with suppress(NotFound), _answering(key):
            self._client.remove_object(self.bucket, key)

    def delete_prefix(self, prefix: str) -> None:
        check_key(prefix.removesuffix("/"))
        keys = list(self.list(prefix))
        for key in keys:
            if key.rsplit("/", 1)[-1] == MANIFEST_NAME:
                self.delete(key)
        with _answering(prefix):
            doomed = (DeleteObject(key) for key in keys)
            refused = [
                error for error in self._client.remove_objects(self.bucket, doomed) if error.code not in _MISSING
            ]
        if refused:
            raise unavailable(f"{len(refused)} of {len(keys)} objects below {prefix} stayed: {refused[0].message}")

    def download(self, key: str, path: Path) -> Stored:
        return save_chunks(self.open(key), key, path)

    def upload(self, path: Path, key: str, *, media_type: str = OCTETS) -> Stored:
        return self.put_stream(key, file_chunks(path), media_type=media_type)

    def drop_unfinished(self, *, older_than: timedelta) -> int:
        """Free the parts that writers left which were killed; how many uploads that were.

        A writer at work is not told apart from a dead one: give it time.
        """
        before = datetime.now(UTC) - older_than
        dropped = 0
        with _answering(self.bucket):
            # The client has no public call for this.
            for upload in self._client._list_multipart_uploads(self.bucket).uploads:
                if upload.initiated_time is not None and upload.initiated_time <= before and upload.upload_id:
                    self._client._abort_multipart_upload(self.bucket, upload.object_name, upload.upload_id)
                    dropped += 1
        return dropped

    def check(self) -> None:
        with _answering(self.bucket):
            there = self._quick.bucket_exists(self.bucket)
        if not there:
            raise _bucket_missing(self.bucket)


class _HashingReader:
    """Gives minio exactly the bytes that it asks for out of chunks of any size, and hashes them."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._pending = bytearray()
        self.digest = hashlib.sha256()
        self.bytes_read = 0

    def read(self, size_bytes: int) -> bytes:
        while len(self._pending) < size_bytes:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._pending += chunk
        piece = bytes(memoryview(self._pending)[:size_bytes])
        del self._pending[: len(piece)]
        self.digest.update(piece)
        self.bytes_read += len(piece)
        return piece


def _client(settings: S3Settings, read_timeout_seconds: float, tries: int) -> Minio:
    endpoint = urlsplit(settings.endpoint)
    if endpoint.scheme not in {"http", "https"} or not endpoint.netloc:
        raise Invalid("S3_ENDPOINT_INVALID", f"{settings.endpoint!r} is no http(s) URL.", endpoint=settings.endpoint)
    again = tries - 1
    retry = urllib3.Retry(
        total=again,
        connect=again,
        read=min(again, 1),
        status=again,
        backoff_factor=0.1,
        status_forcelist=[500, 502, 503, 504],
    )
    return Minio(
        endpoint.netloc,
        access_key=settings.access_key,
        secret_key=settings.secret_key,
        secure=endpoint.scheme == "https",
        region=settings.region,
        http_client=urllib3.PoolManager(
            maxsize=32,
            timeout=urllib3.Timeout(connect=settings.connect_timeout_seconds, read=read_timeout_seconds),
            retries=retry,
            cert_reqs="CERT_REQUIRED",
            ca_certs=None if settings.ca is None else str(settings.ca),
        ),
    )


def _body(response: urllib3.BaseHTTPResponse, key: str) -> Iterator[bytes]:
    try:
        with _answering(key):
            yield from response.stream(CHUNK_BYTES)
    finally:
        response.close()
        response.release_conn()


@contextmanager
def _answering(key: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        raise _refusal(error, key) from error
    except (InvalidResponseError, ServerError, urllib3.exceptions.HTTPError) as error:
        raise unavailable(str(error)) from error


def _refusal(error: S3Error, key: str) -> Refusal:
    if error.code in _MISSING:
        return missing(key)
    if error.code == "NoSuchBucket":
        return _bucket_missing(error.bucket_name or "")
    if error.code in _REFUSED:
        return Unavailable(
            "STORE_REFUSES_KEYS",
            f"The object store refuses our keys ({error.code}).",
            advice=["Check FEINSCHLIFF_S3_ACCESS_KEY, FEINSCHLIFF_S3_SECRET_KEY and the bucket's policy."],
            code=error.code or "",
        )
    return unavailable(f"{error.code}: {error.message}")


def _bucket_missing(bucket: str) -> Unavailable:
    return Unavailable("STORE_BUCKET_MISSING", f"There is no bucket {bucket!r}.", bucket=bucket)
