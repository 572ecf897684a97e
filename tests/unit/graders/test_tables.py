"""The tables of grades hold, row by row; every type has rows, those that cannot be graded included."""

from __future__ import annotations

from collections import Counter

import pytest

from feinschliff.graders.grade import Fault, Sample
from feinschliff.graders.grader import GRADERS, UNSERVED, parse
from feinschliff.graders.protocol import is_pure
from feinschliff.graders.spec import ANSWER, Spec
from tests.unit.graders.tables import REFERENCE, TEXTS, Row
from tests.unit.graders.tables_asking import ASKING
from tests.unit.graders.tables_structure import CALLS, FORMULAS, STRUCTURES, CallsRow, FormulaRow


@pytest.mark.parametrize("row", [*TEXTS, *STRUCTURES], ids=lambda row: f"{row.spec['type']}-{row.answer[:30]!r}")
def test_a_text_has_its_grade(row: Row) -> None:
    grader = parse({"name": "g", **row.spec})
    assert is_pure(grader)
    grade = grader.grade({"right": row.right}, Sample(row.answer))
    assert grade.value == (None if row.value is None else pytest.approx(row.value)), grade.why
    assert grade.fault == row.fault
    assert grade.why
    if grade.value is not None:
        assert 0.0 <= grade.value <= 1.0


@pytest.mark.parametrize("spec", {row.spec["type"]: row.spec for row in [*TEXTS, *STRUCTURES]}.values())
def test_a_row_or_an_answer_without_the_path_cannot_be_graded(spec: Spec) -> None:
    grader = parse({"name": "g", **spec, "input": "{{ item.nowhere.at_all }}"})
    assert is_pure(grader)
    grade = grader.grade({"right": "x"}, Sample("x"))
    assert (grade.value, grade.fault) == (None, Fault.TEMPLATE)
    assert "item.nowhere" in grade.why


@pytest.mark.parametrize("row", CALLS)
def test_calls_have_their_grade(row: CallsRow) -> None:
    grader = parse({"type": "tool_calls", "name": "g", "reference": REFERENCE, **row.changes})
    assert is_pure(grader)
    grade = grader.grade({"right": row.wanted}, Sample("", row.made))
    assert (grade.value, grade.fault) == (row.value, row.fault), grade.why


@pytest.mark.parametrize("row", FORMULAS, ids=lambda row: row.formula)
def test_a_formula_has_its_value(row: FormulaRow) -> None:
    exact = {"type": "string_check", "input": ANSWER, "reference": REFERENCE, "operation": "eq"}
    near = {"type": "text_similarity", "input": ANSWER, "reference": REFERENCE, "evaluation_metric": "fuzzy_match"}
    label = {**exact, "reference": "{{ item.label }}"}
    graders = {"exact": exact, "near": near, "label": label}
    grader = parse({"type": "multi", "name": "g", "graders": graders, "calculate_output": row.formula})
    assert is_pure(grader)
    grade = grader.grade({"right": row.right}, Sample(row.answer))
    assert grade.value == (None if row.value is None else pytest.approx(row.value)), grade.why
    assert (grade.fault, grade.raw) == (row.fault, row.raw)
    assert set(grade.parts) == {"exact", "near"}


def test_every_type_has_rows_and_such_as_cannot_be_graded() -> None:
    rows: Counter[str] = Counter(str(row.spec["type"]) for row in [*TEXTS, *STRUCTURES, *ASKING])
    rows += Counter(tool_calls=len(CALLS), multi=len(FORMULAS))
    assert set(rows) == set(GRADERS) - set(UNSERVED) - {"python"}
    assert rows.total() >= 300
    ungradable = {str(row.spec["type"]) for row in [*TEXTS, *STRUCTURES, *ASKING] if row.value is None}
    ungradable |= {"tool_calls", "multi"}
    # These read their answer's text whatever it is; only a missing path keeps them from it, which has its own test.
    assert set(rows) - ungradable == {"json_path", "length", "regex", "text_check"}
