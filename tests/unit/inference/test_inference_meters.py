"""What several engines in one process show together."""

from __future__ import annotations

from dataclasses import replace

from feinschliff.inference.engine import Capacity, DeviceMemory
from feinschliff.inference.meters import show
from feinschliff.kit.metrics import Metrics


def capacity(*, waiting: int = 0, kv_cache_bytes: int = 0, device_memory: DeviceMemory | None = None) -> Capacity:
    return Capacity(
        rows_max=4,
        running=0,
        waiting=waiting,
        queue_max=8,
        kv_cache_bytes=kv_cache_bytes,
        kv_cache_bytes_max=100,
        device_memory=device_memory,
    )


def shown(capacities: list[Capacity], name: str, **labels: str) -> float:
    metrics = Metrics("inference")
    show(metrics, capacities)
    return metrics.value(f"feinschliff_inference_{name}", **labels)


def test_places_queues_and_caches_add_up() -> None:
    both = [capacity(waiting=3, kv_cache_bytes=40), capacity(waiting=2)]
    assert shown(both, "queue_depth_requests") == 5
    assert shown(both, "queue_limit_requests") == 16
    assert shown(both, "slots") == 8
    assert shown(both, "kv_cache_bytes") / shown(both, "kv_cache_limit_bytes") == 0.2


def test_a_gpu_that_two_engines_share_counts_once() -> None:
    memory = DeviceMemory("cuda:0", used_bytes=60, bytes_max=80)
    both = [capacity(device_memory=memory), capacity(device_memory=memory)]
    assert shown(both, "device_memory_bytes", device="cuda:0") == 60
    assert shown(both, "device_memory_limit_bytes", device="cuda:0") == 80


def test_servers_that_are_away_are_counted() -> None:
    away = replace(capacity(), is_up=False, losses=2)
    assert shown([away, capacity()], "servers_away") == 1
    assert shown([away, replace(away, is_up=True)], "server_losses") == 4


def test_nothing_loaded_is_nothing_taken() -> None:
    assert shown([], "kv_cache_bytes") == shown([], "slots") == 0
