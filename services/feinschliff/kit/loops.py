"""Background work that must not die: it fails aloud, is counted, and begins again after a pause that grows."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from feinschliff.kit.context import add_log_fields
from feinschliff.kit.metrics import Metrics

log = logging.getLogger(__name__)
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
CALM_SECONDS = 60.0  # after running this long, a failure starts again from the first pause


async def keep_running(name: str, run: Callable[[], Awaitable[None]], metrics: Metrics) -> None:
    """Runs `run` for ever; only cancelling ends it."""
    add_log_fields(room=metrics.room, loop=name)
    errors = metrics.counter("feinschliff_room_loop_errors_total").labels(metrics.room, name)
    pause_seconds = FIRST_PAUSE_SECONDS
    clock = asyncio.get_running_loop().time
    while True:
        begun = clock()
        try:
            await run()
            log.warning("loop ended by itself; beginning again")
        except Exception:
            log.exception("loop failed; beginning again", extra={"pause_seconds": pause_seconds})
        errors.inc()
        if clock() - begun > CALM_SECONDS:
            pause_seconds = FIRST_PAUSE_SECONDS
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)
