"""The program of `helm test` on a platform that runs: it uploads, trains, asks by HTTP and by gRPC, and tidies up."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.helm import CHART
from tests.support.platform import Platform

PROGRAM = CHART / "files" / "flywheel.py"


def run(platform: Platform, base: str, **changed: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "GATEWAY_URL": platform.gateway_url.removesuffix("/v1"),
        "FEINSCHLIFF_GATEWAY_API_KEYS": "any=default",
        "FEINSCHLIFF_TRAINING_ADDRESS": platform.rooms["training"].address,
        "FEINSCHLIFF_INFERENCE_ADDRESS": platform.rooms["inference"].address,
        "BASE_MODEL": base,
        "TIMEOUT_SECONDS": "200",
        **changed,
    }
    return subprocess.run([sys.executable, PROGRAM], env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.timeout(300)
def test_the_flywheel_turns(platform: Platform, base: str) -> None:
    done = run(platform, base)
    assert done.returncode == 0, done.stderr
    assert "by HTTP it answers" in done.stdout
    assert "by gRPC projects/default/models/" in done.stdout
    assert done.stdout.endswith("the platform works\n")


def test_a_refusal_ends_it_with_the_reason(platform: Platform) -> None:
    done = run(platform, "pypi:no-such-model")
    assert done.returncode == 1
    assert "no-such-model" in done.stderr


def test_a_platform_that_is_away_is_named_when_time_is_over(platform: Platform, base: str) -> None:
    done = run(platform, base, GATEWAY_URL="http://127.0.0.1:9", TIMEOUT_SECONDS="0")
    assert done.returncode == 1
    assert "out of time: the gateway at http://127.0.0.1:9" in done.stderr
