"""Health tells the truth: NOT_SERVING while the store is down, SERVING again by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.platform import Platform
from tests.support.s3 import S3Outage


@pytest.mark.timeout(600)
def test_rooms_that_need_the_store_follow_it_down_and_up(s3_outage: S3Outage, tmp_path: Path) -> None:
    platform = Platform(tmp_path, s3_outage.server, "outage")
    rooms = [platform.rooms[room] for room in ("ingestion", "training", "registry", "inference")]
    try:
        for room in rooms:
            room.start()
        for room in rooms:
            room.wait_serving()
        s3_outage.stop()
        for room in rooms:
            room.wait_not_serving()
            assert room.health("live") == "SERVING"
        s3_outage.start()
        for room in rooms:
            room.wait_serving(30)
    finally:
        platform.stop()
