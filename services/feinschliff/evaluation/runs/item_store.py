"""Output items and their grades: stored once, under run and position, and never changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select

from feinschliff.evaluation.life import State
from feinschliff.evaluation.resources import GradedLine, GradeGiven, Identity, OutputItem, Usage
from feinschliff.evaluation.store import GRADES, ITEMS, RUNS, list_rows, storable
from feinschliff.formats.records import Message
from feinschliff.formats.report import Failure
from feinschliff.graders.grade import Item, Judgement
from feinschliff.kit.db import Session, select_one
from feinschliff.kit.errors import WrongState
from feinschliff.kit.filters import Order
from feinschliff.kit.paging import Page

ITEMS_AT_ONCE = 500
_BOOLEANS = {"true": True, "false": False}
ITEM_FIELDS = {
    "passed": func.coalesce(ITEMS.c.passed, False),
    "line": ITEMS.c.line,
    "errored": ITEMS.c.errored,
    "grader": GRADES.c.grader,
    "value": GRADES.c.value,
}
ITEM_READERS: Mapping[str, Callable[[str], Any]] = {
    "passed": lambda text: _BOOLEANS[text.lower()],
    "errored": lambda text: _BOOLEANS[text.lower()],
    "line": int,
    "value": float,
}
ITEM_ORDERS = {"line": ITEMS.c.line}
_IDENTITY = [ITEMS.c[name] for name in Identity._fields]


def done_positions(session: Session, run: str) -> set[int]:
    return set(session.scalars(select(ITEMS.c.position).where(ITEMS.c.run == run)))


def insert_item(session: Session, item: OutputItem) -> bool:
    """As `insert_items`, of one."""
    return bool(insert_items(session, [item]))


def insert_items(session: Session, items: Sequence[OutputItem]) -> list[OutputItem]:
    """Stores items of one run with their grades and counts them; those whose place is taken change nothing.

    Returns:
        The items that are new.

    Raises:
        WrongState: RUN_OVER where the run is final, so that its results stay what they were.
    """
    run = items[0].run
    _hold(session, run)
    taken = _taken(session, run, items)
    new = []
    for item in items:
        places: set[int | tuple[int, int]] = {item.position, (item.line, item.sample_index)}
        if not taken & places:
            new.append(item)
            taken |= places
    if not new:
        return new
    session.execute(ITEMS.insert(), [_item_columns(item) for item in new])
    grades = [_grade_columns(item, k, grade) for item in new for k, grade in enumerate(item.grades)]
    if grades:
        session.execute(GRADES.insert(), grades)
    counts: dict[str, object] = {"done": RUNS.c.done + len(new), "changes": RUNS.c.changes + 1}
    if used := judged_by([judgement for item in new for grade in item.grades for judgement in grade.judgements]):
        before = session.scalar(select(RUNS.c.judge_usage).where(RUNS.c.name == run)) or {}
        counts["judge_usage"] = summed(before, used)
    session.execute(RUNS.update().where(RUNS.c.name == run).values(**counts))
    return new


def _hold(session: Session, run: str) -> None:
    """Until the transaction ends nobody else stores items of the run or ends it."""
    state = session.scalar(select(RUNS.c.state).where(RUNS.c.name == run).with_for_update())
    if state not in (State.RUNNING.value, State.CANCELLING.value):
        raise WrongState("RUN_OVER", "The run is over; its items no longer change.", run=run)


def _taken(session: Session, run: str, items: Sequence[OutputItem]) -> set[int | tuple[int, int]]:
    """Positions, and lines with their samples, that are stored already."""
    near = or_(ITEMS.c.position.in_([item.position for item in items]), ITEMS.c.line.in_([item.line for item in items]))
    query = select(ITEMS.c.position, ITEMS.c.line, ITEMS.c.sample_index).where(ITEMS.c.run == run, near)
    taken: set[int | tuple[int, int]] = set()
    for position, line, sample_index in session.execute(query):
        taken |= {position, (line, sample_index)}
    return taken


def get_item(session: Session, run: str, position: int) -> OutputItem | None:
    row = select_one(session, ITEMS, run=run, position=position)
    return None if row is None else _items(session, run, [row])[0]


def list_items(
    session: Session, run: str, where: Sequence[Any], order: Order, page: Page
) -> tuple[list[OutputItem], str, int]:
    """One page of items; conditions on grades hold where one and the same grade meets them all."""
    of_grade = [condition for condition in where if _is_of_grade(condition)]
    conditions = [ITEMS.c.run == run, *(condition for condition in where if not _is_of_grade(condition))]
    if of_grade:
        same = (GRADES.c.run == ITEMS.c.run) & (GRADES.c.position == ITEMS.c.position)
        conditions.append(exists().where(same, *of_grade))
    listed = list_rows(session, ITEMS, conditions, ITEM_ORDERS[order.field], ITEMS.c.position, order, page)
    return _items(session, run, listed.rows), listed.next_page_token, listed.total


def graded_lines(session: Session, run: str) -> list[GradedLine]:
    """What statistics need of every stored item, in the order of positions."""
    grades = _grades(session, GRADES.c.run == run)
    columns = [ITEMS.c[name] for name in ("position", "line", "errored", "row_key")]
    found = session.execute(select(*columns).where(ITEMS.c.run == run).order_by(ITEMS.c.position))
    return [GradedLine(line, errored, grades.get(position, ()), key) for position, line, errored, key in found]


def graded_items(session: Session, run: str) -> Iterator[tuple[Item, GradedLine]]:
    """Every stored item's row with its values, a few at a time; of its grades no more than whether it passes."""
    columns = [GRADES.c[name] for name in ("position", "grader", "value", "passed")]
    grades: dict[int, list[GradeGiven]] = {}
    for position, grader, value, passed in session.execute(
        select(*columns).where(GRADES.c.run == run).order_by(GRADES.c.ordinal)
    ):
        grades.setdefault(position, []).append(GradeGiven(grader, value, passed, ""))
    query = select(ITEMS.c.position, ITEMS.c.line, ITEMS.c.errored, ITEMS.c.item).where(ITEMS.c.run == run)
    ordered = query.order_by(ITEMS.c.position).execution_options(yield_per=ITEMS_AT_ONCE)
    for position, line, is_errored, item in session.execute(ordered):
        yield item, GradedLine(line, is_errored, grades.get(position, ()))


