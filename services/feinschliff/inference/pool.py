"""The engines and adapters in memory: loaded once, shared by deployments, kept while a request runs on them."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from feinschliff.artifacts.bases import BaseFiles
from feinschliff.inference.call import Call
from feinschliff.inference.engine import Capacity, Engine
from feinschliff.inference.life import EngineName, Look, Precision, Seen, Version
from feinschliff.inference.shelf import Shelf
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import Exhausted
from feinschliff.kit.failpoints import fail
from feinschliff.kit.metrics import Metrics

logger = logging.getLogger(__name__)

_BUSY_RETRY_SECONDS = 1.0


class BaseKey(NamedTuple):
    """What makes two loaded bases the same."""

    digest: str
    precision: Precision
    engine: EngineName = "transformers"


class Source(NamedTuple):
    """A base as a deployment names it."""

    uri: str
    precision: Precision
    engine: EngineName = "transformers"


class Located(NamedTuple):
    """Its files on this machine, and what it will be once loaded."""

    files: BaseFiles
    key: BaseKey


class Loader(Protocol):
    """Where bases and adapters come from; every method may take long and is called in a thread of its own."""

    def locate(self, source: Source) -> Located: ...

    def load(self, located: Located) -> Engine: ...

    def fetch(self, version: Version) -> AbstractContextManager[Path]:
        """A folder with the version's adapter, its hashes verified, for as long as it is being loaded."""
        ...


class Lease:
    """The right to generate on an engine with an adapter; neither is unloaded before it is given back."""

    def __init__(self, engine: Engine, key: BaseKey, adapter_digest: str, release: Callable[[Lease], None]) -> None:
        self.engine = engine
        self.key = key
        self.adapter_digest = adapter_digest
        self.call = Call()
        self._releases = [release]
        self._lock = threading.Lock()
        self._is_given_back = False

    def give_back(self) -> None:
        """Once counts; any thread may."""
        with self._lock:
            if self._is_given_back:
                return
            self._is_given_back = True
        for release in self._releases:
            release(self)

    def when_given_back(self, act: Callable[[Lease], None]) -> None:
        """To be said before anything runs on it."""
        self._releases.append(act)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()


