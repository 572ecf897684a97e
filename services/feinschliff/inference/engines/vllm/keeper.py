"""Keeps a server at work: finds or starts it, gives it its adapters, looks at it, and begins anew once it is lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from feinschliff.inference.engine import engine_lost
from feinschliff.inference.engines.vllm import wire
from feinschliff.inference.engines.vllm.client import Address, Client, Lost, Model, Refused
from feinschliff.inference.engines.vllm.options import VllmOptions
from feinschliff.inference.engines.vllm.servers import Server, start_failed
from feinschliff.kit.errors import Refusal, WrongState

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
_LOOK_WHILE_STARTING_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 60.0
_HEALTH_TRIES = 3
Answers = (Lost, Refused, wire.Broken)


class _Found(NamedTuple):
    client: Client
    model: Model


class Keeper:
    """For one event loop; what it says of the server may be read by any thread.

    Args:
        name: by which the server must know the base.
        on_loss: told why, and whether nothing that runs can go on.
        on_refusal: told of an adapter that a server which came anew does not take again.
    """

    def __init__(
        self,
        server: Server,
        name: str,
        options: VllmOptions,
        on_loss: Callable[[str, bool], None],
        on_refusal: Callable[[str], None],
    ) -> None:
        self._server = server
        self._name = name
        self._options = options
        self._on_loss = on_loss
        self._on_refusal = on_refusal
        self._found: _Found | None = None
        self._adapters: dict[str, str] = {}  # digest -> folder, as the server names it
        self._doubt = asyncio.Event()
        self.is_up = False
        self.why = "it has not been started"
        self.losses = 0
        self.load = wire.Load()

    @property
    def client(self) -> Client:
        """
        Raises:
            Lost: there is none at present.
        """
        if self._found is None or not self.is_up:
            raise Lost(self.why)
        return self._found.client

    @property
    def context_tokens(self) -> int:
        """The server's own limit."""
        return self._found.model.context_tokens if self._found else 0

    async def bring_up(self) -> None:
        """Returns once a server has the base and all adapters that it takes.

        Raises:
            WrongState: ENGINE_START_FAILED.
        """
        addresses = await self._server.begin()
        until = time.monotonic() + self._options.start_seconds
        while (found := await self._find(addresses)) is None:
            if why := self._server.ended():
                raise start_failed(why)
            if time.monotonic() > until:
                raise start_failed(f"none answered within {self._options.start_seconds:g} s")
            await asyncio.sleep(_LOOK_WHILE_STARTING_SECONDS)
        await self._close_client()
        self._found = found
        try:
            for digest, folder in list(self._adapters.items()):
                await self._give_again(found.client, digest, folder)
            self.load = await found.client.load()
        except Answers as error:
            raise start_failed(str(error)) from error
        self.is_up = True
        logger.info("a vLLM server serves a base", extra={"base": self._name, "adapters": len(self._adapters)})

    async def _give_again(self, client: Client, digest: str, folder: str) -> None:
        """One that the server refuses is no longer served; the base and the others are."""
        try:
            await self._give(client, digest, folder)
        except WrongState as refusal:
            logger.error("an adapter is no longer served: %s", refusal.message, extra={"adapter": digest})
            self._adapters.pop(digest, None)
            self._on_refusal(digest)

    async def _find(self, addresses: Sequence[Address]) -> _Found | None:
        """The first server that has the base; None while one that may have it does not answer."""
        others = []
        for address in addresses:
            client = Client(address)
            is_kept = False
            try:
                seen = await self._ask(client, address)
                is_kept = isinstance(seen, Model)
                if isinstance(seen, Model):
                    return _Found(client, seen)
                others += [seen] if seen else []
            finally:
                if not is_kept:
                    await client.close()
        if len(others) == len(addresses):
            wanted = f"--served-model-name {self._name}"
            raise start_failed(f"none was started with {wanted}; {'; '.join(others)}")
        return None

    async def _ask(self, client: Client, address: Address) -> Model | str | None:
        """The base as a server lists it, or what it has instead; None while it does not answer."""
        try:
            if not await client.is_healthy():
                return None
            models, version = await client.models(), await client.version()
        except Lost:
            return None
        except (Refused, wire.Broken) as error:
            return f"{address.url}: {error}"
        if self._name not in models:
            return f"{address.url} serves {', '.join(sorted(models)[:3])}"
        if version and version < wire.OLDEST:
            oldest = ".".join(map(str, wire.OLDEST))
            return f"{address.url} runs vLLM {'.'.join(map(str, version))}, and it takes {oldest}"
        return models[self._name]

    async def run(self) -> None:
        """Looks at the server for as long as it is not cancelled."""
        pause_seconds = self._options.look_seconds
        while True:
            try:
                if self.is_up:
                    pause_seconds = self._options.look_seconds
                    await self._wait()
                    await self._look()
                else:
                    await self.bring_up()
                continue
            except Refusal as refusal:
                self.why = refusal.message
                logger.warning("no vLLM server yet: %s", refusal.message)
            except Exception:
                logger.exception("looking after a vLLM server failed")
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(_LONGEST_PAUSE_SECONDS, 2 * pause_seconds)

    async def _wait(self) -> None:
        try:
            await asyncio.wait_for(self._doubt.wait(), self._options.look_seconds)
        except TimeoutError:
            return

    def doubt(self) -> None:
        """Something went wrong with a request: the server is looked at now."""
        self._doubt.set()

    async def _look(self) -> None:
        self._doubt.clear()
        if not self.is_up or self._found is None:
            return  # somebody noticed before us
        client = self._found.client
        if why := self._server.ended() or await self._unhealthy(client):
            self._lose(why, True)
            await self._server.end()
            return
        try:
            wanted, listed = set(self._adapters), await client.models()
            gone = {self._name, *(wanted & self._adapters.keys())} - listed.keys()
            if gone:
                self._lose(f"it does not have {', '.join(sorted(gone)[:3])} any more", False)
                return
            self.load = await client.load()
        except Answers as error:
            logger.warning("a vLLM server did not answer a look: %s", error)

    async def _unhealthy(self, client: Client) -> str:
        """Why it can be of no more use; one bad moment is none."""
        for turn in range(_HEALTH_TRIES):
            if await client.is_healthy():
                return ""
            if why := self._server.ended():
                return why
            await asyncio.sleep(turn * _LOOK_WHILE_STARTING_SECONDS)
        return self._server.ended() or "it does not answer, or says that its engine is dead"

    def lose(self, why: str) -> None:
        """No further request is admitted until the server has its base and all adapters again."""
        self._lose(why, False)
        self._doubt.set()

    def _lose(self, why: str, is_all_over: bool) -> None:
        if self.is_up:
            self.is_up, self.why = False, why
            self.losses += 1
            self.load = wire.Load(cache_tokens=self.load.cache_tokens)
            logger.warning("a vLLM server is lost: %s", why, extra={"base": self._name})
        self._on_loss(self.why, is_all_over)

    async def put(self, digest: str, folder: str) -> None:
        """Has an adapter loaded, and again whenever the server comes anew.

        Raises:
            WrongState: ADAPTER_UNSUPPORTED where the server refuses it.
            Unavailable: ENGINE_LOST.
        """
        try:
            await self._give(self.client, digest, folder)
        except (Lost, wire.Broken) as error:
            self.doubt()
            raise engine_lost(str(error), RETRY_SECONDS) from error
        self._adapters[digest] = folder

    async def drop(self, digest: str) -> None:
        """Has an adapter unloaded; what the server does not know is gone already, what another gave it not ours."""
        folder = self._adapters.pop(digest, None)
        try:
            there = (await self.client.models()).get(digest)
            if there is not None and there.root in ("", folder):
                await self.client.unload_adapter(digest)
        except Lost:
            self.doubt()
        except Refused as refused:
            if not refused.said.is_unknown_model:
                logger.warning("a vLLM server does not unload an adapter: %s", refused)
        except wire.Broken as broken:
            logger.warning("a vLLM server does not say what it has: %s", broken)

    async def _give(self, client: Client, digest: str, folder: str) -> None:
        try:
            try:
                await client.load_adapter(digest, folder, timeout_seconds=self._options.start_seconds)
            except Refused as refused:
                if "already been loaded" not in refused.said.message:
                    raise
                there = (await client.models()).get(digest)
                if there is None or there.root != folder:  # by somebody else, from somewhere else
                    await client.unload_adapter(digest)
                    await client.load_adapter(digest, folder, timeout_seconds=self._options.start_seconds)
        except Refused as refused:
            raise _refused(digest, refused.said) from refused

    async def close(self) -> None:
        """Leaves nothing of ours behind."""
        if self.is_up and not self._server.ended() and not self._server.is_ours:
            for digest in list(self._adapters):
                await self.drop(digest)
        self.is_up = False
        await self._close_client()
        await self._server.end()

    async def _close_client(self) -> None:
        found, self._found = self._found, None
        if found is not None:
            await found.client.close()


def _refused(digest: str, said: wire.Said) -> WrongState:
    advice = ["Deploy the version on the engine TRANSFORMERS, or train it as plain LoRA of linear layers."]
    if said.is_unknown_model and said.kind == "":  # the route is not there
        advice = [f"Start the server with --enable-lora, and with {wire.ALLOWED}=1 in its environment."]
    elif said.is_unknown_model:
        advice = ["Let the server see the folder inference_vllm_folder, and say by which path it does."]
    message = f"The vLLM server does not load adapter {digest}: {said.message}"
    return WrongState("ADAPTER_UNSUPPORTED", message, advice=advice, found=said.message, adapter=digest)
