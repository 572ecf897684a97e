"""A program that runs until it is told to stop, and says both."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

if __name__ == "__main__":
    stopped = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, on_signal)
    print("running", flush=True)
    stopped.wait()
    print("told to stop", flush=True)
    sys.exit(0)
