"""Every setting has its place in the chart, every place leads to its variable, and rooms start with what they get."""

from __future__ import annotations

import re

import pytest

from feinschliff.kit.settings import ENV_PREFIX, Settings
from tests.support import chart_schema
from tests.support.chart_objects import environment, pods, variable_names
from tests.support.chart_settings import OWNED, PROGRAMS, ROOMS, SET, SET_WHERE_NEEDED, WITHHELD, own, shared, unknown
from tests.support.differences import differences
from tests.support.helm import CHART, ROOT, HelmRefused, Manifest, find, render

SOURCES = ROOT / "services" / "feinschliff"
CERTIFICATES = {"tls": {"enabled": True, "existingSecret": "given-certificates"}}


def pod_environment(manifests: list[Manifest], component: str) -> dict[str, str]:
    return next(environment(pod, manifests) for pod in pods(manifests) if pod.component == component)


def test_the_schema_is_what_the_classes_say() -> None:
    found = differences(chart_schema.PATH.read_text("utf-8"), chart_schema.page())
    assert not found, f"run `python -m tests.support.chart_schema`:\n{found}"


def test_every_setting_is_taken_or_is_the_charts_own_for_a_reason() -> None:
    every = {name for program in PROGRAMS.values() for name in program.model_fields}
    taken = {name for program in PROGRAMS for name in own(program)} | set(shared())
    assert taken | OWNED.keys() == every
    assert not taken & OWNED.keys()
    assert not [*unknown()]


def test_every_settings_class_of_a_room_is_known() -> None:
    modules = {f"feinschliff.{path.parent.name}.settings" for path in SOURCES.glob("*/settings.py")}
    modules -= {"feinschliff.cli.settings", "feinschliff.kit.settings"}
    assert {program.__module__ for program in PROGRAMS.values()} == modules


@pytest.mark.parametrize("room", ROOMS)
def test_the_chart_sets_what_it_keeps_for_itself(room: str) -> None:
    manifests = render({**CERTIFICATES, "s3": {"ca": {"existingSecret": "given-ca"}}})
    pod = next(pod for pod in pods(manifests) if pod.component == room)
    there = variable_names(pod, manifests)
    fields = ROOMS[room].model_fields.keys()
    missing = {name for name in SET if name in fields and f"{ENV_PREFIX}{name.upper()}" not in there}
    assert not missing
    assert not {name for name in WITHHELD if f"{ENV_PREFIX}{name.upper()}" in there}


def test_what_is_set_where_it_is_needed_is_needed_somewhere() -> None:
    judges = {"existingSecret": "given-judges", "judgesKey": "judges", "headersKey": "headers"}
    secrets = {"s3": {"ca": {"existingSecret": "given-ca"}}, "evaluation": {"graders": judges}}
    manifests = render({**CERTIFICATES, **secrets})
    there = {name for pod in pods(manifests) for name in variable_names(pod, manifests)}
    assert not {name for name in SET_WHERE_NEEDED if f"{ENV_PREFIX}{name.upper()}" not in there}


@pytest.mark.parametrize("name", ["minimal", "compact", "production", "gpu", "airgapped", "process"])
def test_every_room_accepts_its_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rooms' own classes read what is rendered; secrets are filled in as the cluster would."""
    manifests = render(name=name)
    for room, settings in ROOMS.items():
        pod = next(
            pod for pod in pods(manifests) if pod.component in (room, "control" if room != "inference" else room)
        )
        with monkeypatch.context() as patch:
            for variable, value in environment(pod, manifests).items():
                patch.setenv(variable, value)
            patch.setenv("FEINSCHLIFF_GATEWAY_API_KEYS", "key=default")
            patch.setenv("FEINSCHLIFF_DATABASE_URL", "postgresql+psycopg://u:p@h:5432/d")
            read = settings()
        assert read.probe_port == 9110
        assert str(read.home) == "/var/lib/feinschliff"


def test_a_shared_setting_reaches_every_room_and_a_rooms_own_goes_before_it() -> None:
    values = {"settings": {"log_level": "DEBUG"}, "registry": {"settings": {"log_level": "ERROR"}}}
    manifests = render(values)
    levels = {room: pod_environment(manifests, room)["FEINSCHLIFF_LOG_LEVEL"] for room in ROOMS}
    assert levels == {**dict.fromkeys(ROOMS, "DEBUG"), "registry": "ERROR"}


