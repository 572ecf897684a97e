"""A demo that is interrupted, however rudely, leaves nothing running."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from feinschliff.cli.state import is_owned
from tests.contract.test_cli_platform import Cli, foreground
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(360)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_demo_stops_what_it_started(tmp_path: Path, number: signal.Signals) -> None:
    cli = Cli(tmp_path / "home")
    with foreground(cli, "demo", until="[2] push the sample") as (demo, _):
        refused = cli("demo", expect=1)
        assert "DEMO_RUNNING" in refused.stderr
        demo.send_signal(number)
        assert demo.wait(150) != 0
    home = cli.home / "demo"
    eventually(lambda: not is_owned(home), 60, "the end of the demo's platform")
    if number is signal.SIGKILL:
        cli("down", FEINSCHLIFF_HOME=str(home))
    eventually(lambda: cli.leftovers() == [], 60, "nothing left")


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    kept = cli.home / "demo" / "thesis.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("years of work")
    refused = cli("demo", expect=1)
    assert "DEMO_HOME_FOREIGN" in refused.stderr
    assert kept.read_text() == "years of work"
