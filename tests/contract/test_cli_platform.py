"""`feinschliff up` on a real machine: it comes up, heals, says what is wrong, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest

from feinschliff.cli.demo import environment
from feinschliff.cli.demo_steps import sample
from feinschliff.cli.readiness import SERVING
from feinschliff.cli.settings import ROOMS
from feinschliff.cli.state import PlatformState, read_state
from tests.support import forked
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(600)
START_SECONDS_MAX = 90.0
_INHERITED = ("PATH", "LANG", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


@dataclass
class Cli:
    """The command line in a home of its own, on free ports; `seconds_max` is what one command may take."""

    home: Path
    seconds_max: float = 120

    def environment(self, **more: str) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return {**inherited, "HOME": str(self.home), **environment(self.home), **more}

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        told, seconds = self.environment(**more), self.seconds_max
        if words[0] not in ("up", "demo"):  # what stays, and starts others, is a process by itself
            return forked.run("feinschliff.cli", *words, environment=told, timeout_seconds=seconds)
        command = [sys.executable, "-m", "feinschliff.cli", *words]
        return subprocess.run(command, env=told, capture_output=True, text=True, timeout=seconds, check=False)

    def __call__(self, *words: str, expect: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        done = self.run(*words, **more)
        assert done.returncode == expect, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json").stdout)

    def state(self) -> PlatformState:
        found = read_state(self.home)
        assert found is not None
        return found

    def pids(self) -> dict[str, int]:
        return {name: child.process.pid for name, child in self.state().children.items() if child.process}

    def is_serving(self) -> bool:
        done = self.run("status", "--json")
        return done.returncode == 0 and json.loads(done.stdout)["phase"] == "ready"

    def leftovers(self) -> list[str]:
        """Command lines of processes that know this home."""
        return [line for line, told in map(_known_of, psutil.process_iter()) if str(self.home) in told + line]


def _known_of(process: psutil.Process) -> tuple[str, str]:
    """A process's command line and environment; nothing where it is gone."""
    try:
        return " ".join(process.cmdline()), " ".join(process.environ().values())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return "", ""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A platform that runs for all tests of this file."""
    cli = Cli(tmp_path_factory.mktemp("platform"))
    try:
        cli("up", "--detach")
        yield cli
    finally:
        cli("down")


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """A home in which nothing runs; whatever a test leaves there is stopped."""
    made = Cli(tmp_path / "home")
    yield made
    if made.home.exists():
        made("down")
    assert made.leftovers() == []


def rows(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def good_lines() -> list[str]:
    return [
        json.dumps(
            {"messages": [{"role": "user", "content": row.question}, {"role": "assistant", "content": row.answer}]}
        )
        for row in sample("train")[:90]
    ]


def test_up_returns_when_every_service_is_ready(platform: Cli) -> None:
    status = platform.json("status")
    assert status["phase"] == "ready"
    assert {room: one["health"] for room, one in status["services"].items()} == dict.fromkeys(ROOMS, SERVING)
    assert set(status["processes"]) == {"s3", "control", "inference"}
    assert all(one["pid"] for one in status["processes"].values())


def test_every_metrics_port_answers_with_the_calls_it_handled(platform: Cli) -> None:
    for words in (("jobs",), ("models",), ("eval", "list"), ("dataset", "list"), ("deployments",)):
        platform(*words)
    for room, one in platform.json("status")["services"].items():
        with urllib.request.urlopen(one["metrics"], timeout=10) as response:
            page = response.read().decode()
        assert "process_resident_memory_bytes" in page, room
        assert "grpc_server_handled_total" in page, room


def test_up_again_says_so_and_changes_nothing(platform: Cli) -> None:
    before = platform.pids()
    again = platform("up", "--detach")
    assert "already" in again.stderr
    assert platform.pids() == before


def test_keys_are_kept_for_their_owner_only_and_are_in_no_command_line(platform: Cli) -> None:
    [file] = (platform.home / "keys").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = json.loads(file.read_text())["secret_key"]
    assert not any(secret in _known_of(process)[0] for process in psutil.process_iter())
    logs = [path.read_text("utf-8", "replace") for path in (platform.home / "logs").iterdir()]
    assert not any(secret in log for log in logs)


def test_the_process_of_the_services_is_small_and_has_no_torch(platform: Cli) -> None:
    control = psutil.Process(platform.pids()["control"])
    assert control.memory_info().rss < 350e6
    assert not [one.path for one in control.memory_maps() if "torch" in one.path]


def test_all_ports_are_loopback_only(platform: Cli) -> None:
    for pid in platform.pids().values():
        listening = [one for one in psutil.Process(pid).net_connections() if one.status == psutil.CONN_LISTEN]
        assert listening
        assert all(ip_address(one.laddr.ip.removeprefix("::ffff:")).is_loopback for one in listening)


def test_a_good_file_becomes_a_version_that_can_be_shown(platform: Cli, tmp_path: Path) -> None:
    pushed = platform.json("dataset", "push", rows(tmp_path / "good.jsonl", *good_lines()), "--name", "good")
    assert pushed["name"] == "projects/default/datasets/good/versions/1"
    assert pushed["rows"] == 90
    assert platform.json("dataset", "show", "good")["sha256"] == pushed["sha256"]
    shown = platform("dataset", "show", "good/1", "--rows", "2").stdout
    assert "90 (train" in shown
    assert sample("train")[0].question in shown
    assert [one["name"] for one in platform.json("dataset", "list", "good")] == [pushed["name"]]


def test_a_bad_file_is_refused_by_its_lines_and_leaves_nothing(platform: Cli, tmp_path: Path) -> None:
    lines = good_lines()
    bad = rows(tmp_path / "bad.jsonl", *lines[:20], '{"messages": []}', "no json", *lines[20:40])
    refused = platform("dataset", "push", bad, "--name", "bad", expect=1)
    assert refused.stdout == ""
    assert "ROWS_INVALID" in refused.stderr
    assert "lines[21]" in refused.stderr
    assert "lines[22]" in refused.stderr
    assert "try: " in refused.stderr
    assert "DATASET" in platform("dataset", "show", "bad", expect=1).stderr

    told = json.loads(platform("dataset", "push", bad, "--name", "bad", "--json", expect=1).stderr)["error"]
    assert told["reason"] == "ROWS_INVALID"
    assert {field["field"].partition(".")[0] for field in told["fields"]} == {"lines[21]", "lines[22]"}

    kept = platform.json("dataset", "push", bad, "--name", "skipped", "--skip-bad-rows")
    assert kept["rows"] == 40


def test_a_check_finds_everything_and_stores_nothing(platform: Cli, tmp_path: Path) -> None:
    checked = platform.json("dataset", "push", rows(tmp_path / "c.jsonl", *good_lines()), "--name", "c", "--check")
    assert checked["rows"] == 90
    assert "name" not in checked
    platform("dataset", "show", "c", expect=1)


@pytest.mark.parametrize(
    ("words", "reason", "field"),
    [
        (("train", "good", "--learning-rate", "-1"), "RECIPE_INVALID", "learning_rate"),
        (("train", "good", "--base", "pypi:no-such-model"), "BASE_NOT_INSTALLED", ""),
        (("train", "nothing"), "DATASET_NOT_FOUND", ""),
        (("chat", "pypi:no-such-model", "hi"), "MODEL_NOT_LOADED", "feinschliff deploy"),
        (("chat", "nothing", "hi"), "MODEL_UNKNOWN", ""),
        (("watch", "ftjob-nothing"), "JOB_NOT_FOUND", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_refusal_names_its_reason(
    platform: Cli, tmp_path: Path, words: tuple[str, ...], reason: str, field: str
) -> None:
    platform("dataset", "push", rows(tmp_path / "good.jsonl", *good_lines()), "--name", "good")
    refused = platform(*words, expect=1)
    assert reason in refused.stderr
    assert field in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize("name", ["control", "inference", "s3"])
def test_a_part_that_is_killed_comes_back(platform: Cli, name: str) -> None:
    before, restarts = platform.pids()[name], platform.state().children[name].restarts
    os.kill(before, signal.SIGKILL)
    eventually(lambda: platform.pids().get(name, before) != before, 30, f"another {name}")
    eventually(platform.is_serving, START_SECONDS_MAX, "a platform that is ready again")
    assert platform.state().children[name].restarts == restarts + 1
    assert platform.json("dataset", "list") is not None


def test_down_leaves_nothing_running_and_is_harmless_twice(cli: Cli) -> None:
    cli("up", "--detach")
    pids = cli.pids()
    assert "stopped" in cli("down").stdout
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert cli.leftovers() == []
    assert "No platform runs" in cli("down").stdout
    assert cli.json("down")["stopped"] is False
    cli("status", expect=1)


def test_what_was_pushed_is_there_at_the_next_up(cli: Cli, tmp_path: Path) -> None:
    cli("up", "--detach")
    cli("dataset", "push", rows(tmp_path / "good.jsonl", *good_lines()), "--name", "kept")
    cli("down")
    cli("up", "--detach")
    assert sample("train")[0].question in cli("dataset", "show", "kept", "--rows", "1").stdout


@contextmanager
def foreground(cli: Cli, command: str, until: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A command that goes on, and its log, once that shows `until`; ended with the test, whatever becomes of it."""
    log = cli.home.parent / f"{command}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "feinschliff.cli", command],
            env=cli.environment(),
            stdout=out,
            stderr=out,
            preexec_fn=_hear_interrupts,
        )
    try:
        eventually(lambda: until in log.read_text() or process.poll() is not None, START_SECONDS_MAX, until)
        assert process.poll() is None, log.read_text()
        yield process, log
    finally:
        process.kill()
        process.wait()


