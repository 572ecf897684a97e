"""What training says that it can do is what recipes are held to."""

from __future__ import annotations

import pytest

from feinschliff.formats.recipe import SERVED
from feinschliff.training.capabilities import Rule, rules, techniques
from feinschliff.training.proto import KINDS, to_rule
from feinschliff.v1 import training_pb2 as pb

BY_PATH = {rule.path: rule for rule in rules()}


def names(group: str) -> list[str]:
    return [field.name for field in pb.TrainingRecipe.DESCRIPTOR.oneofs_by_name[group].fields]


def test_every_pair_of_the_contract_is_served_or_says_why_not() -> None:
    told = techniques(*(names(group) for group in KINDS))
    assert len(told) == len(names("objective")) * len(names("adaptation"))
    assert all(one.supported != bool(one.reason) for one in told)
    served = {(one.objective, one.adaptation) for one in told if one.supported}
    assert served == {(objective, one) for objective, adaptations in SERVED.items() for one in adaptations}


def test_a_pair_may_have_an_adapter_for_each_task_where_it_lies_beside_the_base_and_has_no_head() -> None:
    told = {
        (one.objective, one.adaptation) for one in techniques(*(names(group) for group in KINDS)) if one.task_adapters
    }
    beside = set(SERVED["sft"]) - {"full", "last_layers"}
    assert told == {(objective, adaptation) for objective in ("sft", "pretrain") for adaptation in beside}


@pytest.mark.parametrize("path", sorted(BY_PATH))
def test_a_rule_stands_at_a_field_of_the_contract(path: str) -> None:
    message = pb.TrainingRecipe.DESCRIPTOR
    *folders, last = path.split(".")
    for folder in folders:
        message = message.fields_by_name[folder].message_type
    assert last in message.fields_by_name


@pytest.mark.parametrize("rule", BY_PATH.values(), ids=BY_PATH)
def test_a_default_lies_within_its_bounds(rule: Rule) -> None:
    if rule.default is None:
        return
    assert rule.minimum is None or rule.default >= rule.minimum
    assert rule.maximum is None or rule.default <= rule.maximum


def test_a_rule_tells_bounds_default_unit_and_source() -> None:
    rate = to_rule(BY_PATH["optimisation.learning_rate"])
    assert (rate.minimum, rate.maximum, rate.minimum_excluded, rate.maximum_excluded) == (0, 1, True, False)
    rank = to_rule(BY_PATH["lora.rank"])
    assert (rank.default_value.number_value, rank.minimum, rank.maximum) == (16, 1, 512)
    assert "Biderman" in rank.source
    wall = to_rule(BY_PATH["limits.wall_seconds"])
    assert (wall.unit, wall.HasField("maximum")) == ("s", False)
