"""What remembers exchanges, put together: who decides and writes, what keeps them, who delivers."""

from __future__ import annotations

from typing import NamedTuple

from feinschliff.inference.delivery import Delivery
from feinschliff.inference.policies import Policies
from feinschliff.inference.recorder import Recorder
from feinschliff.inference.settings import InferenceSettings
from feinschliff.inference.spool import Spool
from feinschliff.kit.client import sync_channel
from feinschliff.kit.clock import SystemClock
from feinschliff.kit.errors import StartError
from feinschliff.kit.metrics import Metrics
from feinschliff.kit.watch import Wake
from feinschliff.v1 import ingestion_pb2_grpc

SERVICE = "feinschliff.v1.CompletionLogService"
FLUSH_SECONDS = 3.0  # at the end, for what is still on its way to the completion log; the rest stays in the spool


class Memory(NamedTuple):
    """Of one process."""

    recorder: Recorder
    delivery: Delivery
    spool: Spool

    def close(self) -> None:
        self.delivery.flush(FLUSH_SECONDS)
        self.spool.close()


def memory_of(settings: InferenceSettings, metrics: Metrics) -> Memory:
    """Raises StartError where the spool's folder cannot be made. Ingestion need not be there."""
    wake = Wake()
    try:
        spool = Spool(settings.spool_dir, bytes_max=settings.inference_spool_bytes_max, changed=wake.notify)
    except OSError as error:
        raise StartError([f"FEINSCHLIFF_INFERENCE_SPOOL: {settings.spool_dir} cannot be made: {error}"]) from error
    channel = sync_channel(settings.ingestion_address, name="ingestion", services=[SERVICE], metrics=metrics)
    stub = ingestion_pb2_grpc.CompletionLogServiceStub(channel)
    clock = SystemClock()
    policies = Policies(stub, clock)
    delivery = Delivery(spool, stub, policies, wake, metrics, batch=settings.inference_spool_batch)
    return Memory(Recorder(spool, policies, metrics, clock=clock), delivery, spool)
