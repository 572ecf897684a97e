"""What the engines of this process show to Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from feinschliff.inference.engine import Capacity
from feinschliff.kit.metrics import Metrics

_TOTALS: Mapping[str, Callable[[Capacity], float]] = {
    "feinschliff_inference_slots": lambda capacity: capacity.rows_max,
    "feinschliff_inference_queue_depth_requests": lambda capacity: capacity.waiting,
    "feinschliff_inference_queue_limit_requests": lambda capacity: capacity.queue_max,
    "feinschliff_inference_kv_cache_bytes": lambda capacity: capacity.kv_cache_bytes,
    "feinschliff_inference_prefix_cache_bytes": lambda capacity: capacity.prefix_cache_bytes,
    "feinschliff_inference_kv_cache_limit_bytes": lambda capacity: capacity.kv_cache_bytes_max,
    "feinschliff_inference_servers_away": lambda capacity: not capacity.is_up,
    "feinschliff_inference_server_losses": lambda capacity: capacity.losses,
}


def show(metrics: Metrics, capacities: Collection[Capacity]) -> None:
    """What all engines have together; a GPU that several share counts once."""
    for name, of in _TOTALS.items():
        metrics.gauge(name).set(sum(of(capacity) for capacity in capacities))
    for memory in {memory for capacity in capacities if (memory := capacity.device_memory)}:
        metrics.gauge("feinschliff_inference_device_memory_bytes").labels(memory.device).set(memory.used_bytes)
        metrics.gauge("feinschliff_inference_device_memory_limit_bytes").labels(memory.device).set(memory.bytes_max)