class Pool:
    """What is loaded; every method may be called from any thread and returns at once.

    Args:
        adapter_bytes_max: memory of all adapters together, beyond which those loaded on demand make room; 0: no bound.
        idle_seconds: an adapter that was loaded on demand goes when it was not used for so long; 0: it stays.
    """

    def __init__(
        self,
        loader: Loader,
        metrics: Metrics,
        *,
        clock: Clock,
        changed: Callable[[], None],
        adapter_bytes_max: int = 0,
        idle_seconds: float = 0.0,
    ) -> None:
        self._clock = clock
        self._adapter_bytes_max = adapter_bytes_max
        self._idle_seconds = idle_seconds
        self._loader = loader
        self._metrics = metrics
        self._located: Shelf[Source, Located] = Shelf(clock, changed)
        self._engines: Shelf[BaseKey, Engine] = Shelf(clock, changed)
        self._adapters: Shelf[tuple[BaseKey, str], None] = Shelf(clock, changed)
        self._moves = threading.RLock()  # of loading and unloading; waits for engines, so their threads never take it
        self._lock = threading.RLock()  # of leases; held for a moment only
        self._leases: Counter[tuple[BaseKey, str]] = Counter()
        self._on_demand: dict[BaseKey, OrderedDict[str, float]] = {}  # last used at; the longest unused first

    def locate(self, source: Source) -> Located | None:
        """The base's files if they are here; begins to look for them if not."""
        future = self._located.get(source, lambda: self._loader.locate(source))
        return self._located.held(source) if future.done() else None

    def look_at_source(self, source: Source) -> Look:
        return self._located.look(source)

    def located(self, source: Source) -> Located | None:
        return self._located.held(source)

    def look_at_base(self, key: BaseKey) -> Look:
        return self._engines.look(key)

    def look_at_adapter(self, key: BaseKey, digest: str) -> Look:
        return self._adapters.look((key, digest))

    def engine(self, key: BaseKey) -> Engine | None:
        return self._engines.held(key)

    def bases(self) -> list[BaseKey]:
        return self._engines.keys()

    def adapters(self, key: BaseKey) -> list[str]:
        """Digests that are loaded, being loaded, or failed."""
        keys = self._adapters.keys()
        return [digest for base, digest in keys if base == key]

    def loaded_adapters(self, key: BaseKey) -> list[str]:
        return [digest for digest in self.adapters(key) if self.is_loaded(key, digest)]

    def is_loaded(self, key: BaseKey, digest: str) -> bool:
        return self.look_at_adapter(key, digest).seen is Seen.HELD

    def load_base(self, located: Located) -> None:
        def load() -> Engine:
            fail("deployment.before_load")
            return self._loader.load(located)

        self._engines.get(located.key, load)

    def load_adapter(self, key: BaseKey, version: Version) -> Future[None]:
        """Begins to load an adapter onto a loaded base."""

        def load() -> None:
            began = time.monotonic()
            engine = self._engines.held(key)
            if engine is None:
                raise RuntimeError("the base was unloaded before its adapter was loaded")
            try:
                with self._loader.fetch(version) as folder:
                    engine.load_adapter(version.adapter_digest, folder)
            except BaseException:
                self._count_load("failed")
                raise
            self._count_load("loaded")
            self._metrics.histogram("feinschliff_inference_adapter_load_seconds").observe(time.monotonic() - began)

        with self._moves:  # not while the same adapter is being unloaded
            return self._adapters.get((key, version.adapter_digest), load)

    def load_on_demand(self, key: BaseKey, version: Version, *, pinned: Collection[str], limit: int) -> Future[None]:
        """Loads an adapter that no route asks for; the longest unused one goes where there are too many.

        Raises:
            Exhausted: ADAPTERS_BUSY where requests run on all of them.
        """
        digest = version.adapter_digest
        with self._moves:
            if not self.is_on_demand(key, digest) and digest not in pinned:
                while len(kept := self._kept(key)) >= limit:
                    self._evict_one(key, kept)
                with self._lock:
                    self._on_demand.setdefault(key, OrderedDict())[digest] = self._clock.monotonic()
            return self.load_adapter(key, version)

    def is_on_demand(self, key: BaseKey, digest: str) -> bool:
        with self._lock:
            return digest in self._on_demand.get(key, {})

    def acquire(self, key: BaseKey, adapter_digest: str) -> Lease | None:
        """A lease, or None where the base or the adapter is not loaded."""
        with self._lock:
            engine = self._engines.held(key)
            if engine is None or (adapter_digest and not self.is_loaded(key, adapter_digest)):
                return None
            self._leases[key, adapter_digest] += 1
            self._use(key, adapter_digest)
            return Lease(engine, key, adapter_digest, self._release)

    def unload_adapter(self, key: BaseKey, digest: str) -> bool:
        """Frees an adapter, or says False while it is being loaded or a request runs on it."""
        with self._moves:
            with self._lock:
                if self._leases[key, digest] > 0 or self.look_at_adapter(key, digest).seen is Seen.LOADING:
                    return False
                self._adapters.take((key, digest))
                self._on_demand.get(key, OrderedDict()).pop(digest, None)
            engine = self._engines.held(key)
            if engine is not None:
                engine.unload_adapter(digest)
            return True

    def forget_gone(self, key: BaseKey) -> None:
        """What an engine has lost by itself is held no more, so that it is loaded again where it is wanted."""
        with self._moves:
            held, engine = self.loaded_adapters(key), self._engines.held(key)
            if engine is None:
                return
            gone = set(held) - engine.adapters()
            with self._lock:
                for digest in gone:
                    self._adapters.take((key, digest))
                    self._on_demand.get(key, OrderedDict()).pop(digest, None)

    def unload_base(self, key: BaseKey) -> bool:
        """Frees a base with its adapters, or says False while something is being loaded or a request runs on it."""
        with self._moves, self._lock:
            busy = any(base == key and count > 0 for (base, _), count in self._leases.items())
            looks = [self.look_at_base(key), *(self.look_at_adapter(key, digest) for digest in self.adapters(key))]
            if busy or any(look.seen is Seen.LOADING for look in looks):
                return False
            for digest in self.adapters(key):
                self._adapters.take((key, digest))
            self._on_demand.pop(key, None)
            engine = self._engines.take(key)
        if engine is not None:
            engine.close()
            logger.info("base unloaded", extra={"base_digest": key.digest})
        return True

    def adapter_bytes(self) -> int:
        """Memory of all loaded adapters."""
        engines = [(key, engine) for key in self.bases() if (engine := self._engines.held(key)) is not None]
        return sum(engine.adapter_bytes(digest) for key, engine in engines for digest in self.loaded_adapters(key))

    def tidy(self) -> None:
        """Unloads what was loaded on demand and is idle, and the longest unused while all takes too much memory.

        The one that was used last always stays: it is what somebody waits for.
        """
        idle_since = self._clock.monotonic() - self._idle_seconds
        for used, key, digest in self._by_use():
            if self._idle_seconds and used <= idle_since and self.unload_adapter(key, digest):
                self._count_load("idle")
        for _, key, digest in self._by_use()[:-1]:
            if not self._adapter_bytes_max or self.adapter_bytes() <= self._adapter_bytes_max:
                return
            if self.unload_adapter(key, digest):
                self._count_load("evicted")

    def forget_sources(self, wanted: Collection[Source]) -> None:
        for source in set(self._located.keys()) - set(wanted):
            self._located.take(source)

    def capacities(self) -> Mapping[BaseKey, Capacity]:
        engines = {key: self._engines.held(key) for key in self.bases()}
        return {key: engine.capacity() for key, engine in engines.items() if engine is not None}

    def close(self) -> None:
        for key in self.bases():
            engine = self._engines.take(key)
            if engine is not None:
                engine.close()

    def _use(self, key: BaseKey, digest: str) -> None:
        kept = self._on_demand.get(key, OrderedDict())
        if digest in kept:
            kept[digest] = self._clock.monotonic()
            kept.move_to_end(digest)

    def _by_use(self) -> list[tuple[float, BaseKey, str]]:
        """What was loaded on demand, the longest unused first."""
        with self._lock:
            kept = [(used, key, digest) for key, one in self._on_demand.items() for digest, used in one.items()]
        return sorted(kept, key=lambda one: one[0])

    def _release(self, lease: Lease) -> None:
        with self._lock:
            self._use(lease.key, lease.adapter_digest)
            self._leases[lease.key, lease.adapter_digest] -= 1
            if not self._leases[lease.key, lease.adapter_digest]:
                del self._leases[lease.key, lease.adapter_digest]

    def _kept(self, key: BaseKey) -> list[str]:
        with self._lock:
            return list(self._on_demand.get(key, ()))

    def _evict_one(self, key: BaseKey, kept: Collection[str]) -> None:
        for digest in kept:
            if self.unload_adapter(key, digest):
                self._count_load("evicted")
                return
        raise Exhausted(
            "ADAPTERS_BUSY",
            f"Requests run on all {len(kept)} adapters that are loaded on demand; try again shortly.",
            retry_after_seconds=_BUSY_RETRY_SECONDS,
            adapters=len(kept),
        )

    def _count_load(self, outcome: str) -> None:
        self._metrics.counter("feinschliff_inference_adapter_loads_total").labels(outcome).inc()
