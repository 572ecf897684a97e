"""A room that leaves is not ready, whatever its checks say."""

from feinschliff.kit.health import Readiness


def test_readiness_follows_the_checks_until_the_room_leaves() -> None:
    readiness = Readiness()
    assert not readiness.is_ready
    readiness.failing = {}
    assert readiness.is_ready
    readiness.leave()
    readiness.failing = {}
    assert not readiness.is_ready
    assert set(readiness.failing) == {"stop"}
