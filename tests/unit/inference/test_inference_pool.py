"""What is loaded is shared, kept while it is used, and makes room in the right order."""

from __future__ import annotations

import threading

import pytest

from feinschliff.inference.life import EngineName, Precision, Seen
from feinschliff.inference.pool import BaseKey, Located, Pool, Source
from feinschliff.kit.clock import ManualClock
from feinschliff.kit.errors import Exhausted, WrongState
from feinschliff.kit.metrics import Metrics
from tests.support.waiting import eventually
from tests.unit.inference.builders import BASE, version
from tests.unit.inference.engines import HandLoader

SOURCE = Source(BASE, "fp32")


class Bench:
    """A pool over an engine by hand."""

    def __init__(self, idle_seconds: float = 0.0) -> None:
        self.clock = ManualClock()
        self.loader = HandLoader()
        self.metrics = Metrics("inference")
        self.pool = Pool(self.loader, self.metrics, clock=self.clock, changed=lambda: None, idle_seconds=idle_seconds)

    def locate(self, source: Source) -> Located:
        located = eventually(lambda: self.pool.locate(source))
        assert located is not None
        return located

    def load_base(self, precision: Precision = "fp32", engine: EngineName = "transformers") -> BaseKey:
        source = Source(BASE, precision, engine)
        located = self.locate(source)
        self.pool.load_base(located)
        eventually(lambda: self.pool.look_at_base(located.key).seen is Seen.HELD)
        return located.key

    def load_adapter(self, key: BaseKey, number: int) -> str:
        self.pool.load_adapter(key, version(number)).result(10)
        return version(number).adapter_digest

    def on_demand(self, key: BaseKey, number: int, limit: int = 2, pinned: frozenset[str] = frozenset()) -> str:
        self.pool.load_on_demand(key, version(number), pinned=pinned, limit=limit).result(10)
        return version(number).adapter_digest

    def loads(self, outcome: str) -> float:
        return self.metrics.value("feinschliff_inference_adapter_loads_total", outcome=outcome)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_base_is_loaded_once_however_often_it_is_asked_for(bench: Bench) -> None:
    bench.loader.gate.clear()
    located = bench.locate(SOURCE)
    for _ in range(5):
        bench.pool.load_base(located)
    assert bench.pool.look_at_base(located.key).seen is Seen.LOADING
    bench.loader.gate.set()
    eventually(lambda: bench.pool.look_at_base(located.key).seen is Seen.HELD)
    bench.pool.load_base(located)
    assert len(bench.loader.engines) == 1


def test_nothing_is_leased_that_is_not_loaded(bench: Bench) -> None:
    key = BaseKey("sha256:base", "fp32")
    assert bench.pool.acquire(key, "") is None
    assert bench.load_base() == key
    assert bench.pool.acquire(key, "") is not None
    assert bench.pool.acquire(key, "sha256:m1") is None
    bench.load_adapter(key, 1)
    assert bench.pool.acquire(key, "sha256:m1") is not None
    assert bench.pool.acquire(BaseKey("sha256:base", "bf16"), "") is None


def test_an_adapter_stays_while_a_request_runs_on_it(bench: Bench) -> None:
    key = bench.load_base()
    digest = bench.load_adapter(key, 1)
    first, second = bench.pool.acquire(key, digest), bench.pool.acquire(key, digest)
    assert first is not None
    assert second is not None
    first.give_back()
    first.give_back()
    assert not bench.pool.unload_adapter(key, digest)
    assert bench.loader.engines[0].loaded == {digest}
    second.give_back()
    assert bench.pool.unload_adapter(key, digest)
    assert bench.loader.engines[0].loaded == set()
    assert bench.pool.acquire(key, digest) is None


def test_a_request_may_end_while_an_adapter_is_unloaded(bench: Bench) -> None:
    key = bench.load_base()
    digest = bench.load_adapter(key, 1)
    lease = bench.pool.acquire(key, "")
    assert lease is not None
    engine, ended = bench.loader.engines[0], threading.Thread(target=lease.give_back)

    def unload(digest: str) -> None:
        """As an engine's thread does: it says that the request has ended, and only then comes to unloading."""
        ended.start()
        ended.join(10)

    engine.unload_adapter = unload  # type: ignore[method-assign]
    assert bench.pool.unload_adapter(key, digest)
    assert not ended.is_alive()


