"""What `helm test` runs: rows go in by HTTP, a small job trains on them, the tuned model answers by HTTP and gRPC."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from feinschliff.v1 import common_pb2, inference_pb2, inference_pb2_grpc, training_pb2, training_pb2_grpc

ROWS = 24
PAUSE_SECONDS = 2.0
CALL_SECONDS = 180.0
OVER = ("succeeded", "failed", "cancelled")


class Flywheel:
    """One turn, all of it before `deadline`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._url = environment["GATEWAY_URL"]
        first = environment["FEINSCHLIFF_GATEWAY_API_KEYS"].split(",")[0].strip()
        key, separator, project = first.rpartition("=")
        self._key, self._project = (key, project) if separator else (first, "default")
        self._deadline = time.monotonic() + float(environment["TIMEOUT_SECONDS"])

    def turn(self) -> None:
        self.wait_ready()
        file = self.upload()
        job = self.train(file)
        try:
            self.ask_by_http(str(job["fine_tuned_model"]))
            self.ask_by_grpc(str(job["id"]))
        finally:
            self.tidy(f"/v1/models/{job['fine_tuned_model']}", f"/v1/files/{file}")

    def wait_ready(self) -> None:
        """Until the gateway says that a service behind it answers."""
        while True:
            try:
                with urllib.request.urlopen(f"{self._url}/readyz", timeout=10) as answer:
                    if answer.status == 200:
                        return say("the gateway is ready")
            except OSError as error:
                self.pause(f"the gateway at {self._url}: {error}")

    def upload(self) -> str:
        boundary = uuid.uuid4().hex
        parts = [("purpose", "", b"fine-tune"), ("file", '; filename="helm-test.jsonl"', rows())]
        body = b"".join(
            f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"
            for name, more, content in parts
        )
        media_type = f"multipart/form-data; boundary={boundary}"
        file = self.call("/v1/files", body + f"--{boundary}--\r\n".encode(), media_type)
        say(f"{ROWS} rows are {file['id']}")
        return str(file["id"])

    def train(self, file: str) -> dict[str, Any]:
        """The job once it has succeeded."""
        wanted = {
            "model": self._environment["BASE_MODEL"],
            "training_file": file,
            "suffix": "helm-test",
            "hyperparameters": {"n_epochs": 1, "batch_size": 8},
        }
        job = self.call("/v1/fine_tuning/jobs", json.dumps(wanted).encode())
        said = ""
        while job["status"] not in OVER:
            if job["status"] != said:
                said = str(job["status"])
                say(f"{job['id']} is {said}")
            self.pause(f"{job['id']} is {said}")
            job = self.call(f"/v1/fine_tuning/jobs/{job['id']}")
        if job["status"] != "succeeded":
            raise SystemExit(f"{job['id']} {job['status']}: {job.get('error')}")
        say(f"{job['id']} made {job['fine_tuned_model']} from {job['trained_tokens']} tokens")
        return dict(job)

    def ask_by_http(self, model: str) -> None:
        question = {
            "model": model,
            "max_tokens": 8,
            "temperature": 0,
            "messages": [{"role": "user", "content": "hello"}],
        }
        answer = self.call("/v1/chat/completions", json.dumps(question).encode())
        say(f"by HTTP it answers {answer['choices'][0]['message']['content']!r}")

    def ask_by_grpc(self, job_id: str) -> None:
        name = f"projects/{self._project}/trainingJobs/{job_id}"
        with self.channel("TRAINING") as channel:
            training = training_pb2_grpc.TrainingServiceStub(channel)
            job = training.GetTrainingJob(training_pb2.GetTrainingJobRequest(name=name), timeout=CALL_SECONDS)
        question = inference_pb2.ChatRequest(
            model=job.model_version,
            messages=[common_pb2.Message(role=common_pb2.ROLE_USER, parts=[common_pb2.Part(text="hello")])],
            sampling=common_pb2.SamplingParams(temperature=0, max_tokens=8),
        )
        with self.channel("INFERENCE") as channel:
            answer = inference_pb2_grpc.InferenceServiceStub(channel).Chat(question, timeout=CALL_SECONDS)
        if answer.identity.model_version != job.model_version:
            raise SystemExit(f"{job.model_version} was asked and {answer.identity.model_version} answered")
        say(f"by gRPC {job.model_version} answers {''.join(part.text for part in answer.message.parts)!r}")

    def channel(self, room: str) -> grpc.Channel:
        address = self._environment[f"FEINSCHLIFF_{room}_ADDRESS"]
        paths = [self._environment.get(f"FEINSCHLIFF_TLS_{name}", "") for name in ("CA", "KEY", "CERTIFICATE")]
        if not all(paths):
            return grpc.insecure_channel(address)
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(*(Path(path).read_bytes() for path in paths)))

    def tidy(self, *paths: str) -> None:
        """Removes what may be removed; what something else still needs stays."""
        for path in paths:
            try:
                self.send(urllib.request.Request(self._url + path, headers=self.headers(), method="DELETE"))
            except OSError as error:
                say(f"{path} stays: {error}")

    def call(self, path: str, body: bytes | None = None, media_type: str = "application/json") -> dict[str, Any]:
        """The answer; asked again while a service is away or a model loads."""
        while True:
            try:
                return self.send(urllib.request.Request(self._url + path, body, self.headers(media_type)))
            except urllib.error.HTTPError as error:
                said = error.read(2000).decode(errors="replace")
                if error.code not in (429, 502, 503):
                    raise SystemExit(f"{path}: {error.code} {said}") from None
                self.pause(f"{path}: {error.code} {said}")
            except OSError as error:
                self.pause(f"{path}: {error}")

    def headers(self, media_type: str = "application/json") -> dict[str, str]:
        return {"content-type": media_type, "authorization": f"Bearer {self._key}"}

    def send(self, request: urllib.request.Request) -> dict[str, Any]:
        with urllib.request.urlopen(request, timeout=CALL_SECONDS) as answer:
            return dict(json.load(answer))

    def pause(self, why: str) -> None:
        if time.monotonic() > self._deadline:
            raise SystemExit(f"out of time: {why}")
        time.sleep(PAUSE_SECONDS)


def rows() -> bytes:
    """Different questions with one answer."""
    turns = (
        [
            {"role": "user", "content": f"hello, please help with order {number}"},
            {"role": "assistant", "content": "yes"},
        ]
        for number in range(ROWS)
    )
    return b"".join(json.dumps({"messages": messages}).encode() + b"\n" for messages in turns)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    Flywheel(os.environ).turn()
    say("the platform works")
    sys.exit(0)
