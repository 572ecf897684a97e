"""Evals from files, their items as files, and verdicts that need a baseline."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from feinschliff.cli import baseline, eval_export, eval_files, serving
from feinschliff.cli.output import Output
from feinschliff.kit.errors import Invalid, WrongState
from feinschliff.v1 import common_pb2 as common
from feinschliff.v1 import evaluation_pb2 as pb

EVAL = "projects/default/evals/e"
GSM8K = {"question": "2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 1,234"}
CHOICE = {"question": "Sky?", "choices": ["red", "blue", "green"], "answer": 1}


def lines(folder: Path, *rows: object) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n", "utf-8")
    return file


def test_word_problems_become_questions_with_their_number(tmp_path: Path) -> None:
    (row,) = eval_files.rows_of(lines(tmp_path, GSM8K), "gsm8k")
    question, answer = row["messages"]  # type: ignore[misc]
    assert question["content"].startswith("2 + 2?\n")  # type: ignore[index]
    assert answer == {"role": "assistant", "content": "1234"}
    assert eval_files.grader_of("gsm8k", 0).numeric.reference == "{{ item.completion }}"


@pytest.mark.parametrize("answer", [1, "B", "b", "blue"])
def test_multiple_choice_takes_index_letter_or_text(tmp_path: Path, answer: object) -> None:
    file = lines(tmp_path, {**CHOICE, "answer": answer})
    (row,) = eval_files.rows_of(file, "choice")
    assert row["messages"][1]["content"] == "B"  # type: ignore[index]
    assert "B. blue" in row["messages"][0]["content"]  # type: ignore[index]
    grader = eval_files.grader_of("choice", eval_files.options_in(file))
    assert list(grader.choice.options) == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("gsm8k", {"question": "x", "answer": "no mark"}),
        ("gsm8k", {"question": "x", "answer": "#### many"}),
        ("gsm8k", {"answer": "#### 1"}),
        ("gsm8k", ["not", "an", "object"]),
        ("choice", {**CHOICE, "answer": 3}),
        ("choice", {**CHOICE, "answer": True}),
        ("choice", {**CHOICE, "choices": ["one"]}),
    ],
)
def test_a_line_that_is_no_such_row_is_named(tmp_path: Path, kind: str, row: object) -> None:
    good = {"gsm8k": GSM8K, "choice": CHOICE}[kind]
    with pytest.raises(Invalid) as refusal:
        list(eval_files.rows_of(lines(tmp_path, good, row), kind))
    assert (refusal.value.reason, refusal.value.metadata["line"]) == ("EVAL_FILE_INVALID", "2")


class Evaluation:
    """An evaluation service with runs that are over at once, and items."""

    def __init__(
        self, runs: list[pb.EvalRun], *, ends: pb.EvalRun.State.ValueType = pb.EvalRun.STATE_COMPLETED
    ) -> None:
        self.runs, self.ends = runs, ends
        self.started: list[str] = []

    def ListEvalRuns(self, request: pb.ListEvalRunsRequest) -> pb.ListEvalRunsResponse:
        return pb.ListEvalRunsResponse(eval_runs=self.runs)

    def CreateEvalRun(self, request: pb.CreateEvalRunRequest) -> pb.EvalRun:
        self.started.append(request.eval_run.model)
        return pb.EvalRun(name=f"{EVAL}/runs/{len(self.started)}", model=request.eval_run.model)

    def WatchEvalRun(self, request: pb.WatchEvalRunRequest) -> Any:
        return iter([pb.WatchEvalRunResponse(cursor=1, eval_run=pb.EvalRun(name=request.name, state=self.ends))])

    def CompareRuns(self, request: pb.CompareRunsRequest) -> pb.RunComparison:
        verdict = pb.RunComparison.VERDICT_BETTER
        return pb.RunComparison(baseline=request.baseline, candidate=request.candidate, verdict=verdict)

    def ListOutputItems(self, request: pb.ListOutputItemsRequest) -> pb.ListOutputItemsResponse:
        start = int(request.page_token or 0)
        grades = [pb.Grade(grader="exact", value=1.0, passed=True), pb.Grade(grader="near")]
        item = pb.OutputItem(name=f"{request.parent}/items/{start + 1}", line=start + 1, sample="ä", grades=grades)
        return pb.ListOutputItemsResponse(output_items=[item], next_page_token="" if start == 2 else str(start + 1))


def session_with(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(serving, "require", lambda session, model, make: None)
    return SimpleNamespace(services=SimpleNamespace(evaluation=evaluation), output=Output(as_json=True))


def run_of(model: str, **fields: Any) -> pb.EvalRun:
    return pb.EvalRun(name=f"{EVAL}/runs/old", model=model, state=pb.EvalRun.STATE_COMPLETED, **fields)


def test_a_complete_run_of_the_base_is_the_baseline_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = pb.PromptTemplate(item_reference="item.other")
    others = [run_of("other"), run_of("base", limit=5), run_of("base", prompt=prompt)]
    others += [run_of("base", sampling=common.SamplingParams(n=2)), run_of("base", overall=pb.GraderResult(errored=1))]
    evaluation = Evaluation([*others, run_of("base")])
    assert baseline.baseline_run(session_with(evaluation, monkeypatch), EVAL, "base").name == f"{EVAL}/runs/old"
    assert evaluation.started == []
    evaluation = Evaluation(others)
    session = session_with(evaluation, monkeypatch)
    made = baseline.baseline_run(session, EVAL, "base")
    assert (made.name, evaluation.started) == (f"{EVAL}/runs/1", ["base"])
    assert baseline.verdict(session, EVAL, made, "tuned").candidate == f"{EVAL}/runs/2"


def test_without_a_complete_baseline_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Evaluation([], ends=pb.EvalRun.STATE_FAILED)
    with pytest.raises(WrongState) as refusal:
        baseline.baseline_run(session_with(evaluation, monkeypatch), EVAL, "base")
    assert refusal.value.reason == "BASELINE_INCOMPLETE"


@pytest.mark.parametrize("suffix", eval_export.FORMATS)
def test_every_item_is_exported_with_values_by_grader(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_with(Evaluation([]), monkeypatch)
    file = tmp_path / f"items{suffix}"
    assert eval_export.export(session.services, f"{EVAL}/runs/r", file) == 3
    assert [one.name for one in tmp_path.iterdir()] == [file.name]
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        assert [row["values"] for row in rows] == [{"exact": 1.0, "near": None}] * 3
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = parquet.read_table(file).to_pylist()
        assert [row["value.exact"] for row in rows] == [1.0] * 3
    assert [row["sample"] for row in rows] == ["ä"] * 3
