"""Wrong usage ends with 2 and a word about what is wrong; every command speaks JSON."""

from __future__ import annotations

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from feinschliff.cli.__main__ import app

COMMANDS = (
    ("up",), ("down",), ("status",), ("dataset", "push"), ("dataset", "show"), ("dataset", "list"), ("train",),
    ("plan",), ("watch",), ("jobs",), ("cancel",), ("pause",), ("resume",), ("retry",), ("logs",), ("eval", "run"),
    ("eval", "show"), ("eval", "list"), ("eval", "import"), ("eval", "export"), ("eval", "report"), ("eval", "matrix"),
    ("eval", "cancel"), ("prompt", "push"), ("prompt", "list"), ("prompt", "optimize"), ("compare",), ("deploy",),
    ("gate", "create"), ("gate", "evaluate"), ("gate", "show"), ("gate", "list"),
    ("deployments",), ("chat",), ("classify",), ("models",), ("models", "list"), ("models", "show"),
    ("models", "lineage"), ("models", "alias"), ("models", "combine"), ("models", "protect"),
    ("demo",),
)  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_json_and_an_explanation(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app(), [*words, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert len(result.stdout.splitlines()[2]) > 20


def test_no_command_is_left_out_of_these_tests() -> None:
    group = get_command(app())
    found: set[tuple[str, ...]] = set()
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {})
        found |= {(name, one) for one in inner} or {(name,)}
    assert found == set(COMMANDS) - {("models",)}


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["train", "routing", "--epochs", "many"],
        ["train", "routing", "--precision", "int8"],
        ["train", "routing", "--sharing", "halved"],
        ["train", "routing", "--task-adapters", "some"],
        ["plan", "routing", "--nodes", "many"],
        ["dataset", "push", "/no/such/file"],
        ["dataset", "push", __file__, "--format", "parquet"],
        ["eval", "run", "model"],
        ["eval", "run", "model", "data", "--eval", "e"],
        ["eval", "run", "model", "data", "--grader", "taste"],
        ["eval", "run", "model", "data", "--split", "half"],
        ["eval", "import", __file__, "--kind", "riddle"],
        ["eval", "export", "e/r", "items.xlsx"],
        ["eval", "report", "e/r", "--out", "report.pdf"],
        ["models", "lineage", "m", "--direction", "sideways"],
        ["models", "combine", "m"],
        ["models", "combine", "m", "a/1", "b/1", "--method", "magic"],
        ["models", "combine", "m", "a/1=much", "b/1"],
        ["compare", "one"],
        ["gate", "create", "release"],
        ["gate", "create", "release", "--floor", "routing"],
        ["gate", "create", "release", "--gain", "routing=much"],
        ["gate", "create", "release", "--rules", __file__],
        ["dance"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(words: list[str]) -> None:
    result = CliRunner().invoke(app(), words)
    assert result.exit_code == 2
    assert "Error" in result.stderr
    assert result.stdout == ""