def test_a_base_stays_while_a_request_runs_on_any_of_its_adapters(bench: Bench) -> None:
    key = bench.load_base()
    lease = bench.pool.acquire(key, bench.load_adapter(key, 1))
    assert lease is not None
    assert not bench.pool.unload_base(key)
    assert not bench.loader.engines[0].is_closed
    lease.give_back()
    assert bench.pool.unload_base(key)
    assert bench.loader.engines[0].is_closed
    assert bench.pool.bases() == []
    assert bench.pool.adapters(key) == []


def test_a_base_is_not_unloaded_under_an_adapter_that_is_being_loaded(bench: Bench) -> None:
    key = bench.load_base()
    bench.loader.gate.clear()
    loading = bench.pool.load_adapter(key, version(1))
    assert not bench.pool.unload_base(key)
    bench.loader.gate.set()
    loading.result(10)
    assert bench.pool.unload_base(key)


def test_failed_loading_is_tried_again_after_a_pause_that_doubles(bench: Bench) -> None:
    located = bench.locate(SOURCE)
    bench.loader.errors = [WrongState("BASE_MODEL_UNSUPPORTED", "No.") for _ in range(3)]

    def attempts_left_after(seconds: float) -> int:
        bench.clock.advance(seconds)
        bench.pool.load_base(located)
        eventually(lambda: bench.pool.look_at_base(located.key).seen is not Seen.LOADING)
        return len(bench.loader.errors)

    assert [attempts_left_after(seconds) for seconds in (0, 0.5, 0.6, 1.5, 0.6, 3.9)] == [2, 2, 1, 1, 0, 0]
    failure = bench.pool.look_at_base(located.key).failure
    assert failure is not None
    assert failure.reason == "BASE_MODEL_UNSUPPORTED"
    bench.clock.advance(0.2)
    bench.pool.load_base(located)
    eventually(lambda: bench.pool.look_at_base(located.key).seen is Seen.HELD)


def test_what_an_engine_lost_by_itself_may_be_loaded_again(bench: Bench) -> None:
    key = bench.load_base()
    routed, kept, lost = bench.load_adapter(key, 1), bench.load_adapter(key, 2), bench.on_demand(key, 3, limit=1)
    bench.loader.engines[0].loaded = {kept}
    bench.pool.forget_gone(key)
    assert bench.pool.loaded_adapters(key) == [kept]
    assert not bench.pool.is_on_demand(key, lost)
    assert bench.load_adapter(key, 1) == routed
    assert bench.on_demand(key, 3, limit=1) == lost
    assert bench.loader.engines[0].loaded == {routed, kept, lost}


def test_the_longest_unused_adapter_goes_first(bench: Bench) -> None:
    key = bench.load_base()
    one = bench.on_demand(key, 1)
    bench.on_demand(key, 2)
    lease = bench.pool.acquire(key, one)
    assert lease is not None
    lease.give_back()
    three = bench.on_demand(key, 3)
    assert set(bench.pool.loaded_adapters(key)) == {one, three}
    assert bench.loader.engines[0].loaded == {one, three}
    assert bench.loads("evicted") == 1


def test_adapters_in_use_are_not_evicted_and_a_full_house_is_refused_with_a_delay(bench: Bench) -> None:
    key = bench.load_base()
    leases = [bench.pool.acquire(key, bench.on_demand(key, number)) for number in (1, 2)]
    with pytest.raises(Exhausted) as refused:
        bench.on_demand(key, 3)
    assert refused.value.reason == "ADAPTERS_BUSY"
    assert refused.value.retry_after_seconds
    assert leases[1] is not None
    leases[1].give_back()
    bench.on_demand(key, 3)
    assert set(bench.pool.loaded_adapters(key)) == {"sha256:m1", "sha256:m3"}