def judgements(session: Session, run: str) -> Iterator[tuple[str, Judgement]]:
    """What judging models said, with the grader's name; a few at a time."""
    query = select(GRADES.c.grader, GRADES.c.judgements).where(GRADES.c.run == run)
    for grader, stored in session.execute(query.execution_options(yield_per=ITEMS_AT_ONCE)):
        for one in stored:
            yield grader, Judgement(**one)


def costs(session: Session, run: str) -> tuple[list[float], list[int]]:
    """Time in seconds, and tokens of prompt and answer together, of every answer."""
    tokens = ITEMS.c.prompt_tokens + ITEMS.c.completion_tokens
    query = select(ITEMS.c.latency_seconds, tokens).where(ITEMS.c.run == run, ITEMS.c.errored.is_(False))
    rows = session.execute(query).all()
    return [row[0] for row in rows], [row[1] for row in rows]


def errored(session: Session, run: str) -> int:
    """How many items have no answer."""
    return session.scalar(select(func.count()).where(ITEMS.c.run == run, ITEMS.c.errored)) or 0


def first_error(session: Session, run: str) -> Failure | None:
    query = select(ITEMS.c.error).where(ITEMS.c.run == run, ITEMS.c.errored).order_by(ITEMS.c.position).limit(1)
    stored = session.scalar(query)
    return None if stored is None else Failure.model_validate(stored)


