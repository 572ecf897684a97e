"""Runs and their comparison as text for people: Markdown, one page of HTML, or CSV; all pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from feinschliff.evaluation.reports.plots import Bar, curves, intervals
from feinschliff.evaluation.resources import OVERALL, Eval, GraderResult, OutputItem
from feinschliff.evaluation.runs.comparisons import RunComparison
from feinschliff.evaluation.runs.runs import RunView

BYTES_MAX = 1 << 20
CUT = "This report is cut here: it has more than 1 MiB. The items of each run can be exported whole."
STYLE = (
    "body{font-family:sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccc;padding:.3rem .6rem;text-align:left}"
    "svg{max-width:100%;height:auto}"
)
CSV_COLUMNS = (
    *("run", "line", "sample", "grader", "value", "passed", "why", "error"),
    *("prompt_tokens", "completion_tokens", "latency_seconds"),
)
RUN_COLUMNS = (
    "run",
    "model",
    "state",
    "items",
    "grader",
    "n",
    "passed",
    "mean",
    "95 % interval",
    "ungraded",
    "errored",
)
COMPARISON_COLUMNS = (
    "candidate",
    "n",
    "difference",
    "interval",
    "p",
    "wins",
    "losses",
    "ties",
    "verdict",
    "weakened by",
)

Row = Sequence[str]


class Report(NamedTuple):
    """What is rendered: runs of one eval, and each later one compared with the first; None where it cannot be."""

    eval_: Eval
    views: Sequence[RunView]
    comparisons: Sequence[tuple[str, RunComparison | None, str]]


def markdown(report: Report) -> str:
    parts = [f"# {_plain(report.eval_.display_name)}", _plain(report.eval_.description), "## Runs"]
    parts.append(_markdown_table(RUN_COLUMNS, run_rows(report)))
    parts += [_plain(line) for line in repetitions(report)]
    if report.comparisons:
        parts += [
            f"## Compared with {_id(report.views[0].run.name)}",
            _markdown_table(COMPARISON_COLUMNS, _compared(report)),
        ]
    repeated = _repeated_rows(report)
    if repeated:
        parts += ["## Several answers per row", _markdown_table(("run", "k", "pass@k", "pass^k"), repeated)]
    return cut("\n\n".join(part for part in parts if part) + "\n", f"\n{CUT}\n")


def html(report: Report) -> str:
    title = escape(report.eval_.display_name)
    body = [f"<h1>{title}</h1>", f"<p>{escape(report.eval_.description)}</p>", "<h2>Runs</h2>"]
    body.append(_html_table(RUN_COLUMNS, run_rows(report)))
    body += [f"<p>{escape(line)}</p>" for line in repetitions(report)]
    for grader in _graders(report):
        body += [f"<h2>{escape(grader)}</h2>", intervals(f"Mean and 95 % interval of {grader}", _bars(report, grader))]
    if report.comparisons:
        baseline = escape(_id(report.views[0].run.name))
        body += [f"<h2>Compared with {baseline}</h2>", _html_table(COMPARISON_COLUMNS, _compared(report))]
    by_k = _by_k(report)
    if by_k:
        body += ["<h2>Several answers per row</h2>", curves("pass@k and pass^k", by_k)]
        body.append(_html_table(("run", "k", "pass@k", "pass^k"), _repeated_rows(report)))
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    page = f"{head}</head><body>{''.join(body)}</body></html>\n"
    return cut(page, f"<p>{CUT}</p></body></html>\n")


def csv_of(items: Iterable[OutputItem]) -> str:
    """One line per item and grader, or per item with its error; reads no more than it takes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for item in items:
        writer.writerows(_csv_rows(item))
        if text.tell() > BYTES_MAX:
            break
    return cut(text.getvalue(), f"{CUT}\n")


def cut(text: str, last: str) -> str:
    """At most 1 MiB; what is longer ends with `last`."""
    if len(text) * 4 <= BYTES_MAX or len(encoded := text.encode()) <= BYTES_MAX:
        return text
    kept = encoded[: BYTES_MAX - len(last.encode())].decode(errors="ignore")
    end = kept.rfind("\n")
    return (kept[: end + 1] if end > 0 else kept) + last


