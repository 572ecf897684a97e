"""Runs one module as a program that ends with its parent: `python -m feinschliff.cli.tied MODULE`.

The parent holds the other end of standard input. When it is gone, however it died, this process gets SIGTERM.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

_STDIN = 0


def main() -> None:
    module = sys.argv[1]
    del sys.argv[1]
    threading.Thread(target=_end_with_parent, name="tied", daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    while os.read(_STDIN, 4096):
        continue
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