def judged_by(judgements: Sequence[Judgement]) -> dict[str, list[int]]:
    """Tokens of prompts and of answers, by judging model."""
    used: dict[str, list[int]] = {}
    for one in judgements:
        used = summed(used, {one.model: [one.prompt_tokens, one.completion_tokens]})
    return used


def summed(first: Mapping[str, Sequence[int]], second: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Two usages by model, added."""
    nothing = (0, 0)
    return {
        model: [a + b for a, b in zip(first.get(model, nothing), second.get(model, nothing), strict=True)]
        for model in {**first, **second}
    }


def usage_of(session: Session, run: str) -> Usage:
    query = select(*(func.coalesce(func.sum(ITEMS.c[name]), 0) for name in Usage._fields)).where(ITEMS.c.run == run)
    return Usage(*(int(total) for total in session.execute(query).one()))


def identities_of(session: Session, run: str) -> list[Identity]:
    """What answered, each once, in the order of its first item."""
    query = (
        select(*_IDENTITY)
        .where(ITEMS.c.run == run, ITEMS.c.model_version.is_not(None))
        .group_by(*_IDENTITY)
        .order_by(func.min(ITEMS.c.position))
    )
    return [Identity(*row) for row in session.execute(query)]


def _is_of_grade(condition: Any) -> bool:
    return getattr(condition.left, "table", None) is GRADES


def _grades(session: Session, where: ColumnElement[bool]) -> dict[int, list[GradeGiven]]:
    columns = [GRADES.c[name] for name in GradeGiven._fields]
    query = select(GRADES.c.position, *columns).where(where).order_by(GRADES.c.position, GRADES.c.ordinal)
    grades: dict[int, list[GradeGiven]] = {}
    for position, *given in session.execute(query):
        grade = GradeGiven(*given)
        judgements = tuple(Judgement(**one) for one in grade.judgements)  # type: ignore[arg-type]
        grades.setdefault(position, []).append(grade._replace(judgements=judgements))
    return grades


def _items(session: Session, run: str, rows: Sequence[Mapping[str, Any]]) -> list[OutputItem]:
    positions = [row["position"] for row in rows]
    grades = _grades(session, and_(GRADES.c.run == run, GRADES.c.position.in_(positions)))
    return [_item(row, grades.get(row["position"], [])) for row in rows]


def _item(row: Mapping[str, Any], grades: Sequence[GradeGiven]) -> OutputItem:
    identity = Identity(*(row[name] for name in Identity._fields)) if row["model_version"] is not None else None
    return OutputItem(
        run=row["run"],
        position=row["position"],
        line=row["line"],
        item=row["item"],
        created=row["created"],
        prompt=[Message.model_validate(message) for message in row["prompt"]],
        message=None if row["message"] is None else Message.model_validate(row["message"]),
        finish_reason=row["finish_reason"],
        usage=Usage(*(row[name] for name in Usage._fields)),
        latency_seconds=row["latency_seconds"],
        identity=identity,
        grades=grades,
        error=None if row["error"] is None else Failure.model_validate(row["error"]),
        sample_index=row["sample_index"],
    )


def _item_columns(item: OutputItem) -> dict[str, object]:
    identity = item.identity._asdict() if item.identity is not None else dict.fromkeys(Identity._fields)
    plain = (
        "run",
        "position",
        "line",
        "sample_index",
        "row_key",
        "item",
        "message",
        "finish_reason",
        "latency_seconds",
        "error",
        "created",
    )
    return storable(
        {
            **{name: getattr(item, name) for name in plain},
            **item.usage._asdict(),
            **identity,
            "prompt": list(item.prompt),
            "passed": item.passed,
            "errored": item.error is not None,
        }
    )


def _grade_columns(item: OutputItem, ordinal: int, grade: GradeGiven) -> dict[str, object]:
    return storable({"run": item.run, "position": item.position, "ordinal": ordinal, **grade._asdict()})