def run_rows(report: Report) -> list[Row]:
    rows: list[Row] = []
    for view in report.views:
        run = view.run
        for result in sorted(view.results, key=lambda one: one.grader != OVERALL):
            numbers = (result.grader, str(result.n), str(result.passed), _number(result.mean), _span(result))
            tail = (str(result.ungradable), str(result.errored))
            rows.append((_id(run.name), run.model, run.state.value, f"{run.done}/{run.total}", *numbers, *tail))
        if not view.results:
            rows.append((_id(run.name), run.model, run.state.value, f"{run.done}/{run.total}", *[""] * 7))
    return rows


def repetitions(report: Report) -> list[str]:
    """Of runs whose answers repeat rows, what their intervals count."""
    return [
        f"{_id(view.run.name)}: {overall.n} answers to {overall.clusters} different rows; "
        "intervals and tests count rows, by a bootstrap that draws whole rows."
        for view in report.views
        if (overall := _overall(view)) is not None and 0 < overall.clusters < overall.n
    ]


def _compared(report: Report) -> list[Row]:
    return [
        _comparison_row(name, comparison) if comparison else (_id(name), *[""] * 7, "not compared", why)
        for name, comparison, why in report.comparisons
    ]


def _comparison_row(name: str, comparison: RunComparison) -> Row:
    numbers = comparison.numbers
    span = f"[{numbers.interval.low:+.3f}, {numbers.interval.high:+.3f}]" if numbers.interval else ""
    weak = [f"{len(comparison.lines_left_out)} rows left out"] if comparison.lines_left_out else []
    if 0 < numbers.clusters < numbers.n:
        weak.append(f"only {numbers.clusters} different rows")
    weak += [f"other {what}" for what in comparison.differing]
    weak += [f"more than one model in {_id(run)}" for run in comparison.changed] + [numbers.note] * bool(numbers.note)
    return (
        _id(name),
        str(numbers.n),
        "" if numbers.difference is None else f"{numbers.difference:+.3f}",
        span,
        "" if numbers.p is None else f"{numbers.p:.3g}",
        *(str(count) for count in (numbers.wins, numbers.losses, numbers.ties)),
        comparison.verdict.value.replace("_", " "),
        "; ".join(weak),
    )


def _graders(report: Report) -> list[str]:
    return list(dict.fromkeys(row[4] for row in run_rows(report) if row[4]))


def _bars(report: Report, grader: str) -> list[Bar]:
    bars = []
    for view in report.views:
        result = next((one for one in view.results if one.grader == grader), None)
        span = result.interval if result is not None else None
        low, high = (span.low, span.high) if span is not None else (None, None)
        bars.append(Bar(view.run.display_name or _id(view.run.name), result.mean if result else None, low, high))
    return bars


def _overall(view: RunView) -> GraderResult | None:
    return next((one for one in view.results if one.grader == OVERALL), None)


def _repeated_rows(report: Report) -> list[Row]:
    return [
        (_id(view.run.name), str(k), f"{at:.3f}", f"{overall.pass_all[k]:.3f}")
        for view in report.views
        if (overall := _overall(view)) is not None
        for k, at in overall.pass_at.items()
    ]


def _by_k(report: Report) -> dict[str, Mapping[int, float]]:
    lines: dict[str, Mapping[int, float]] = {}
    for view in report.views:
        overall = _overall(view)
        if overall is not None and overall.pass_at:
            lines[f"{_id(view.run.name)} pass@k"] = overall.pass_at
            lines[f"{_id(view.run.name)} pass^k"] = overall.pass_all
    return lines


def _csv_rows(item: OutputItem) -> list[list[object]]:
    place = [_id(item.run), item.line, item.sample_index]
    tail = [item.usage.prompt_tokens, item.usage.completion_tokens, item.latency_seconds]
    if item.error is not None:
        return [[*place, "", "", False, "", _cell(f"{item.error.reason}: {item.error.message}"), *tail]]
    return [
        [
            *place,
            _cell(grade.grader),
            "" if grade.value is None else grade.value,
            grade.passed,
            _cell(grade.why),
            "",
            *tail,
        ]
        for grade in item.grades
    ]


def _cell(text: str) -> str:
    """A spreadsheet must not take a model's words for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _id(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _span(result: GraderResult) -> str:
    return "" if result.interval is None else f"[{result.interval.low:.3f}, {result.interval.high:.3f}]"


_MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\|[]!"})


def _plain(text: str) -> str:
    """What people wrote stays text: no cell ends early, and no link or picture calls out of a report."""
    return escape(" ".join(text.split()), quote=False).translate(_MARKS)


def _markdown_table(columns: Row, rows: Sequence[Row]) -> str:
    lines = [columns, ["---"] * len(columns), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _html_table(columns: Row, rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"
