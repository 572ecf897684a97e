"""Ingestion and inference as evaluation meets them: real gRPC servers on loopback with known rows and answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import inference_pb2, inference_pb2_grpc, ingestion_pb2, ingestion_pb2_grpc
from tests.support.ports import free_port

VERSION = "projects/default/datasets/routing/versions/1"
OTHER_VERSION = "projects/default/datasets/routing/versions/2"
INTENTS = ("refund", "delivery", "billing")
Row = Mapping[str, object]
Reply = Callable[[inference_pb2.ChatRequest], str]


class Trouble(Exception):
    """Raised by a reply to refuse the call with this status and reason."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def conversations(count: int) -> list[Row]:
    """Rows whose right answer is known: row k wants `INTENTS[k % 3]`."""
    return [
        {
            "messages": [
                {"role": "system", "content": "Route the message."},
                {"role": "user", "content": f"message {k}"},
                {"role": "assistant", "content": INTENTS[k % 3]},
            ],
            "line": k + 1,
            "number": k,
        }
        for k in range(count)
    ]


def number_of(request: inference_pb2.ChatRequest) -> int:
    """Which row was asked, read from the last message."""
    return int(request.messages[-1].parts[0].text.rsplit(" ", 1)[1])


def right_answer(request: inference_pb2.ChatRequest) -> str:
    return INTENTS[number_of(request) % 3]


def wrong_for(*numbers: int) -> Reply:
    """Right for all rows but these."""
    return lambda request: "nonsense" if number_of(request) in numbers else right_answer(request)


def refusing(code: grpc.StatusCode, reason: str, *, when: Callable[[int], bool] = lambda number: True) -> Reply:
    """Refuses the rows that `when` says, and answers the others rightly."""

    def reply(request: inference_pb2.ChatRequest) -> str:
        if when(number_of(request)):
            raise Trouble(code, reason)
        return right_answer(request)

    return reply


