"""What a sandbox promises: numbers, reasons, nothing shared, and that it is there for the next call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from feinschliff.kit.errors import Unavailable
from feinschliff.sandbox.bubblewrap import BubblewrapSandbox, command
from feinschliff.sandbox.call import Call, Fault, Sandbox
from feinschliff.sandbox.compiled import shipped
from feinschliff.sandbox.pool import Environments, WasmSandbox
from tests.contract.sandbox.conftest import MEMORY_BYTES
from tests.support.waiting import eventually

FAKE = """#!/bin/sh
# As bubblewrap, without its walls: drops its own options and runs what comes behind `--`.
while [ "$1" != "--" ]; do shift; done
shift
exec "$@"
"""


def _grade(body: str) -> str:
    return f"def grade(sample, item):\n    {body}\n"


@pytest.fixture(scope="module")
def fake_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    program = tmp_path_factory.mktemp("bin") / "bwrap"
    program.write_text(FAKE)
    program.chmod(0o755)
    return str(program)


@pytest.fixture(scope="module", params=["wasm", "bubblewrap"])
def any_sandbox(request: pytest.FixtureRequest, sandbox: WasmSandbox, fake_program: str) -> Iterator[Sandbox]:
    if request.param == "wasm":
        yield sandbox
        return
    other = BubblewrapSandbox(workers=2, memory_bytes=1024**3, program=fake_program)
    yield other
    other.close()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("return 1", 1.0),
        ("return True", 1.0),
        ("return -0.25", -0.25),
        ("return 1 / 3", 1 / 3),
        ("from fractions import Fraction; return Fraction(1, 4)", 0.25),
        ("return len(sample['output_text']) + item['n']", 8.0),
        ("return float(sample['output_json']['a'][1])", 7.0),
        ("from rapidfuzz import fuzz; return fuzz.ratio('abc', 'abd') / 100", 2 / 3),
        ("from rapidfuzz.distance import Levenshtein as L; return L.distance('kitten', 'sitting')", 3.0),
    ],
)
def test_a_number_comes_back_as_it_is(any_sandbox: Sandbox, body: str, value: float) -> None:
    sample = {"output_text": "äöü", "output_json": {"a": [1, 7]}}
    outcome = any_sandbox.run(Call(_grade(body), sample, {"n": 5}))
    assert outcome.value == pytest.approx(value, abs=1e-12), outcome


@pytest.mark.parametrize(
    ("source", "fault", "why"),
    [
        (_grade("return 1 / 0"), Fault.SOURCE, "ZeroDivisionError: division by zero"),
        (_grade("return None"), Fault.SOURCE, "of type NoneType"),
        (_grade("return float('inf')"), Fault.SOURCE, "finite"),
        ("def grade(", Fault.SOURCE, "SyntaxError"),
        (_grade("while True: pass"), Fault.TIME, "0.5 s"),
    ],
)
def test_no_number_comes_with_its_reason(any_sandbox: Sandbox, source: str, fault: Fault, why: str) -> None:
    outcome = any_sandbox.run(Call(source, {}, {}, timeout_seconds=0.5 if fault is Fault.TIME else 10))
    assert (outcome.value, outcome.fault) == (None, fault)
    assert why in outcome.why


def test_a_traceback_shows_the_source_and_nothing_of_ours(any_sandbox: Sandbox) -> None:
    why = any_sandbox.run(Call(_grade("return sample['nothing']"), {}, {})).why
    assert why.startswith("Traceback")
    assert "return sample['nothing']" in why
    assert "harness" not in why


def test_what_is_printed_is_part_of_the_reason(any_sandbox: Sandbox) -> None:
    outcome = any_sandbox.run(
        Call(_grade("import sys; print('seen', 1); print('err', file=sys.stderr); return 1"), {}, {})
    )
    assert {"seen 1", "err"} <= set(outcome.printed.split("\n"))
    assert "seen 1" in outcome.reason()


LEAVE = """
import builtins, json, random, sys
seen = [hasattr(builtins, 'left'), getattr(json, 'left', None), 'left' in sys.modules, globals().get('left')]
left = builtins.left = json.left = sys.modules['left'] = item_left = 1
random.seed(3)
def grade(sample, item, kept=[]):
    kept.append(1)
    return float(any(seen)) + len(kept) - 1
