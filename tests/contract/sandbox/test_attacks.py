"""Whatever a grader tries, it gets nowhere, and others are answered meanwhile."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from feinschliff.sandbox.call import Call, Sandbox
from tests.contract.sandbox.attacks import ATTACKS, ESCAPED, SECRET, Attack

OTHERS_SECONDS_MAX = 20.0
"""Generous: machines that run tests are busy. The benchmark has the figure that counts."""


class Prey(NamedTuple):
    """What the service has and attacks want."""

    item: dict[str, object]
    listener: socket.socket


@pytest.fixture(scope="module")
def prey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prey]:
    file = tmp_path_factory.mktemp("service") / "secret"
    file.write_text(SECRET)
    os.environ["FEINSCHLIFF_S3_SECRET_KEY_OF_TEST"] = SECRET
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        item = {"secret_file": str(file), "port": listener.getsockname()[1], "host": socket.gethostname()}
        yield Prey(item, listener)
    del os.environ["FEINSCHLIFF_S3_SECRET_KEY_OF_TEST"]


class Others(threading.Thread):
    """Grades that have nothing to do with the attacks, one after another."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__()
        self._sandbox = sandbox
        self.over = threading.Event()
        self.values: list[float | None] = []
        self.seconds: list[float] = []

    def run(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            length = len(self.values)
            source = "def grade(sample, item):\n    return item['length'] + len(sample['output_text'])"
            outcome = self._sandbox.run(Call(source, {"output_text": "abc"}, {"length": length}))
            self.values.append(outcome.value)
            self.seconds.append(time.monotonic() - began)
            self.over.wait(0.02)


@pytest.fixture(scope="module")
def others(sandbox: Sandbox) -> Iterator[Others]:
    others = Others(sandbox)
    others.start()
    yield others
    others.over.set()
    others.join()


def test_the_corpus_is_large_enough_and_each_attack_is_known_by_name() -> None:
    assert len(ATTACKS) >= 40
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_comes_to_what_it_must(attack: Attack, sandbox: Sandbox, prey: Prey, others: Others) -> None:
    answered = len(others.values)
    outcome = sandbox.run(Call(attack.source, {"output_text": ""}, prey.item, timeout_seconds=attack.seconds))
    assert outcome.value != ESCAPED, outcome
    if attack.value is not None or attack.fault is not None:
        assert (outcome.value, outcome.fault) == (attack.value, attack.fault), outcome
        assert attack.why in outcome.why
    assert SECRET not in outcome.reason()
    until = time.monotonic() + OTHERS_SECONDS_MAX
    while len(others.values) == answered and time.monotonic() < until:
        time.sleep(0.005)
    assert len(others.values) > answered, "nobody else was answered"


def test_others_were_answered_rightly_all_the_while(others: Others, prey: Prey) -> None:
    assert others.values == [length + 3.0 for length in range(len(others.values))]
    assert max(others.seconds) < OTHERS_SECONDS_MAX
    with pytest.raises(BlockingIOError):  # nobody ever connected
        prey.listener.accept()
    assert Path(str(prey.item["secret_file"])).read_text() == SECRET
