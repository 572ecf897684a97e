"""The loss of another process, as it shows in this one; known by name: who trains alone loads nothing for it."""

from __future__ import annotations

_ERRORS = frozenset({"DistError", "DistBackendError", "DistNetworkError", "DistStoreError"})
_WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe", "recvvalue failed")


class PeerLost(Exception):
    """Another process of the crew is gone, or does not answer; this one can only begin again from a checkpoint."""


def is_loss_of_a_peer(error: BaseException) -> bool:
    """Whether the libraries of communication say so; a forward pass over sharded weights fails in their words."""
    if isinstance(error, PeerLost):
        return True
    if any(kind.__name__ in _ERRORS and kind.__module__.startswith("torch") for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)
