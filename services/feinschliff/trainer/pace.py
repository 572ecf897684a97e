"""How fast a run goes, over its last steps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW_STEPS = 20


@dataclass
class Pace:
    """Forgets what is older than 20 steps; the first step counts only until there is a second."""

    _steps: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW_STEPS))
    _added: int = 0

    def add(self, *, tokens: int, seconds: float) -> None:
        if self._added == 1:
            self._steps.clear()
        self._added += 1
        self._steps.append((tokens, seconds))

    @property
    def tokens_per_second(self) -> float:
        """Real tokens, none of padding; 0 before the first step."""
        seconds = self._seconds
        return sum(tokens for tokens, _ in self._steps) / seconds if seconds else 0.0

    def eta_seconds(self, steps: int) -> float | None:
        """How long so many further steps take; None while that is unknown."""
        return steps * self._seconds / len(self._steps) if self._steps else None

    @property
    def _seconds(self) -> float:
        return sum(seconds for _, seconds in self._steps)
