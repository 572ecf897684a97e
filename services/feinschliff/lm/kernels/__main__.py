"""Builds the kernels for every level of this kind of processor: `python -m feinschliff.lm.kernels FOLDER`."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from feinschliff.lm.kernels import build, file_name, levels_of


def main(folder: Path) -> None:
    for one in levels_of(platform.machine()):
        build(folder / file_name(one), one)
        print(folder / file_name(one))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