def _hear_interrupts() -> None:
    """A shell's background job ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_stops_a_platform_in_the_foreground(cli: Cli) -> None:
    with foreground(cli, "up", until="OpenAI API") as (process, log):
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert log.read_text().rstrip().endswith("stopped")


def test_a_killed_supervisor_takes_the_services_along_and_the_next_up_clears_the_rest(cli: Cli) -> None:
    cli("up", "--detach")
    before = cli.pids()
    os.kill(cli.state().supervisor.pid, signal.SIGKILL)
    services = [before["control"], before["inference"]]
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in services), 40, "the end of both services")
    cli("status", expect=1)
    cli("up", "--detach")
    assert cli.pids()["s3"] != before["s3"]
    assert not psutil.pid_exists(before["s3"])


def test_a_port_in_use_is_named_with_its_variable(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = cli("up", "--detach", expect=1, FEINSCHLIFF_REGISTRY_PORT=port)
    assert "PORT_TAKEN" in refused.stderr
    assert "FEINSCHLIFF_REGISTRY_PORT" in refused.stderr
    assert port in refused.stderr


def test_a_wrong_setting_stops_the_start_by_its_name(cli: Cli) -> None:
    refused = cli("up", "--detach", expect=2, FEINSCHLIFF_TRAINING_SLOTS="many")
    assert "FEINSCHLIFF_TRAINING_SLOTS" in refused.stderr


def test_binding_beyond_loopback_is_refused(cli: Cli) -> None:
    refused = cli("up", "--detach", expect=2, FEINSCHLIFF_BIND_HOST="0.0.0.0")
    assert "FEINSCHLIFF_BIND_HOST" in refused.stderr


def test_without_a_platform_a_client_says_how_to_start_one(cli: Cli) -> None:
    refused = cli("jobs", expect=1, FEINSCHLIFF_TRAINING_ADDRESS="127.0.0.1:1")
    assert "SERVICE_UNREACHABLE" in refused.stderr
    assert "feinschliff up" in refused.stderr


def test_two_platforms_run_beside_each_other(platform: Cli, cli: Cli) -> None:
    cli("up", "--detach")
    assert platform.json("status")["phase"] == "ready"
    assert cli.json("dataset", "list") == []
    assert not set(cli.state().ports.values()) & set(platform.state().ports.values())