def test_numbers_and_pairs_keep_their_form() -> None:
    values = {
        "settings": {"trace_sample_ratio": 0.25, "offline": True, "check_seconds": 2},
        "ingestion": {"settings": {"ingestion_dataset_bytes_max": 8 * 1024**3}},
        "gateway": {
            "settings": {"gateway_base_models": {"b": "hf:b/b", "a": "hf:a/a@main"}, "gateway_auto_deploy": False}
        },
        "inference": {"settings": {"inference_alias_seconds": 0}},
        "trainer": {"settings": {"trainer_delivery_seconds": 60}},
    }
    manifests = render(values)
    assert pod_environment(manifests, "ingestion")["FEINSCHLIFF_INGESTION_DATASET_BYTES_MAX"] == "8589934592"
    assert pod_environment(manifests, "gateway")["FEINSCHLIFF_GATEWAY_BASE_MODELS"] == "a=hf:a/a@main,b=hf:b/b"
    assert pod_environment(manifests, "gateway")["FEINSCHLIFF_GATEWAY_AUTO_DEPLOY"] == "false"
    assert pod_environment(manifests, "gateway")["FEINSCHLIFF_TRACE_SAMPLE_RATIO"] == "0.25"
    assert pod_environment(manifests, "inference")["FEINSCHLIFF_INFERENCE_ALIAS_SECONDS"] == "0"
    assert pod_environment(manifests, "training")["FEINSCHLIFF_TRAINER_DELIVERY_SECONDS"] == "60"


def test_longer_drain_and_grace_let_the_pod_live_longer() -> None:
    values = {"settings": {"drain_seconds": 30}, "gateway": {"settings": {"grace_seconds": 600.5}}}
    manifests = render(values)
    seconds = {
        room: find(manifests, "Deployment", f"-{room}")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        for room in ("gateway", "registry")
    }
    assert seconds == {"gateway": 30 + 2 * 601 + 10, "registry": 30 + 2 * 20 + 10}


def test_a_changed_setting_restarts_its_room_alone() -> None:
    def digests(values: dict[str, object]) -> dict[str, str]:
        deployments = [one for one in render(values) if one["kind"] == "Deployment"]
        annotated = {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["annotations"] for one in deployments}
        return {name: annotations["checksum/config"] for name, annotations in annotated.items()}

    before, after = digests({}), digests({"registry": {"settings": {"log_level": "DEBUG"}}})
    assert {name for name in before if before[name] != after[name]} == {"check-feinschliff-registry"}


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"training": {"settings": {"training_slots": 0}}}, "/training/settings/training_slots"),
        ({"training": {"settings": {"training_slot": 1}}}, "/training/settings"),
        ({"settings": {"log_level": "LOUD"}}, "/settings/log_level"),
        ({"settings": {"database_url": "postgresql://x"}}, "/settings"),
        ({"settings": {"failpoints": "a=kill"}}, "/settings"),
        ({"gateway": {"settings": {"gateway_api_keys": "k"}}}, "/gateway/settings"),
        ({"gateway": {"settings": {"training_slots": 2}}}, "/gateway/settings"),
        ({"inference": {"settings": {"inference_alias_seconds": "2"}}}, "/inference/settings/inference_alias_seconds"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_path(values: dict[str, object], path: str) -> None:
    with pytest.raises(HelmRefused, match=re.escape(f"at '{path}'")):
        render(values)


def test_shared_settings_have_no_second_meaning_in_one_pod() -> None:
    with pytest.raises(
        HelmRefused, match=re.escape("registry.settings.log_level: has no meaning of its own in compact")
    ):
        render({"mode": "compact", "registry": {"settings": {"log_level": "DEBUG"}}})


def test_values_name_no_setting_that_is_gone() -> None:
    known = {name for program in PROGRAMS.values() for name in program.model_fields}
    named = re.findall(r"(?:settings\.|such as )([a-z]+_[a-z_]+)", (CHART / "values.yaml").read_text("utf-8"))
    assert {*named} <= known
    assert named
    assert Settings.model_fields.keys() <= known
