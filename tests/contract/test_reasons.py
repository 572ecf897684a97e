"""Every reason that clients may switch on has a row in docs/errors.md with its status, and no row is dead."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from feinschliff.kit import errors

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "services" / "feinschliff"
TABLE = ROOT / "docs" / "errors.md"
ROW = re.compile(r"^\| `([A-Z][A-Z0-9_]+)` \| ([A-Z_, ]+) \| (.+) \|$", re.MULTILINE)
REASON = re.compile(r"[A-Z][A-Z0-9_]+")
KINDS = {
    name: kind.code.name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.Refusal) and kind is not errors.Refusal
}


@cache
def trees() -> tuple[tuple[str, ast.Module], ...]:
    paths = [path for path in sorted(SOURCES.rglob("*.py")) if "/v1/" not in path.as_posix()]
    return tuple((path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))) for path in paths)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, node


def helpers() -> dict[str, tuple[int, str]]:
    """Functions that are handed a reason: the place of that argument, and the status that they make of it."""
    found: dict[str, tuple[int, str]] = {}
    for _, tree in trees():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            parameters = [argument.arg for argument in function.args.args]
            for kind, call in calls(function):
                first = call.args[0] if kind in KINDS and call.args else None
                if isinstance(first, ast.Name) and first.id in parameters:
                    found[function.name] = parameters.index(first.id), KINDS[kind]
    return found


@cache
def raised() -> frozenset[tuple[str, str, str]]:
    """(reason, status, file) of every refusal that the code makes with its reason spelled out."""
    found = set()
    takers = {name: (0, code) for name, code in KINDS.items()} | helpers()
    for path, tree in trees():
        for name, call in calls(tree):
            place, code = takers.get(name, (0, ""))
            if not code or len(call.args) <= place:
                continue
            said = call.args[place]
            for one in (said.body, said.orelse) if isinstance(said, ast.IfExp) else (said,):
                if isinstance(one, ast.Constant) and isinstance(one.value, str) and REASON.fullmatch(one.value):
                    found.add((one.value, code, path))
    return frozenset(found)


def table() -> dict[str, set[str]]:
    return {reason: set(codes.split(", ")) for reason, codes, _ in ROW.findall(TABLE.read_text("utf-8"))}


def test_every_reason_has_its_row_with_its_status() -> None:
    rows = table()
    missing = {f"{reason} {code} ({file})" for reason, code, file in raised() if code not in rows.get(reason, set())}
    assert not missing, f"add to docs/errors.md: {sorted(missing)}"


def test_no_row_names_a_status_that_nothing_raises() -> None:
    codes: dict[str, set[str]] = {}
    for reason, code, _ in raised():
        codes.setdefault(reason, set()).add(code)
    wrong = {reason: said - codes[reason] for reason, said in table().items() if reason in codes}
    assert not any(wrong.values()), {reason: sorted(said) for reason, said in wrong.items() if said}


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
