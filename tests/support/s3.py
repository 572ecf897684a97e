"""A real S3 server for tests, and a private one that can be stopped, frozen and started again."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject

from feinschliff.artifacts.s3 import S3Settings, S3Store
from feinschliff.cli.embedded_s3 import RunningS3, start_s3
from tests.support.ports import free_port

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"


@dataclass(frozen=True)
class S3Server:
    """Where a server is and how to log in; also as the environment of a service."""

    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    def store(self, bucket: str, *, read_timeout_seconds: float = 15.0, tries: int = 3) -> S3Store:
        """A store on `bucket`, which is made if it is missing."""
        store = S3Store(
            S3Settings(
                self.endpoint,
                self.access_key,
                self.secret_key,
                bucket,
                read_timeout_seconds=read_timeout_seconds,
                tries=tries,
            )
        )
        store.ensure_bucket()
        return store

    def environment(self, bucket: str) -> dict[str, str]:
        return {
            "FEINSCHLIFF_S3_ENDPOINT": self.endpoint,
            "FEINSCHLIFF_S3_ACCESS_KEY": self.access_key,
            "FEINSCHLIFF_S3_SECRET_KEY": self.secret_key,
            "FEINSCHLIFF_S3_BUCKET": bucket,
        }

    def client(self) -> Minio:
        """The raw client, to look behind the store's back."""
        return Minio(
            self.endpoint.removeprefix("http://"),
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=False,
            region="us-east-1",
            http_client=urllib3.PoolManager(timeout=urllib3.Timeout(connect=2, read=20), retries=False),
        )

    def drop_bucket(self, bucket: str) -> None:
        client = self.client()
        found = client.list_objects(bucket, recursive=True)
        for error in client.remove_objects(bucket, (DeleteObject(one.object_name or "") for one in found)):
            raise AssertionError(f"{error.name} cannot be removed: {error.message}")
        client.remove_bucket(bucket)


class S3Outage:
    """A private server whose failures a test commands; its data survives."""

    def __init__(self, folder: Path, bucket: str = "outage") -> None:
        self._folder = folder
        self._port = free_port()
        self.bucket = bucket
        self.server = S3Server(f"http://127.0.0.1:{self._port}")
        self._running: RunningS3 | None = None

    def start(self) -> None:
        """Start it, or start it again on the same port; returns when it stores."""
        self._running = start_s3(
            self._folder, port=self._port, access_key=ACCESS_KEY, secret_key=SECRET_KEY, bucket=self.bucket
        )

    def stop(self) -> None:
        """Connections are refused from here on."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def kill(self) -> None:
        """As `stop`, without a goodbye."""
        assert self._running is not None
        self._running.process.kill()
        self._running.process.wait()
        self._running = None

    def freeze(self) -> None:
        """Connections are accepted and nothing is answered from here on."""
        assert self._running is not None
        self._running.process.send_signal(signal.SIGSTOP)
        os.waitpid(self._running.process.pid, os.WUNTRACED)  # the signal is only sent: until here it still answers

    def thaw(self) -> None:
        if self._running is not None:
            self._running.process.send_signal(signal.SIGCONT)