"""


def test_rows_share_no_state(any_sandbox: Sandbox) -> None:
    assert [any_sandbox.run(Call(LEAVE, {}, {})).value for _ in range(3)] == [0.0, 0.0, 0.0]


def test_an_unknown_environment_is_not_run(any_sandbox: Sandbox) -> None:
    assert "2025-05-08" not in any_sandbox.environments
    outcome = any_sandbox.run(Call(_grade("return 1"), {}, {}, environment="2025-05-08"))
    assert outcome.fault is Fault.SANDBOX
    assert "2025-05-08" in outcome.why
    named = any_sandbox.run(Call(_grade("return 1"), {}, {}, environment=any_sandbox.environments[0]))
    assert named.value == 1.0


def test_closing_ends_what_still_runs(sandbox: WasmSandbox) -> None:
    pool = WasmSandbox(Environments([shipped()]), workers=1, memory_bytes=MEMORY_BYTES)
    pool.warm()
    with ThreadPoolExecutor(2) as threads:
        endless = [
            threads.submit(pool.run, Call(_grade("while True: pass"), {}, {}, timeout_seconds=100)) for _ in "ab"
        ]
        eventually(lambda: not pool._idle, what="a call that runs")
        pool.close()
        assert [one.result(20).fault for one in endless] == [Fault.SANDBOX] * 2
    assert not _children_of(os.getpid()) - _mothers(sandbox)


def test_calls_at_once_are_kept_apart(sandbox: WasmSandbox) -> None:
    source = _grade("return item['k'] * 2")
    with ThreadPoolExecutor(8) as threads:
        outcomes = threads.map(lambda k: sandbox.run(Call(source, {}, {"k": k})), range(40))
        assert [outcome.value for outcome in outcomes] == [2.0 * k for k in range(40)]


def test_luck_is_the_same_in_every_run(sandbox: WasmSandbox) -> None:
    source = _grade("import random, uuid; return random.random() + uuid.uuid4().int % 97")
    assert len({sandbox.run(Call(source, {}, {})).value for _ in range(3)}) == 1


def test_numpy_is_there(sandbox: WasmSandbox) -> None:
    outcome = sandbox.run(Call(_grade("import numpy as np; return np.float32(np.mean([0.0, 0.5]))"), {}, {}))
    assert outcome.value == 0.25


def test_a_killed_process_of_the_pool_is_replaced(sandbox: WasmSandbox) -> None:
    starts: list[int] = []
    pool = WasmSandbox(
        Environments([shipped()]), workers=1, memory_bytes=MEMORY_BYTES, on_start=lambda: starts.append(1)
    )
    try:
        pool.warm()
        for pid in _children_of(os.getpid()) - _mothers(sandbox):
            os.kill(pid, signal.SIGKILL)
        assert pool.run(Call(_grade("return 1"), {}, {})).value == 1.0
        assert len(starts) == 2
    finally:
        pool.close()
    outcome = pool.run(Call(_grade("return 1"), {}, {}))
    assert outcome.fault is Fault.SANDBOX
    assert "closed" in outcome.why


def test_closing_leaves_no_process_behind(sandbox: WasmSandbox) -> None:
    pool = WasmSandbox(Environments([shipped()]), workers=1, memory_bytes=MEMORY_BYTES)
    pool.warm()
    assert _children_of(os.getpid()) - _mothers(sandbox)
    pool.close()
    assert not _children_of(os.getpid()) - _mothers(sandbox)


def test_an_environment_of_the_installation_has_its_modules(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ours.zip", "w") as file:
        file.writestr("ours/__init__.py", "ANSWER = 42\n")
    pool = WasmSandbox(
        Environments([shipped()], {"ours-1": tmp_path / "ours.zip"}), workers=1, memory_bytes=MEMORY_BYTES
    )
    try:
        source = _grade("import ours; return ours.ANSWER")
        assert pool.run(Call(source, {}, {}, environment="ours-1")).value == 42.0
        assert "ModuleNotFoundError" in pool.run(Call(source, {}, {})).why
    finally:
        pool.close()


def test_a_call_that_is_too_large_is_not_run(sandbox: WasmSandbox) -> None:
    outcome = sandbox.run(Call(_grade("return 1"), {"output_text": "x" * (65 * 1024**2)}, {}))
    assert outcome.fault is Fault.SANDBOX


def test_copies_are_sealed_by_the_kernel_too() -> None:
    """Outside of WebAssembly, in a process sealed as copies are: no file opens, no socket, no process."""
    tried = """
import os, socket, sys
from feinschliff.sandbox import confine
read, write = os.pipe()
sealed = confine.seal((write,))
held = []
acts = (lambda: open('/etc/passwd'), socket.socket, os.fork, lambda: os.kill(os.getppid(), 0), lambda: os.open('/', 0))
for act in acts:
    try:
        act()
    except OSError:
        held.append(1)
os._exit(len(held) + 10 * sealed)
"""
    done = subprocess.run([sys.executable, "-c", tried], timeout=60, env={"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 15


def test_bubblewrap_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as refusal:
        BubblewrapSandbox(workers=1, memory_bytes=1024**3, program=str(tmp_path / "bwrap"))
    assert refusal.value.reason == "SANDBOX_PROGRAM_MISSING"


def test_bubblewrap_that_the_kernel_forbids_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(Unavailable, match="No permissions to create new namespace"):
        BubblewrapSandbox(workers=1, memory_bytes=1024**3, program=str(program))


def test_bubblewrap_is_told_to_take_everything_away() -> None:
    told = command("bwrap", ["/usr"])
    assert {"--unshare-all", "--die-with-parent", "--new-session", "--clearenv"} <= set(told)
    assert told[told.index("--cap-drop") + 1] == "ALL"
    assert "--bind" not in told
    folder, whole = told.index("--tmpfs"), told.index("--remount-ro")
    assert told[folder - 2 : folder + 2] == ["--size", str(16 * 1024**2), "--tmpfs", "/tmp"]
    assert told[whole + 1] == "/"
    assert folder < whole


def test_what_bubblewrap_runs_is_counted_and_goes_first_where_memory_runs_out(fake_program: str) -> None:
    sandbox = BubblewrapSandbox(workers=1, memory_bytes=1024**3, program=fake_program)
    body = "import resource; return resource.getrlimit(resource.RLIMIT_NPROC)[1]"
    assert sandbox.run(Call(_grade(body), {}, {})).value == 32
    if sys.platform == "linux":
        assert sandbox.run(Call(_grade("return float(open('/proc/self/oom_score_adj').read())"), {}, {})).value == 1000
    sandbox.close()


def _children_of(pid: int) -> set[int]:
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return {int(line.split()[0]) for line in listed.splitlines() if "feinschliff.sandbox.mother" in line}


def _mothers(sandbox: WasmSandbox) -> set[int]:
    return {mother._process.pid for mother in sandbox._idle}