def test_adapters_of_routes_do_not_count_as_loaded_on_demand(bench: Bench) -> None:
    key = bench.load_base()
    routed = bench.load_adapter(key, 1)
    bench.on_demand(key, 1, limit=1, pinned=frozenset({routed}))
    two = bench.on_demand(key, 2, limit=1)
    assert set(bench.pool.loaded_adapters(key)) == {routed, two}
    assert not bench.pool.is_on_demand(key, routed)
    assert bench.pool.is_on_demand(key, two)


def test_everybody_who_waits_for_an_adapter_waits_for_the_same_load(bench: Bench) -> None:
    key = bench.load_base()
    bench.loader.gate.clear()
    futures = {bench.pool.load_adapter(key, version(1)) for _ in range(5)}
    bench.loader.gate.set()
    assert len(futures) == 1
    eventually(lambda: bench.pool.loaded_adapters(key) == ["sha256:m1"])
    assert bench.loader.fetched == ["sha256:m1"]
    assert bench.loads("loaded") == 1


class Tidied(Bench):
    """A pool with a budget and a time after which nobody wants an adapter any more."""

    def __init__(self, adapter_bytes_max: int = 0, idle_seconds: float = 0.0) -> None:
        super().__init__()
        self.pool = Pool(
            self.loader,
            self.metrics,
            clock=self.clock,
            changed=lambda: None,
            adapter_bytes_max=adapter_bytes_max,
            idle_seconds=idle_seconds,
        )
        self.key = self.load_base()

    def load(self, number: int, size: int = 100) -> str:
        self.clock.advance(1)
        self.loader.engines[0].bytes[version(number).adapter_digest] = size
        return self.on_demand(self.key, number, limit=10)

    @property
    def held(self) -> set[str]:
        return self.loader.engines[0].loaded


def test_adapters_on_demand_go_when_they_are_idle_and_others_stay() -> None:
    bench = Tidied(idle_seconds=60)
    routed, used, idle = bench.load_adapter(bench.key, 9), bench.load(1), bench.load(2)
    lease = bench.pool.acquire(bench.key, used)
    assert lease is not None
    bench.clock.advance(59)
    bench.pool.tidy()
    assert bench.held == {routed, used, idle}
    bench.clock.advance(2)
    bench.pool.tidy()
    assert bench.held == {routed, used}
    lease.give_back()
    bench.clock.advance(59)
    bench.pool.tidy()
    assert bench.held == {routed, used}, "idle since its last request ended"
    bench.clock.advance(2)
    bench.pool.tidy()
    assert bench.held == {routed}
    assert (bench.loads("idle"), bench.loads("evicted")) == (2, 0)


def test_beyond_the_budget_the_longest_unused_go_but_never_the_last_one_used() -> None:
    bench = Tidied(adapter_bytes_max=250)
    routed, one, two = bench.load_adapter(bench.key, 9), bench.load(1), bench.load(2)
    assert bench.pool.adapter_bytes() == 300
    bench.clock.advance(1)
    lease = bench.pool.acquire(bench.key, one)
    assert lease is not None
    lease.give_back()
    bench.pool.tidy()
    assert bench.held == {routed, one}
    large = bench.load(3, size=1000)
    bench.pool.tidy()
    assert bench.held == {routed, large}
    assert two not in bench.held
    assert bench.loads("evicted") == 2


def test_an_adapter_in_use_is_not_put_out_for_the_budget() -> None:
    bench = Tidied(adapter_bytes_max=150)
    one = bench.load(1)
    lease = bench.pool.acquire(bench.key, one)
    two = bench.load(2)
    bench.pool.tidy()
    assert bench.held == {one, two}
    assert lease is not None
    lease.give_back()
    bench.pool.tidy()
    assert bench.held == {one}, "the last one used stays"


def test_without_a_budget_and_a_time_everything_stays() -> None:
    bench = Tidied()
    digests = {bench.load(number) for number in range(3)}
    bench.clock.advance(1e6)
    bench.pool.tidy()
    assert bench.held == digests
