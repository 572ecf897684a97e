"""Copies are replaced one by one while clients ask: what was accepted is answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc

from feinschliff.kit.errors import Cancelled, Unavailable, from_rpc_error
from feinschliff.v1 import inference_pb2 as pb
from feinschliff.v1 import inference_pb2_grpc
from tests.contract.inference.site import PARENT, Site, chat_request, open_site

D = f"{PARENT}/deployments/d"
CLIENTS, TOKENS, PATIENCE_SECONDS = 6, 40, 60
BUSY = {"inference_rows_max": 2, "inference_queue_max": 30, "drain_seconds": 0.2, "grace_seconds": 30}


class Clients:
    """Ask without end over one channel; a call that was not accepted is made again."""

    def __init__(self, stub: inference_pb2_grpc.InferenceServiceStub) -> None:
        self._stub = stub
        self.counts: Counter[str] = Counter()
        self.lost: list[str] = []
        self.is_over = False

    async def ask_on(self) -> None:
        while not self.is_over:
            await self._answered()
            self.counts["answered"] += 1

    async def _answered(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await self._tried():
                await asyncio.sleep(0.05)

    async def _tried(self) -> bool:
        last: str | None = None
        request = pb.ChatStreamRequest(chat=chat_request(D, max_tokens=TOKENS))
        try:
            async for event in self._stub.ChatStream(request, timeout=PATIENCE_SECONDS):
                last = event.WhichOneof("event")
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
            assert isinstance(refusal, Unavailable | Cancelled), repr(refusal)
            self.counts[refusal.reason] += 1
            if last is not None:
                self.lost.append(repr(refusal))
            return False
        assert last == "end"
        return True

    async def wait_for(self, more: int) -> None:
        """Until so many more are answered."""
        goal = self.counts["answered"] + more
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.counts["answered"] < goal:
                await asyncio.sleep(0.02)


async def test_a_rolling_restart_under_load_loses_no_accepted_request(
    tmp_path: Path, tiny_model: Path, free_port: Callable[[], int]
) -> None:
    ports = [free_port(), free_port()]
    async with AsyncExitStack() as opened:
        sites: list[Site] = []
        for port in ports:
            (folder := tmp_path / str(port)).mkdir()
            sites.append(await opened.enter_async_context(open_site(folder, tiny_model, inference_port=port, **BUSY)))
            await sites[-1].create()
        addresses = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        options = [("grpc.lb_policy_name", "round_robin"), ("grpc.max_reconnect_backoff_ms", 200)]
        channel = await opened.enter_async_context(grpc.aio.insecure_channel(addresses, options=options))
        clients = Clients(inference_pb2_grpc.InferenceServiceStub(channel))
        asking = [asyncio.ensure_future(clients.ask_on()) for _ in range(CLIENTS)]
        await clients.wait_for(CLIENTS)
        for site, port in zip(sites, ports, strict=True):
            await site.stop()
            await clients.wait_for(CLIENTS)
            await site.start(inference_port=port, **BUSY)
            await clients.wait_for(CLIENTS)
        clients.is_over = True
        await asyncio.gather(*asking)
        assert clients.lost == []
        assert clients.counts["answered"] >= 5 * CLIENTS
