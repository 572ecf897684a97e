"""Reports stay within their size, and spreadsheets take no words for formulas."""

from __future__ import annotations

from datetime import UTC, datetime

from feinschliff.evaluation.reports.plots import Bar, curves, intervals
from feinschliff.evaluation.reports.rendering import BYTES_MAX, CUT, _plain, csv_of, cut
from feinschliff.evaluation.resources import GradeGiven, OutputItem
from feinschliff.formats.report import Failure

ITEM = OutputItem("projects/p/evals/e/runs/r", 1, 1, {}, datetime(2026, 1, 1, tzinfo=UTC))


def test_a_long_table_ends_with_a_line_that_says_so_and_is_not_read_further() -> None:
    read = 0

    def items() -> object:
        nonlocal read
        for _ in range(10_000):
            read += 1
            yield ITEM.but(grades=[GradeGiven("g", 1.0, True, "ä" * 1000)])

    text = csv_of(items())  # type: ignore[arg-type]
    assert len(text.encode()) <= BYTES_MAX
    assert text.endswith(f"{CUT}\n")
    assert read < 2000
    assert cut("short\n", "never") == "short\n"


def test_words_that_look_like_formulas_are_quoted_and_errors_have_a_line() -> None:
    text = csv_of(
        [ITEM.but(grades=[GradeGiven("g", 0.5, False, "=1+1")]), ITEM.but(error=Failure(reason="LOST", message="x"))]
    )
    assert text.splitlines()[1:] == ["r,1,0,g,0.5,False,'=1+1,,0,0,0.0", "r,1,0,,,False,,LOST: x,0,0,0.0"]


def test_plots_escape_what_people_wrote_and_need_no_values() -> None:
    plot = intervals("a<b", [Bar("<x>", None, None, None), Bar("y", 0.5, 0.25, 0.75)])
    assert "<x>" not in plot
    assert plot.count("<circle") == 1
    assert "&lt;b" in plot
    assert curves("t", {"<z>": {1: 0.5, 2: 1.0}}).count("<polyline") == 1


def test_what_people_wrote_is_no_markdown() -> None:
    written = "![x](http://example.test/?q) | [a](b) \\\\|"
    assert _plain(written) == "\\!\\[x\\](http://example.test/?q) \\| \\[a\\](b) \\\\\\\\\\|"
