"""When a run stops waiting for what passes by itself."""

from __future__ import annotations

from feinschliff.evaluation.work.failures import failure_of, patience_with
from feinschliff.formats.report import Failure
from feinschliff.kit.clock import Clock
from feinschliff.kit.errors import Refusal


class Halt(Exception):
    """The run cannot go on; the items that are stored stay."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Patience:
    """Counts from the first failure in a row, so that a long calm stretch uses none of it."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._failing_since: float | None = None

    def succeeded(self) -> None:
        self._failing_since = None

    def failed(self, refusal: Refusal) -> None:
        """Raises Halt once failures in a row have lasted too long."""
        now = self._clock.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        if now - self._failing_since >= patience_with(refusal, self._seconds):
            raise Halt(failure_of(refusal).model_copy(update={"retryable": True}))
