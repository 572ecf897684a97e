"""How fast the service answers others while hostile Python graders keep it busy, and how soon it first grades at all.

A service of its own process; the whole corpus of attacks, round after round, and two endless graders beside it.
Prints one JSON object a line, then one for each goal.
"""

from __future__ import annotations

import json
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
from google.protobuf.struct_pb2 import Struct

from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb
from feinschliff.v1 import evaluation_pb2_grpc
from tests.bench.evaluation.ahead import put_ahead
from tests.contract.sandbox.attacks import ATTACKS, ESCAPED, SECRET
from tests.support.ports import free_port
from tests.support.processes import room_process

PARENT = "projects/default"
WORKERS = 4
ENDLESS, ENDLESS_SECONDS = "def grade(sample, item):\n    while True: pass\n", 120
TRIVIAL = "def grade(sample, item):\n    return float(sample['output_text'] == item['label'])\n"
PAUSE_SECONDS = 0.005
P99_SECONDS_MAX, FIRST_SECONDS_MAX = 0.2, 5.0
Stub = evaluation_pb2_grpc.EvaluationServiceStub


def measure(*, is_ahead: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, _service(Path(folder), is_ahead) as stub:
        began = time.perf_counter()
        grade = _graded(stub, pb.Grader(name="first", python=pb.PythonGrader(source=TRIVIAL)))
        first = time.perf_counter() - began
        assert grade.value == 1.0, grade
        _say("first_grade", seconds=first)
        calls = _ordinary(stub)
        _report("alone", _called(calls, threading.Event(), count=300))
        with _attacks(stub, Path(folder)) as over:
            beside = _called(calls, over)
        _report("beside_attacks", beside)
    everything = [one for seconds in beside.values() for one in seconds]
    _goal("first_grade", f"seconds <= {FIRST_SECONDS_MAX:g}: no compile", first, FIRST_SECONDS_MAX)
    _goal("beside_attacks", f"p99 seconds < {P99_SECONDS_MAX:g}", _p99(everything), P99_SECONDS_MAX)


@contextmanager
def _service(folder: Path, is_ahead: bool) -> Iterator[Stub]:
    port = free_port()
    environment = {
        "FEINSCHLIFF_HOME": str(folder),
        "FEINSCHLIFF_EVALUATION_PORT": str(port),
        "FEINSCHLIFF_EVALUATION_METRICS_PORT": str(free_port()),
        "FEINSCHLIFF_EVALUATION_SANDBOX_WORKERS": str(WORKERS),
        "FEINSCHLIFF_S3_SECRET_KEY": SECRET,
        "FEINSCHLIFF_DRAIN_SECONDS": "0",
    }
    process = room_process("evaluation", port, environment, folder / "logs")
    process.start()
    if is_ahead:
        put_ahead(process.pid)
    try:
        process.wait_serving()
        with grpc.insecure_channel(process.address) as channel:
            yield Stub(channel)
    finally:
        process.kill()


def _ordinary(stub: Stub) -> Mapping[str, Callable[[], object]]:
    """What others ask: a read of one thing, of a page, a write, and a grade that takes no sandbox."""
    exact = pb.StringCheckGrader(
        input="{{ sample.output_text }}", reference="{{ item.label }}", operation=pb.StringCheckGrader.OPERATION_EQ
    )
    check = pb.Grader(name="exact", string_check=exact)
    wanted = pb.Eval(graders=[check])
    wanted.item_schema.update({"type": "object"})
    for _ in range(20):
        name = stub.CreateEval(pb.CreateEvalRequest(parent=PARENT, eval=wanted)).name
    return {
        "GetEval": lambda: stub.GetEval(pb.GetEvalRequest(name=name)),
        "ListEvals": lambda: stub.ListEvals(pb.ListEvalsRequest(parent=PARENT)),
        "ListEvalRuns": lambda: stub.ListEvalRuns(pb.ListEvalRunsRequest(parent=name)),
        "CreateEval": lambda: stub.CreateEval(pb.CreateEvalRequest(parent=PARENT, eval=wanted)),
        "RunGrader": lambda: _graded(stub, check),
    }


def _called(calls: Mapping[str, Callable[[], object]], over: threading.Event, count: int = 0) -> dict[str, list[float]]:
    """Seconds of each, asked in turn until it is over, or so many times."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    rounds = 0
    while not over.is_set() and (not count or rounds < count):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
            time.sleep(PAUSE_SECONDS)
        rounds += 1
    return seconds


@contextmanager
def _attacks(stub: Stub, folder: Path) -> Iterator[threading.Event]:
    """Two endless graders, and all attacks by two callers; the event is set once the last attack is over."""
    secret, over = folder / "secret", threading.Event()
    secret.write_text(SECRET)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        item = {"secret_file": str(secret), "port": listener.getsockname()[1], "host": socket.gethostname()}
        endless = pb.Grader(name="endless", python=pb.PythonGrader(source=ENDLESS, timeout_seconds=ENDLESS_SECONDS))
        for _ in range(2):
            stub.RunGrader.future(_request(endless, {}, ""))  # type: ignore[attr-defined]
        left, ends = iter(ATTACKS), [threading.Event() for _ in range(2)]

        def attack(end: threading.Event) -> None:
            try:
                for one in left:
                    python = pb.PythonGrader(source=one.source, timeout_seconds=one.seconds)
                    grade = stub.RunGrader(_request(pb.Grader(name="attack", python=python), item, "")).grade
                    assert grade.raw != ESCAPED, one.name
            finally:
                end.set()

        began = time.perf_counter()
        crowd = [threading.Thread(target=attack, args=(end,)) for end in ends]
        watcher = threading.Thread(target=lambda: ([end.wait() for end in ends], over.set()))
        for thread in (*crowd, watcher):
            thread.start()
        yield over
        for thread in (*crowd, watcher):
            thread.join()
        _say("attacks", seconds=time.perf_counter() - began, attacks=len(ATTACKS))


def _graded(stub: Stub, grader: pb.Grader) -> pb.Grade:
    return stub.RunGrader(_request(grader, {"label": "a"}, "a")).grade


def _request(grader: pb.Grader, item: Mapping[str, object], answer: str) -> pb.RunGraderRequest:
    row = Struct()
    row.update(dict(item))  # type: ignore[arg-type]
    sample = common.Message(role=common.ROLE_ASSISTANT, parts=[common.Part(text=answer)])
    return pb.RunGraderRequest(parent=PARENT, grader=grader, item=row, sample=sample)


def _report(when: str, seconds: Mapping[str, Sequence[float]]) -> None:
    for name, some in seconds.items():
        _say(when, call=name, n=len(some), median=statistics.median(some), p99=_p99(some), longest=max(some))


def _p99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[int(0.99 * (len(seconds) - 1))]


def _say(subject: str, **values: object) -> None:
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
    print(json.dumps({"bench": "evaluation.others", "subject": subject, **rounded}), flush=True)


def _goal(subject: str, goal: str, value: float, limit: float) -> None:
    _say(subject, goal=goal, value=value, met=value <= limit)
