"""Streams 2 GB to a real ingestion process on a real S3 server: throughput, and the most memory it ever had."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import orjson

from feinschliff.cli.embedded_s3 import start_s3
from feinschliff.ingestion.intake import Intake, Limits, Wanted
from feinschliff.ingestion.outputs import Nowhere
from feinschliff.v1 import ingestion_pb2 as pb
from feinschliff.v1 import ingestion_pb2_grpc
from tests.support.ports import free_port
from tests.support.processes import RoomProcess, room_process

MB = 1_000_000
CHUNK_BYTES = 1024 * 1024
PLACE = b"case 0000000000"
ACCESS_KEY, SECRET_KEY = "bench-access-key", "bench-secret-key"
TIMEOUT_SECONDS = 1800.0
INTENTS = ("track_order", "refund", "cancel", "change_address", "invoice", "complaint", "login", "other")
SENTENCES = (
    "My parcel should have come last week and the tracking page has not changed since then.",
    "Ich habe die Rechnung zweimal bezahlt und möchte den zu viel gezahlten Betrag zurück.",
    "Could you please send the order to my office instead, if it has not left the warehouse yet?",
    "The app logs me out each time I open the basket, on two phones and in the browser as well.",
    "Bitte stornieren Sie die Bestellung, ich habe mich in der Größe geirrt.",
)


def chunks(total_bytes: int) -> Iterator[bytes]:
    """A file of conversations, about 500 bytes each and no two alike, cut at any place."""
    block = b"".join(_row(number) for number in range(4096))
    rest, pending, turn = total_bytes, b"", 0
    while rest > 0:
        pending += block.replace(PLACE, b"case %010d" % turn)
        turn += 1
        while len(pending) >= CHUNK_BYTES and rest > 0:
            yield pending[:CHUNK_BYTES]
            pending = pending[CHUNK_BYTES:]
            rest -= CHUNK_BYTES
    yield pending[: pending.rfind(b"\n", 0, CHUNK_BYTES) + 1]


def measure_checks(total_bytes: int) -> Mapping[str, float]:
    """Reading, checking, normalising, splitting and counting alone: no network, no store, no tokens."""
    intake = Intake(Wanted(), Limits(), Nowhere())
    pieces = list(chunks(total_bytes))
    begun = time.perf_counter()
    for piece in pieces:
        intake.feed(piece)
    summary = intake.finish()
    seconds = time.perf_counter() - begun
    return {
        "megabytes_per_second": summary.source_bytes / MB / seconds,
        "rows_per_second": summary.rows / seconds,
        "bytes_per_row": summary.source_bytes / summary.rows,
    }


def measure_upload(total_bytes: int, folder: Path) -> Mapping[str, float]:
    """The whole way over gRPC into the store, tokens included."""
    s3 = start_s3(folder / "s3", port=free_port(), bucket="bench", access_key=ACCESS_KEY, secret_key=SECRET_KEY)
    process = _ingestion(folder, s3.endpoint)
    try:
        process.start_and_wait()
        idle_mb = _memory_mb(process.pid, "VmRSS")
        begun = time.perf_counter()
        with grpc.insecure_channel(process.address) as channel:
            stub = ingestion_pb2_grpc.DatasetServiceStub(channel)
            version = stub.UploadDatasetVersion(_parts(total_bytes), timeout=TIMEOUT_SECONDS)
        seconds = time.perf_counter() - begun
        return {
            "peak_rss_mb": _memory_mb(process.pid, "VmHWM"),
            "idle_rss_mb": idle_mb,
            "megabytes_per_second": version.source.size_bytes / MB / seconds,
            "rows_per_second": version.rows / seconds,
            "seconds": seconds,
            "source_megabytes": version.source.size_bytes / MB,
        }
    finally:
        process.close()
        s3.stop()


def _row(number: int) -> bytes:
    texts = [SENTENCES[(number + place) % len(SENTENCES)] for place in range(3)]
    question = f"{PLACE.decode()}-{number}: {' '.join(texts)}"
    messages = [
        {"role": "system", "content": "Answer with the customer's intent and nothing else."},
        {"role": "user", "content": question},
        {"role": "assistant", "content": INTENTS[number % len(INTENTS)]},
    ]
    return orjson.dumps({"messages": messages}) + b"\n"


def _parts(total_bytes: int) -> Iterator[pb.UploadDatasetVersionRequest]:
    header = pb.UploadHeader(parent="projects/bench/datasets/large", create_dataset_if_missing=True)
    yield pb.UploadDatasetVersionRequest(header=header)
    for chunk in chunks(total_bytes):
        yield pb.UploadDatasetVersionRequest(chunk=chunk)


def _ingestion(folder: Path, endpoint: str) -> RoomProcess:
    port = free_port()
    environment = {
        "FEINSCHLIFF_S3_ENDPOINT": endpoint,
        "FEINSCHLIFF_S3_ACCESS_KEY": ACCESS_KEY,
        "FEINSCHLIFF_S3_SECRET_KEY": SECRET_KEY,
        "FEINSCHLIFF_S3_BUCKET": "bench",
        "FEINSCHLIFF_HOME": str(folder / "home"),
        "FEINSCHLIFF_INGESTION_PORT": str(port),
        "FEINSCHLIFF_INGESTION_METRICS_PORT": str(free_port()),
        "FEINSCHLIFF_DRAIN_SECONDS": "0",
    }
    return room_process("ingestion", port, environment, folder)


def _memory_mb(pid: int, field: str) -> float:
    """VmRSS is now, VmHWM the most there ever was; the kernel counts in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / MB
    raise LookupError(field)


def report(bench: str, values: Mapping[str, float]) -> None:
    for metric, value in values.items():
        line = {"bench": bench, "subject": "feinschliff", "metric": metric, "value": round(value, 1), "runs": 1}
        print(orjson.dumps(line | {"spread": [round(value, 1)] * 2}).decode(), flush=True)


def goal(bench: str, words: str, value: float, *, holds: bool) -> None:
    print(orjson.dumps({"bench": bench, "goal": words, "value": round(value, 1), "holds": holds}).decode(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2000, help="size of the uploaded file")
    megabytes: int = parser.parse_args().megabytes
    print(f"cores={os.cpu_count()} load={os.getloadavg()[0]:.1f}", file=sys.stderr)
    checks = measure_checks(min(megabytes, 300) * MB)
    report("ingestion.checks", checks)
    speed = checks["megabytes_per_second"]
    goal("ingestion.checks", "megabytes_per_second >= 40", speed, holds=speed >= 40)
    with tempfile.TemporaryDirectory(prefix="feinschliff-bench-") as folder:
        upload = measure_upload(megabytes * MB, Path(folder))
    report("ingestion.upload", upload)
    peak = upload["peak_rss_mb"]
    goal("ingestion.upload", "peak_rss_mb <= 300", peak, holds=peak <= 300)


if __name__ == "__main__":
    main()
