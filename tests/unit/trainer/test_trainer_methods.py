"""What heads and pre-training make of a batch: closed forms, however it is cut or mixed, and the numbers told of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from feinschliff.formats.heads import HeadFacts
from feinschliff.formats.objectives import Classify, Objective, Regress, Sft
from feinschliff.lm import heads
from feinschliff.lm.adaptations import frozen
from feinschliff.lm.chat import Encoded
from feinschliff.lm.flat import FlatBatch
from feinschliff.lm.load import load_model
from feinschliff.lm.rows_attention import rows_apart
from feinschliff.trainer.learner import HEAD, Learner
from feinschliff.trainer.method import METHODS
from feinschliff.trainer.methods import classify, pretrain, regress
from feinschliff.trainer.methods.classify import CONFUSION_CLASSES_MAX, class_weights
from feinschliff.trainer.terms import LossTerms

CLASSES = HeadFacts(kind="classify", classes=["a", "b", "c"], rows=9, rows_by_class=[6, 3, 0])
SEVERAL = CLASSES.model_copy(update={"multi_label": True})
NUMBER = HeadFacts(kind="regress", mean=20.0, deviation=4.0)


def row(length: int, *targets: float) -> Encoded:
    """A text of so many tokens, and what is to be said of it."""
    return Encoded([(7 * length + k) % 300 + 3 for k in range(length)] + [0], [False] * length + [True], targets)


ROWS = {
    "classify": [row(5, 0), row(3, 1), row(9, 2), row(4, 1)],
    "several": [row(5, 0, 2), row(3), row(9, 1), row(4, 0, 1, 2)],
    "regress": [row(5, 18.0), row(3, 30.0), row(9, -1.0), row(4, 20.0)],
}
FACTS = {"classify": CLASSES, "several": SEVERAL, "regress": NUMBER}
OBJECTIVES: dict[str, Objective] = {
    "classify": Classify(label_smoothing=0.1, balance_classes=True),
    "several": Classify(multi_label=True, balance_classes=True),
    "regress": Regress(),
}


class Fixed(Learner):
    """A learner whose hidden states are given: they are its head's scores."""

    def states(self, batch: FlatBatch) -> torch.Tensor:
        return SCORES[: batch.labels]


SCORES = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 1.0], [0.0, 0.0, 0.0]])


def fixed(facts: HeadFacts) -> Learner:
    weight = torch.eye(3)[: facts.outputs]
    return Fixed(frozen, torch.nn.Identity(), heads.Head(facts, weight))


def terms_of(kind: str, objective: Objective | None = None) -> LossTerms:
    method = METHODS[FACTS[kind].kind]
    return method.loss(fixed(FACTS[kind]), method.collate(ROWS[kind]), objective or OBJECTIVES[kind])


def test_classes_cost_their_weighted_cross_entropy() -> None:
    wanted = torch.tensor([0, 1, 2, 1])
    plain = terms_of("classify", Classify())
    torch.testing.assert_close(plain.loss_sum / 4, F.cross_entropy(SCORES, wanted))
    assert plain.hits_N is not None
    assert plain.hits_N.tolist() == [True, False, False, False]

    weighted = terms_of("classify", Classify(balance_classes=True))
    weights_C = torch.tensor([9 / (2 * 6), 9 / (2 * 3), 1.0])
    torch.testing.assert_close(weighted.loss_sum, F.cross_entropy(SCORES, wanted, weights_C, reduction="sum"))


def test_several_classes_cost_the_mean_of_their_binary_entropies() -> None:
    wanted = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
    terms = terms_of("several", Classify(multi_label=True))
    torch.testing.assert_close(terms.loss_sum / 4, F.binary_cross_entropy_with_logits(SCORES, wanted))
    assert terms.hits_N is not None
    assert terms.hits_N.tolist() == [True, False, False, False]


def test_a_number_costs_its_squared_error_in_its_own_unit() -> None:
    terms = terms_of("regress")
    wanted = (torch.tensor([18.0, 30.0, -1.0, 20.0]) - 20) / 4
    torch.testing.assert_close(terms.loss_sum / 4, F.mse_loss(SCORES[:, 0], wanted))
    assert terms.hits_N is None
    assert terms.said_N is not None
    assert terms.said_N.tolist() == pytest.approx([28.0, 20.4, 8.0, 20.0])


def test_weights_of_classes_have_mean_one_over_the_training_rows() -> None:
    rows_C = torch.tensor([6.0, 3.0, 0.0])
    assert float((class_weights(CLASSES) * rows_C).sum() / rows_C.sum()) == pytest.approx(1)
    assert class_weights(SEVERAL).tolist() == [0.5, 2.0, 1.0]


