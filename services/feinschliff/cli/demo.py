"""`feinschliff demo`: the whole flywheel once, on the sample that ships here, on a platform of its own."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.text import Text

from feinschliff.cli import demo_report, demo_steps, launch
from feinschliff.cli.demo_report import Result
from feinschliff.cli.output import Output, seconds
from feinschliff.cli.session import Json, Session, session_of
from feinschliff.cli.settings import PORTS, ROOMS, SERVICES, PlatformSettings, platform_settings, variable
from feinschliff.cli.state import PlatformState, is_owned, read_state
from feinschliff.kit.errors import WrongState

PROJECT = "default"
_ISOLATED = ("s3_endpoint", "s3_access_key", "s3_secret_key", "s3_bucket", "database_url", "gateway_api_keys")


def demo(as_json: Json = False) -> None:
    """Evaluate, fine-tune, evaluate again, compare, serve and ask, on a sample; everything it starts it stops."""
    output = Output(as_json=as_json)
    begun = time.monotonic()
    home = platform_settings().home.absolute() / "demo"
    _make_room(home)
    signal.signal(signal.SIGTERM, _exit_on_signal)
    result = Result(home=home)
    with stage(output, result, "start the platform"):
        launched = launch.start_in_background(home, environment(home), is_tied=True)
    settings = settings_of(home, launched.state)
    try:
        turn(session_of(settings, PROJECT, output), result)
    finally:
        with stage(output, result, "stop the platform"):
            launch.stop_platform(settings)
            launched.process.wait()
    result.seconds = time.monotonic() - begun
    if as_json:
        output.line(demo_report.data(result), indent=2)
        return
    sys.stdout.write(demo_report.text(result) + "\n")
    sys.stdout.write(demo_report.last_line(result) + "\n")


def turn(session: Session, result: Result) -> None:
    """The flywheel, one stage after the other; a stage that fails ends the demo."""
    output = session.output
    with stage(output, result, "push the sample"):
        result.train_data, result.test_data = demo_steps.push_sample(session)
    with stage(output, result, "serve the base"):
        demo_steps.serve_base(session)
    with stage(output, result, "evaluate the base, with a good prompt"):
        prompt = demo_steps.good_prompt()
        result.base_run = demo_steps.evaluate(session, result.test_data.name, demo_steps.BASE, prompt)
    with stage(output, result, "fine-tune"):
        result.job = demo_steps.fine_tune(session, result.train_data.name)
    with stage(output, result, "evaluate the tuned model"):
        result.tuned_run = demo_steps.evaluate(session, result.test_data.name, result.job.model_version)
    with stage(output, result, "compare"):
        result.comparison = demo_steps.compare(session, result.base_run.name, result.tuned_run.name)
    with stage(output, result, "deploy"):
        result.version, result.deployment = demo_steps.deploy(session, result.job.model_version)
    with stage(output, result, "ask by gRPC"):
        result.asked.append(demo_steps.ask_by_grpc(session, result.deployment.name))
    with stage(output, result, "ask by the OpenAI API"):
        result.asked.append(demo_steps.ask_by_openai(session.settings.gateway_url, result.job.name))
    with stage(output, result, "keep the metrics"):
        result.metrics = demo_steps.keep_metrics(session.settings, result.home / "metrics")
        result.memory_mb = demo_steps.memory_mb(read_state(result.home))


@contextmanager
def stage(output: Output, result: Result, name: str) -> Iterator[None]:
    """Says what begins and how long it took."""
    if not output.as_json:
        output.err.print(Text(f"[{len(result.stages) + 1}] {name}", style="bold"))
    begun = time.monotonic()
    yield
    result.stages[name] = time.monotonic() - begun
    output.note(f"    {seconds(result.stages[name])}")


def environment(home: Path) -> dict[str, str]:
    """Settings of a platform that touches no other: its own home, free ports, its own keys and databases."""
    own = {variable(name): "0" for name in PORTS}
    empty = [*_ISOLATED, *(f"{room}_address" for room in SERVICES)]
    return own | {variable(name): "" for name in empty} | {variable("home"): str(home)}


def settings_of(home: Path, state: PlatformState) -> PlatformSettings:
    """How the platform in `home` is reached, whatever the environment says about another one."""
    addresses = {f"{room}_address": f"127.0.0.1:{state.ports[f'{room}_port']}" for room in ROOMS if room in SERVICES}
    return platform_settings(home=home, s3_endpoint=state.s3_endpoint, **state.ports, **addresses)


def _make_room(home: Path) -> None:
    """An empty folder; only what a demo left there before is removed."""
    if is_owned(home):
        raise WrongState("DEMO_RUNNING", f"A demo runs in {home}; wait for its end.", home=home)
    if not home.exists():
        return
    if any(home.iterdir()) and not (home / "run").is_dir():
        raise WrongState("DEMO_HOME_FOREIGN", f"{home} holds what no demo made; move it away.", home=home)
    launch.stop_platform(platform_settings(home=home))
    shutil.rmtree(home)


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