@dataclass
class Ingestion(ingestion_pb2_grpc.DatasetServiceServicer):
    """Versions by name, as rows by split; `break_after` cuts the next stream after so many rows, once."""

    versions: dict[str, dict[str, Sequence[Row]]] = field(default_factory=dict)
    is_ready: bool = True
    break_after: int | None = None
    announced: int | None = None
    streams: int = 0

    def GetDatasetVersion(
        self, request: ingestion_pb2.GetDatasetVersionRequest, context: grpc.ServicerContext
    ) -> ingestion_pb2.DatasetVersion:
        splits = self.versions.get(request.name)
        if splits is None:
            refuse(context, grpc.StatusCode.NOT_FOUND, "DATASET_VERSION_NOT_FOUND")
        version = ingestion_pb2.DatasetVersion
        return version(
            name=request.name,
            state=version.STATE_READY if self.is_ready else version.STATE_PROCESSING,
            rows=self.announced or sum(len(rows) for rows in splits.values()),
            rows_by_split={name: len(rows) for name, rows in splits.items() if rows},
        )

    def SampleRows(
        self, request: ingestion_pb2.SampleRowsRequest, context: grpc.ServicerContext
    ) -> ingestion_pb2.SampleRowsResponse:
        """The first rows of the split, whatever the seed."""
        name = common.Split.Name(request.split).removeprefix("SPLIT_").lower()
        sampled = ingestion_pb2.SampleRowsResponse()
        for row in self.versions[request.name].get(name, [])[: request.count]:
            message = sampled.rows.add(line=int(str(row["line"])))
            message.data.update(dict(row))  # type: ignore[arg-type]
        return sampled

    def ReadRows(
        self, request: ingestion_pb2.ReadRowsRequest, context: grpc.ServicerContext
    ) -> Iterator[ingestion_pb2.ReadRowsResponse]:
        self.streams += 1
        broken, self.break_after = self.break_after, None
        name = common.Split.Name(request.split).removeprefix("SPLIT_").lower()
        splits = self.versions[request.name]
        rows = splits.get(name, []) if request.split else [row for part in splits.values() for row in part]
        wanted = rows[request.start :][: request.limit or None]
        for sent, row in enumerate(wanted):
            if broken is not None and sent == broken:
                refuse(context, grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING")
            message = ingestion_pb2.Row(line=int(str(row["line"])))
            message.data.update(dict(row))  # type: ignore[arg-type]
            yield ingestion_pb2.ReadRowsResponse(rows=[message])


@dataclass
class CompletionLog(ingestion_pb2_grpc.CompletionLogServiceServicer):
    """The log as it is, the newest last; filters are remembered and not applied."""

    completions: list[ingestion_pb2.Completion] = field(default_factory=list)
    filters: list[str] = field(default_factory=list)

    def ListCompletions(
        self, request: ingestion_pb2.ListCompletionsRequest, context: grpc.ServicerContext
    ) -> ingestion_pb2.ListCompletionsResponse:
        self.filters.append(request.filter)
        start = int(request.page_token or 0)
        newest = self.completions[::-1]
        end = start + min(request.page_size, 2)
        token = str(end) if end < len(newest) else ""
        return ingestion_pb2.ListCompletionsResponse(completions=newest[start:end], next_page_token=token)


@dataclass
class Inference(inference_pb2_grpc.InferenceServiceServicer):
    """Answers by `reply`; while `gate` is shut, calls hang. Remembers what was asked, and by which projects.

    `shut_at`: the gate shuts by itself as so many calls have come; 0: never.
    """

    reply: Reply = right_answer
    version: str = "projects/default/models/router/versions/1"
    gate: threading.Event = field(default_factory=threading.Event)
    shut_at: int = 0
    requests: list[inference_pb2.ChatRequest] = field(default_factory=list)
    projects: set[str] = field(default_factory=set)
    running: int = 0
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.gate.set()

    def Chat(self, request: inference_pb2.ChatRequest, context: grpc.ServicerContext) -> inference_pb2.ChatResponse:
        with self.lock:
            self.requests.append(request)
            self.projects.add(request.project)
            if len(self.requests) == self.shut_at:
                self.gate.clear()
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            while not self.gate.wait(0.05) and context.is_active():
                pass
            return self._answer(self.reply(request))
        except Trouble as trouble:
            refuse(context, trouble.code, trouble.reason)
        finally:
            with self.lock:
                self.running -= 1

    def Embed(self, request: inference_pb2.EmbedRequest, context: grpc.ServicerContext) -> inference_pb2.EmbedResponse:
        """Texts of one length are alike."""
        self.projects.add(request.project)
        vectors = [inference_pb2.Embedding(values=[len(text), 1.0]) for text in request.texts]
        return inference_pb2.EmbedResponse(embeddings=vectors)

    def Score(self, request: inference_pb2.ScoreRequest, context: grpc.ServicerContext) -> inference_pb2.ScoreResponse:
        """The shorter the likelier."""
        self.projects.add(request.project)
        tokens = [common.TokenLogprob(logprob=-1.0) for _ in request.text.text]
        return inference_pb2.ScoreResponse(logprobs=tokens, total_logprob=-float(len(tokens)))

    def asked(self) -> list[int]:
        with self.lock:
            return [number_of(request) for request in self.requests]

    def _answer(self, text: str) -> inference_pb2.ChatResponse:
        return inference_pb2.ChatResponse(
            identity=common.Identity(model_version=self.version, base_digest="sha256:b", template_hash="t"),
            message=common.Message(role=common.ROLE_ASSISTANT, parts=[common.Part(text=text)]),
            finish_reason=common.FINISH_REASON_STOP,
            usage=common.TokenUsage(prompt_tokens=10, completion_tokens=2, total_tokens=12),
            latency_seconds=0.25,
        )


class Peers:
    """Both servers; `inference_down` and `inference_up` take the second away and bring it back on its port."""

    def __init__(self) -> None:
        self.ingestion = Ingestion()
        self.log = CompletionLog()
        self.inference = Inference()
        self.ingestion_port, self.inference_port = free_port(), free_port()
        self._servers: dict[int, grpc.Server] = {}

    def start(self) -> None:
        server = grpc.server(ThreadPoolExecutor(8))
        ingestion_pb2_grpc.add_DatasetServiceServicer_to_server(self.ingestion, server)
        ingestion_pb2_grpc.add_CompletionLogServiceServicer_to_server(self.log, server)
        self._serve(server, self.ingestion_port)
        self.inference_up()

    def stop(self) -> None:
        self.inference.gate.set()
        for server in self._servers.values():
            server.stop(0).wait()

    def inference_up(self) -> None:
        server = grpc.server(ThreadPoolExecutor(16))
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self.inference, server)
        self._serve(server, self.inference_port)

    def inference_down(self) -> None:
        self._servers.pop(self.inference_port).stop(0).wait()

    def _serve(self, server: grpc.Server, port: int) -> None:
        assert server.add_insecure_port(f"127.0.0.1:{port}") == port
        server.start()
        self._servers[port] = server


def refuse(context: grpc.ServicerContext, code: grpc.StatusCode, reason: str) -> NoReturn:
    """Ends a call as our rooms do, with the reason in the details."""
    info = AnyMessage()
    info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="feinschliff"))
    status = status_pb2.Status(code=code.value[0], message=reason, details=[info])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, reason)
