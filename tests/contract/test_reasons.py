"""Every reason that clients may switch on has a row in docs/errors.md with its status, and no row is dead."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from feinschliff.kit import errors

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "services" / "feinschliff"
TABLE = ROOT / "docs" / "errors.md"
ROW = re.compile(r"^\| `([A-Z][A-Z0-9_]+)` \| ([A-Z_, ]+) \| (.+) \|$", re.MULTILINE)
KINDS = {
    name: kind.code.name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.Refusal) and kind is not errors.Refusal
}


def raised() -> Iterator[tuple[str, str, str]]:
    """(reason, status, file) of every refusal that the code makes with its reason spelled out."""
    for path in sorted(SOURCES.rglob("*.py")):
        if "/v1/" in path.as_posix():
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.value, KINDS[node.func.id], path.relative_to(ROOT).as_posix()


def table() -> dict[str, set[str]]:
    return {reason: set(codes.split(", ")) for reason, codes, _ in ROW.findall(TABLE.read_text("utf-8"))}


def test_every_reason_has_its_row_with_its_status() -> None:
    rows = table()
    missing = {f"{reason} {code} ({file})" for reason, code, file in raised() if code not in rows.get(reason, set())}
    assert not missing, f"add to docs/errors.md: {sorted(missing)}"


def test_no_row_is_dead() -> None:
    text = "\n".join(path.read_text("utf-8") for path in SOURCES.rglob("*.py") if "/v1/" not in path.as_posix())
    dead = [reason for reason in table() if f'"{reason}"' not in text]
    assert not dead, f"nothing raises these any more: {dead}"


def test_the_table_is_sorted_and_has_no_reason_twice() -> None:
    reasons = [reason for reason, _, _ in ROW.findall(TABLE.read_text("utf-8"))]
    assert reasons == sorted(set(reasons))


@pytest.mark.parametrize("reason", sorted(errors.KIT_REASONS))
def test_the_kits_own_reasons_are_in_the_table(reason: str) -> None:
    assert reason in table()
