"""Names of workloads follow from what they are for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feinschliff.kit.errors import Invalid
from feinschliff.workloads.spec import NAME_CHARS_MAX, WorkloadSpec, check_name, workload_name


def test_a_name_reads_like_its_parts() -> None:
    assert workload_name("training", "ftjob-a1", 2) == "training-ftjob-a1-2"


@settings(deadline=None)
@given(st.lists(st.text(max_size=90), min_size=1, max_size=4))
def test_any_parts_give_a_valid_name(parts: list[str]) -> None:
    name = workload_name(*parts)

    assert check_name(name) == name
    assert len(name) <= NAME_CHARS_MAX
    assert workload_name(*parts) == name


def test_names_of_different_parts_differ_where_they_had_to_be_cut() -> None:
    names = {workload_name("training", "j" * 80, attempt) for attempt in range(100)}

    assert len(names) == 100
    assert workload_name("training", "job_1", 1) != workload_name("training", "job-1", 1)


def test_a_workload_needs_a_command() -> None:
    with pytest.raises(Invalid) as refused:
        WorkloadSpec("empty", ())
    assert refused.value.reason == "WORKLOAD_COMMAND_EMPTY"
