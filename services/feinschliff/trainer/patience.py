"""Waiting for a store that is down: work in memory is worth more than a quick failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from feinschliff.kit.errors import Unavailable
from feinschliff.trainer.stop import Stop

logger = logging.getLogger(__name__)

GIVE_UP_SECONDS = 900.0
PAUSE_SECONDS_MAX = 15.0

T = TypeVar("T")


def patiently(act: Callable[[], T], stop: Stop, *, give_up_seconds: float = GIVE_UP_SECONDS) -> T:
    """Do `act`, again and again while what it needs is unavailable; it must be safe to repeat.

    Raises:
        Stopped: asked to stop while waiting.
        Unavailable: nothing answered for so long.
    """
    deadline, pause = time.monotonic() + give_up_seconds, 0.5
    while True:
        try:
            return act()
        except Unavailable as refusal:
            stop.check()
            if time.monotonic() + pause > deadline:
                raise
            logger.warning("waiting", extra={"reason": refusal.reason, "pause_seconds": pause})
        time.sleep(pause)
        pause = min(2 * pause, PAUSE_SECONDS_MAX)
