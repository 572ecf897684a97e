"""Asks a judge what people have judged already, row by row, and measures how far they agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from feinschliff.evaluation.clients import Row
from feinschliff.evaluation.judges.agreement import Judged, measure
from feinschliff.evaluation.judges.calibrations import Calibrations
from feinschliff.evaluation.judges.store import Calibration
from feinschliff.evaluation.prompts.prompt import item_of
from feinschliff.evaluation.work.keeping import Halted
from feinschliff.evaluation.work.row_work import Rows, RowWork
from feinschliff.formats.report import Failure
from feinschliff.graders import template
from feinschliff.graders.grade import Item, Sample
from feinschliff.graders.spec import Spec
from feinschliff.graders.template import Unresolved
from feinschliff.kit.threads import offload

PASS, FAIL = "pass", "fail"


class Judgement(NamedTuple):
    """What a judge says: a label (empty for scores), a value in [0, 1] (None: it cannot), why, and who it was."""

    label: str
    value: float | None
    why: str
    identity: Mapping[str, str] | None = None


class Judge(Protocol):
    """A judging grader that may be asked."""

    async def judge(self, item: Item, sample: Sample) -> Judgement: ...


Judges = Callable[[Calibration], Judge]
"""Makes the judge that is calibrated."""


class CalibrationWorker:
    """Each row is stored as it is judged, so a killed calibration goes on."""

    def __init__(self, calibrations: Calibrations, work: RowWork, judges: Judges) -> None:
        self._calibrations = calibrations
        self._work = work
        self._judges = judges

    async def work(self, name: str) -> None:
        """Raises Halted where the rows cannot be read."""
        calibration = await offload(self._calibrations.get, name)
        await offload(self._calibrations.begin, name)
        judge = self._judges(calibration)

        async def do(position: int, row: Row) -> None:
            item = item_of({"line": row.line, **row.data})
            data = await judged(calibration, judge, item)
            await offload(self._calibrations.put, name, position, data)

        rows = Rows(calibration.dataset_version, "", calibration.total)
        done = await offload(self._calibrations.stored, name)
        await self._work.each(rows, done.keys(), do)
        stored = list((await offload(self._calibrations.stored, name)).values())
        usable = [_judged_of(data) for data in stored if "why" not in data]
        is_score = calibration.grader.get("type") == "score_model"
        measured = await offload(measure, usable, len(stored) - len(usable), is_score=is_score)
        identity = identity_of(stored)
        await offload(self._calibrations.succeed, name, measured, identity)


def identity_of(stored: Iterable[Mapping[str, Any]]) -> Mapping[str, str] | None:
    """Who judged; raises Halted where it was not one and the same model all along."""
    seen: list[Mapping[str, str]] = []
    for data in stored:
        if data.get("identity") and data["identity"] not in seen:
            seen.append(data["identity"])
    if len(seen) > 1:
        models = ", ".join(one.get("model_version", "") for one in seen)
        message = f"The judge changed while it was measured: {models}. Calibrate it again."
        raise Halted(Failure(reason="CALIBRATION_JUDGE_CHANGED", message=message, retryable=True))
    return seen[0] if seen else None


async def judged(calibration: Calibration, judge: Judge, item: Item) -> Mapping[str, object]:
    """What is stored of a row: both judgements, or `why` there are none."""
    try:
        human = _at(calibration.label_path, item)
        answer = template.text_of(_at(calibration.answer_path, item))
        other = template.text_of(_at(calibration.other_answer_path, item)) if calibration.other_answer_path else None
    except Unresolved as error:
        return {"why": str(error)}
    person = human_of(calibration.grader, human)
    if person is None:
        return {"why": f"{human!r} is no judgement that fits the grader"[:400]}
    seen = item if other is None else {**item, "other": other}
    said = await judge.judge(seen, Sample(answer))
    if said.value is None:
        return {"why": said.why[:400]}
    passes = said.value >= threshold_of(calibration.grader)
    flips = None
    if other is not None:
        turned = await judge.judge({**item, "other": answer}, Sample(other))
        if turned.value is None:
            return {"why": turned.why[:400]}
        flips = (turned.value >= threshold_of(calibration.grader)) == passes
    return {
        "human": person.label,
        "judge": said.label or (PASS if passes else FAIL),
        "human_passes": person.passes,
        "judge_passes": passes,
        "human_value": person.value,
        "judge_value": said.value,
        "characters": len(answer),
        "flips": flips,
        "identity": said.identity,
    }


class Human(NamedTuple):
    """What a person says, in the grader's words."""

    label: str
    passes: bool
    value: float


def human_of(grader: Spec, said: object) -> Human | None:
    """A label of the grader, or a number in its range (true and false are its ends); None where it is neither."""
    if grader.get("type") == "label_model":
        labels, passing = grader.get("labels"), grader.get("passing_labels")
        if not isinstance(labels, list | tuple) or not isinstance(passing, list | tuple) or said not in labels:
            return None
        return Human(str(said), said in passing, float(said in passing))
    low, high = range_of(grader)
    if isinstance(said, bool):
        value = float(said)
    elif isinstance(said, int | float) and math.isfinite(said):
        value = min(max((said - low) / (high - low), 0.0), 1.0)
    else:
        return None
    passes = value >= threshold_of(grader)
    return Human(PASS if passes else FAIL, passes, value)


def range_of(grader: Spec) -> tuple[float, float]:
    bounds = grader.get("range")
    if isinstance(bounds, list | tuple) and len(bounds) == 2:
        return float(bounds[0]), float(bounds[1])
    return 0.0, 1.0


def threshold_of(grader: Spec) -> float:
    """From which value in [0, 1] an answer passes; a label's value is 0 or 1."""
    low, high = range_of(grader)
    threshold = grader.get("pass_threshold")
    if grader.get("type") != "score_model" or not isinstance(threshold, int | float):
        return 0.5
    return (threshold - low) / (high - low)


def _at(path: str, item: Item) -> object:
    return template.parse_path(path, field="path").value({"item": item})


def _judged_of(data: Mapping[str, Any]) -> Judged:
    return Judged(**{name: data[name] for name in Judged._fields})