@pytest.mark.parametrize("kind", FACTS)
def test_how_a_batch_is_cut_or_mixed_changes_nothing(kind: str, tiny_model: Path) -> None:
    model, method = load_model(tiny_model, precision="fp32"), METHODS[FACTS[kind].kind]
    whole, cut = (Learner(frozen, model, heads.fresh(FACTS[kind], 64, seed=1)) for _ in range(2))

    def add_up(learner: Learner, groups: Sequence[Sequence[Encoded]]) -> float:
        with rows_apart(model):
            total = 0.0
            for group in groups:
                terms = method.loss(learner, method.collate(group), OBJECTIVES[kind])
                terms.loss_sum.backward()  # type: ignore[no-untyped-call]
                total += terms.loss_sum.item()
        return total

    one, two, three, four = ROWS[kind]
    assert add_up(cut, [[four], [two, one], [three]]) == pytest.approx(add_up(whole, [ROWS[kind]]), rel=1e-5)
    torch.testing.assert_close(cut.trained()[HEAD].grad, whole.trained()[HEAD].grad, rtol=1e-4, atol=1e-5)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_macro_f1_and_accuracy_follow_from_the_confusions(answers: list[tuple[int, int]]) -> None:
    batch = METHODS["classify"].collate([row(2, truth) for truth, _ in answers])
    said_N = torch.tensor([said for _, said in answers])
    terms = LossTerms(torch.zeros(len(answers)), None, said_N)

    observed = classify.observe(CLASSES, batch, terms)

    scores = []
    for label in {one for pair in answers for one in pair}:
        hits = sum(truth == said == label for truth, said in answers)
        named = sum((truth == label) + (said == label) for truth, said in answers)
        scores.append(2 * hits / named)
    assert len(observed) == classify.observed(CLASSES)
    assert classify.metrics(CLASSES, observed, 0.0)["macro_f1"] == pytest.approx(sum(scores) / len(scores))


def test_confusions_are_written_truth_by_row() -> None:
    batch = METHODS["classify"].collate([row(2, 0), row(2, 0), row(2, 2)])
    observed = classify.observe(CLASSES, batch, LossTerms(torch.zeros(3), None, torch.tensor([0, 1, 2])))

    assert classify.files(CLASSES, observed)["confusion.csv"] == b"class,a,b,c\na,1,1,0\nb,0,0,0\nc,0,0,1\n"


def test_many_or_several_classes_are_counted_one_by_one() -> None:
    terms = terms_of("several")
    observed = classify.observe(SEVERAL, METHODS["classify"].collate(ROWS["several"]), terms)
    table = b"class,right,wrong,missed\na,1,1,1\nb,1,1,1\nc,1,2,1\n"
    assert classify.files(SEVERAL, observed)["confusion.csv"] == table
    assert classify.metrics(SEVERAL, observed, 0.0)["macro_f1"] == pytest.approx((0.5 + 0.5 + 0.4) / 3)

    count = CONFUSION_CLASSES_MAX + 1
    many = HeadFacts(kind="classify", classes=[str(k) for k in range(count)], rows_by_class=[1] * count)
    batch = METHODS["classify"].collate([row(2, 0), row(2, 0), row(2, 1000)])
    observed = classify.observe(many, batch, LossTerms(torch.zeros(3), None, torch.tensor([0, 1, 1000])))
    assert len(observed) == classify.observed(many) == 3 * count
    assert classify.metrics(many, observed, 0.0)["macro_f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_errors_of_numbers_are_in_the_unit_of_the_data() -> None:
    observed = regress.observe(NUMBER, METHODS["regress"].collate(ROWS["regress"]), terms_of("regress"))

    errors = [10.0, -9.6, 9.0, 0.0]
    numbers = regress.metrics(NUMBER, observed, 0.0)
    assert numbers["mae"] == pytest.approx(sum(map(abs, errors)) / 4, rel=1e-6)
    assert numbers["rmse"] == pytest.approx(math.sqrt(sum(one**2 for one in errors) / 4), rel=1e-6)


def test_perplexity_is_e_to_the_loss_and_never_too_large_a_number() -> None:
    assert pretrain.metrics(None, np.zeros(0), 2.0) == {"perplexity": pytest.approx(math.e**2)}
    assert math.isfinite(pretrain.metrics(None, np.zeros(0), 1e6)["perplexity"])


def test_answers_may_be_smoothed(tiny_model: Path) -> None:
    model, method = load_model(tiny_model, precision="fp32"), METHODS["sft"]
    batch = method.collate([Encoded([5, 6, 7, 8], [False, False, True, True])])
    with rows_apart(model), torch.no_grad():
        terms = method.loss(Learner(frozen, model), batch, Sft(label_smoothing=0.2))
    logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, 1:]

    expected = F.cross_entropy(logits, torch.tensor([7, 8]), label_smoothing=0.2, reduction="sum")
    torch.testing.assert_close(terms.loss_sum, expected, rtol=1e-4, atol=1e-4)
