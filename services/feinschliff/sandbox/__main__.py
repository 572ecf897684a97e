"""`python -m feinschliff.sandbox [FOLDER]`: compiles the interpreter of Python graders, once per machine or image."""

from __future__ import annotations

import sys
from pathlib import Path

from feinschliff.kit.errors import Refusal
from feinschliff.sandbox.compiled import shipped
from feinschliff.sandbox.compiling import prepare


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else shipped()
    try:
        print(prepare(folder))
    except Refusal as refusal:
        print(f"{refusal.reason}: {refusal.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
