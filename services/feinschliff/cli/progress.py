"""How far long work has come: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

LINE_EVERY_SECONDS = 5.0


class ProgressView:
    """One piece of work; used as a context, so that the terminal is left as it was."""

    def __init__(self, console: Console, title: str, *, is_silent: bool = False) -> None:
        self._console = console
        self._title = title
        self._is_silent = is_silent
        self._is_live = console.is_terminal and not is_silent
        self._next_line = 0.0
        self._last_line = ""
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            transient=True,
            disable=not self._is_live,
        )
        self._task = self._bar.add_task(title, total=None, numbers="")

    def __enter__(self) -> ProgressView:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def at(self, done: int, total: int, numbers: str = "", *, doing: str = "") -> None:
        """Shows the position; `doing` stands in for the title."""
        title = f"{self._title}: {doing}" if doing else self._title
        self._bar.update(self._task, description=title, completed=done, total=total or None, numbers=numbers)
        line = f"{title}  {done}/{total or '?'}  {numbers}".rstrip()
        is_due = time.monotonic() >= self._next_line or (0 < total == done)
        if not self._is_live and not self._is_silent and is_due and line != self._last_line:
            self._console.print(Text(line))
            self._last_line = line
            self._next_line = time.monotonic() + LINE_EVERY_SECONDS

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        if not self._is_silent:
            self._bar.console.print(Text(text, style=style))
