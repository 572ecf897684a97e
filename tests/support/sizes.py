"""The size alarm: files beyond 400 lines and functions beyond 60 are too big to change safely. Split by idea."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
ROOT = Path(__file__).parents[2]


def findings(path: Path) -> Iterator[str]:
    """What is too big in one Python file; declarations of tables in migrations are data and do not count."""
    text = path.read_text("utf-8")
    lines = text.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{path.relative_to(ROOT)}: {lines} lines, at most {FILE_LINES_MAX}"
    if "migrations/versions" in path.as_posix():
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                yield f"{where}: {node.name} has {length} lines, at most {FUNCTION_LINES_MAX}"


def main() -> int:
    paths = [
        *(ROOT / "services" / "feinschliff").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "deploy").rglob("*.py"),
    ]
    found = [line for path in sorted(paths) if "/v1/" not in path.as_posix() for line in findings(path)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
