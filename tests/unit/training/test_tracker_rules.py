"""A job names only trackers that are here, with secrets that are given out, at addresses that may be called."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from feinschliff.formats.recipe import Recipe
from feinschliff.kit.addresses import is_inside
from feinschliff.kit.errors import Invalid, Refusal, WrongState
from feinschliff.training.trackers import TrackerRules, secrets_of
from feinschliff.workloads.profiles import Profile

PROFILE = Profile(name="gpu", secrets=("team-mlflow", "wandb"), trackers=("wandb",))
BARE = Profile(name="cpu")
MLFLOW = {"tracking_uri": "https://tracking.example.com", "experiment": "routing"}


def recipe(*trackers: dict[str, object]) -> Recipe:
    return Recipe.model_validate({"data": [{"dataset_version": "d"}], "trackers": list(trackers)})


def refusal(rules: TrackerRules, profile: Profile, *trackers: dict[str, object]) -> tuple[type, str, str]:
    with pytest.raises(Refusal) as refused:
        rules.check(recipe(*trackers), profile)
    return type(refused.value), refused.value.reason, refused.value.fields[0].field


def test_on_a_cluster_a_profile_says_what_there_is() -> None:
    rules = TrackerRules()
    ours = {"mlflow": {**MLFLOW, "credentials_secret": "team-mlflow"}}
    wandb = {"wandb": {"project": "routing"}}
    rules.check(recipe(ours, wandb), PROFILE)
    path = "training_job.recipe.trackers"
    assert refusal(rules, BARE, ours) == (Invalid, "TRACKER_SECRET_UNKNOWN", f"{path}[0].mlflow.credentials_secret")
    assert refusal(rules, BARE, {"mlflow": MLFLOW}, wandb) == (WrongState, "TRACKER_UNAVAILABLE", f"{path}[1].wandb")
    assert rules.installed([BARE]) == ["mlflow", "tensorboard"]
    assert rules.installed([BARE, PROFILE]) == ["mlflow", "tensorboard", "wandb"]


def test_a_job_gets_the_secrets_that_it_needs_and_no_others() -> None:
    assert secrets_of(recipe(), PROFILE) == ()
    assert secrets_of(recipe({"wandb": {"project": "routing"}}), PROFILE) == ("wandb",)
    named = {**MLFLOW, "credentials_secret": "team-mlflow"}
    assert secrets_of(recipe({"mlflow": named}, {"mlflow": named}), PROFILE) == ("team-mlflow",)
    assert secrets_of(recipe({"mlflow": {**MLFLOW, "credentials_secret": "database"}}), PROFILE) == ()


def test_on_one_machine_a_secret_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    rules = TrackerRules(tmp_path)
    rules.check(recipe({"mlflow": {**MLFLOW, "credentials_secret": "mine"}}), BARE)
    named = {"mlflow": {**MLFLOW, "credentials_secret": "yours"}}
    assert refusal(rules, BARE, named)[1] == "TRACKER_SECRET_UNKNOWN"
    assert refusal(rules, PROFILE, {"wandb": {"project": "p"}})[1] == "TRACKER_UNAVAILABLE"


@pytest.mark.parametrize("name", ["../keys", "a/b", ".hidden", "a..", "UPPER"])
def test_a_secret_has_a_plain_name(name: str) -> None:
    with pytest.raises(ValidationError):
        recipe({"mlflow": {**MLFLOW, "credentials_secret": name}})


@pytest.mark.parametrize(
    "uri", ["databricks", "file:/tmp/runs", "sqlite:///x.db", "https://", "http://[x", "http://x:99999"]
)
def test_an_address_is_one_of_a_server(uri: str) -> None:
    asked = {"mlflow": {"tracking_uri": uri, "experiment": "routing"}}
    assert refusal(TrackerRules(), BARE, asked)[:2] == (Invalid, "TRACKER_ADDRESS_INVALID")


def test_an_address_holds_no_password_and_none_is_repeated() -> None:
    asked = recipe({"mlflow": {"tracking_uri": "https://me:geheim@mlflow.example.com", "experiment": "routing"}})
    with pytest.raises(Invalid) as refused:
        TrackerRules().check(asked, BARE)
    assert refused.value.reason == "TRACKER_ADDRESS_INVALID"
    assert "geheim" not in f"{refused.value.message}{refused.value.metadata}{refused.value.fields}"


def test_an_offline_installation_sends_nothing_outside() -> None:
    asked = {"mlflow": MLFLOW}
    assert refusal(TrackerRules(offline=True), BARE, asked)[:2] == (WrongState, "TRACKER_OUTSIDE")
    inside = {"mlflow": {"tracking_uri": "http://mlflow.tracking.svc:5000", "experiment": "routing"}}
    TrackerRules(offline=True).check(recipe(inside), BARE)


@pytest.mark.parametrize(
    ("url", "inside"),
    [
        ("http://127.0.0.1:5000", True),
        ("http://[::1]:5000", True),
        ("https://10.1.2.3", True),
        ("http://mlflow:5000", True),
        ("http://mlflow.tracking.svc.cluster.local", True),
        ("https://api.wandb.ai", False),
        ("https://8.8.8.8", False),
        ("https://svc.example.com", False),
        ("not a url", False),
    ],
)
def test_what_is_inside(url: str, inside: bool) -> None:
    assert is_inside(url) is inside
