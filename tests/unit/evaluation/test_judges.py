"""Which judges may gate, and how a row with a human judgement is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from feinschliff.evaluation.judges.store import Calibration
from feinschliff.evaluation.judges.trust import Credential, calibrated, check_judgements, judges_in, require_calibrated
from feinschliff.evaluation.judges.worker import Judgement, human_of, identity_of, judged
from feinschliff.evaluation.work.keeping import Halted
from feinschliff.graders.grade import Item, Sample
from feinschliff.graders.grade import Judgement as GradeJudgement
from feinschliff.graders.spec import Spec
from feinschliff.kit.errors import NotFound, WrongState

NAME = "projects/default/calibrations/c"
LABELS: Spec = {
    "type": "label_model",
    "name": "kind",
    "model": "judge",
    "labels": ["good", "fair", "bad"],
    "passing_labels": ["good", "fair"],
}
SCORE: Spec = {"type": "score_model", "name": "score", "model": "judge", "range": [1, 5], "pass_threshold": 4}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Known:
    def __init__(self, **known: Credential) -> None:
        self._known = known

    def credential(self, name: str) -> Credential:
        if name.rsplit("/", 1)[1] not in self._known:
            raise NotFound("CALIBRATION_NOT_FOUND", "none", name=name)
        return self._known[name.rsplit("/", 1)[1]]


def test_judges_are_found_however_deep_they_lie() -> None:
    deep = {"type": "multi", "name": "m", "graders": {"a": {"type": "multi", "graders": {"b": SCORE}}, "c": LABELS}}
    assert [spec["name"] for spec in judges_in(deep)] == ["score", "kind"]
    assert [*judges_in({"type": "string_check", "name": "x"})] == []


@pytest.mark.parametrize(
    ("judge", "credential", "reason"),
    [
        (LABELS, None, "JUDGE_NOT_CALIBRATED"),
        ({**LABELS, "calibration": NAME}, None, "JUDGE_NOT_CALIBRATED"),
        ({**LABELS, "calibration": NAME}, Credential(NAME, False, LABELS, []), "JUDGE_NOT_CALIBRATED"),
        ({**LABELS, "calibration": NAME, "model": "x"}, Credential(NAME, True, LABELS, []), "JUDGE_NOT_CALIBRATED"),
        ({**LABELS, "calibration": NAME}, Credential(NAME, True, LABELS, ["kappa is 0.1."]), "JUDGE_NOT_TRUSTED"),
    ],
)
def test_a_judge_that_people_have_not_checked_cannot_gate(
    judge: Spec, credential: Credential | None, reason: str
) -> None:
    known = Known(c=credential) if credential else Known()
    with pytest.raises(WrongState) as caught:
        require_calibrated([{"type": "multi", "graders": {"a": judge}}], known, eval_="e")
    assert caught.value.reason == reason


def test_a_judge_that_is_calibrated_as_it_is_may_gate() -> None:
    known = Known(c=Credential(NAME, True, {**LABELS, "name": "other"}, []))
    require_calibrated([{**LABELS, "calibration": NAME}, {"type": "string_check"}], known, eval_="e")


def test_the_judge_of_a_run_is_the_one_that_people_checked() -> None:
    people_checked = {"model_version": "judge/1", "adapter_digest": "a"}
    known = Known(c=Credential(NAME, True, LABELS, [], people_checked))
    deep = {"type": "multi", "name": "m", "graders": {"a": {**LABELS, "calibration": NAME}}}
    judges = calibrated([deep, {"type": "string_check", "name": "x"}], known)
    right = GradeJudgement("judge", "", [], "good", people_checked)
    silent = GradeJudgement("judge", "", [], "")
    of_others = GradeJudgement("other", "", [], "good", {"model_version": "other"})
    assert check_judgements(judges, [("m", right), ("m", silent), ("m", of_others), ("x", right)]) == ""
    for identity in ({"model_version": "judge/2", "adapter_digest": "a"}, {"model_version": "judge/1"}, {}):
        wrong = right._replace(identity=identity)
        assert "people checked judge/1" in check_judgements(judges, [("m", right), ("m", wrong)])


def test_a_judge_that_changed_while_it_was_measured_is_not_calibrated() -> None:
    first, second = {"identity": {"model_version": "1"}}, {"identity": {"model_version": "2"}}
    assert identity_of([{"why": "x"}, first, first]) == {"model_version": "1"}
    with pytest.raises(Halted) as caught:
        identity_of([first, second])
    assert caught.value.failure.reason == "CALIBRATION_JUDGE_CHANGED"


@pytest.mark.parametrize(
    ("grader", "said", "expected"),
    [
        (LABELS, "good", ("good", True, 1.0)),
        (LABELS, "bad", ("bad", False, 0.0)),
        (LABELS, "superb", None),
        (SCORE, 5, ("pass", True, 1.0)),
        (SCORE, 3.0, ("fail", False, 0.5)),
        (SCORE, 4, ("pass", True, 0.75)),
        (SCORE, 99, ("pass", True, 1.0)),
        (SCORE, True, ("pass", True, 1.0)),
        (SCORE, False, ("fail", False, 0.0)),
        (SCORE, "5", None),
        (SCORE, float("nan"), None),
    ],
)
def test_what_people_say_is_read_in_the_words_of_the_grader(
    grader: Spec, said: object, expected: tuple[str, bool, float] | None
) -> None:
    assert human_of(grader, said) == expected


class First:
    """Prefers whatever stands first, or `favourite` where that is said."""

    def __init__(self, favourite: str = "", fails: bool = False) -> None:
        self._favourite, self._fails = favourite, fails

    async def judge(self, item: Item, sample: Sample) -> Judgement:
        if self._fails:
            return Judgement("", None, "no answer")
        passes = not self._favourite or sample.output_text == self._favourite
        return Judgement("good" if passes else "bad", float(passes), "", {"model_version": "judge"})


def calibration(**changes: str) -> Calibration:
    made = Calibration(NAME, "projects/default", LABELS, "d", "item.label", "item.completion", "", 1, NOW, NOW)
    return replace(made, **changes)  # type: ignore[arg-type]


ROW: Mapping[str, object] = {"label": "good", "completion": "yes!", "rival": "no"}


async def test_a_row_keeps_both_judgements() -> None:
    data = await judged(calibration(), First("yes!"), ROW)
    assert (data["human"], data["judge"], data["judge_passes"], data["flips"]) == ("good", "good", True, None)
    assert (data["characters"], data["identity"]) == (4, {"model_version": "judge"})


@pytest.mark.parametrize(("judge", "flips"), [(First(), True), (First("yes!"), False)])
async def test_a_judge_that_follows_the_place_is_found_by_asking_in_both_orders(judge: First, flips: bool) -> None:
    data = await judged(calibration(other_answer_path="item.rival"), judge, ROW)
    assert data["flips"] is flips


@pytest.mark.parametrize(
    ("row", "judge"),
    [
        ({"completion": "yes!"}, First()),
        ({"label": "superb", "completion": "yes!"}, First()),
        ({"label": "good"}, First()),
        (ROW, First(fails=True)),
    ],
)
async def test_a_row_that_cannot_be_judged_says_why(row: Item, judge: First) -> None:
    assert set(await judged(calibration(), judge, row)) == {"why"}
