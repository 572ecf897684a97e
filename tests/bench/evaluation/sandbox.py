"""Python grades, each in a fresh interpreter: one by one, a thousand on two workers, the first after a start.

Prints one JSON object a line, then one for each goal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from feinschliff.sandbox.call import Call, Sandbox
from feinschliff.sandbox.compiled import shipped
from feinschliff.sandbox.compiling import prepare
from feinschliff.sandbox.pool import Environments, WasmSandbox

TRIVIAL = "def grade(sample, item):\n    return float(sample['output_text'] == item['label'])\n"
NUMPY = "import numpy as np\ndef grade(sample, item):\n    return np.mean([0.0, 1.0])\n"
ENDLESS = "def grade(sample, item):\n    while True: pass\n"
FRESH_SECONDS_GOAL = 0.040
THOUSAND_SECONDS_GOAL = 20.0
OTHERS_SECONDS_GOAL = 0.200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grades", type=int, default=1000)
    options = parser.parse_args()
    print(f"cores={os.cpu_count()} load={os.getloadavg()[0]:.1f}", file=sys.stderr)
    prepare(shipped())
    began = time.perf_counter()
    sandbox = WasmSandbox(Environments([shipped()]), workers=2)
    _run(sandbox, TRIVIAL)
    _say("sandbox.first", seconds=time.perf_counter() - began)
    trivial = [_run(sandbox, TRIVIAL) for _ in range(200)]
    _report("sandbox.trivial", trivial)
    _report("sandbox.numpy", [_run(sandbox, NUMPY) for _ in range(50)])
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: _run(sandbox, TRIVIAL), range(options.grades)))
    thousand = time.perf_counter() - began
    sandbox.close()
    _say("sandbox.thousand", seconds=thousand, grades=options.grades)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    _say("sandbox.all", cpu_seconds=used.ru_utime + used.ru_stime, grades=options.grades + len(trivial) + 51)
    others = _beside_attacks()
    _report("sandbox.beside_endless", others)
    _goal("sandbox.trivial", "median seconds <= 0.040", statistics.median(trivial), FRESH_SECONDS_GOAL)
    _goal("sandbox.thousand", "seconds <= 20", thousand, THOUSAND_SECONDS_GOAL * options.grades / 1000)
    _goal("sandbox.beside_endless", "p99 seconds < 0.200", _p99(others), OTHERS_SECONDS_GOAL)


def _beside_attacks() -> list[float]:
    """Seconds of trivial grades while two workers of three run endless ones."""
    sandbox = WasmSandbox(Environments([shipped()]), workers=3)
    call = Call(ENDLESS, {}, {}, timeout_seconds=8)
    hostile = [threading.Thread(target=sandbox.run, args=(call,)) for _ in range(2)]
    for thread in hostile:
        thread.start()
    time.sleep(1)  # both are at it
    seconds = [_run(sandbox, TRIVIAL) for _ in range(100)]
    for thread in hostile:
        thread.join()
    sandbox.close()
    return seconds


def _run(sandbox: Sandbox, source: str) -> float:
    began = time.perf_counter()
    outcome = sandbox.run(Call(source, {"output_text": "a"}, {"label": "a"}))
    assert outcome.value is not None, outcome
    return time.perf_counter() - began


def _p99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[int(0.99 * (len(seconds) - 1))]


def _report(name: str, seconds: Sequence[float]) -> None:
    _say(name, median=statistics.median(seconds), p99=_p99(seconds), n=len(seconds))


def _say(name: str, **figures: float) -> None:
    print(json.dumps({"name": name, **{key: round(value, 4) for key, value in figures.items()}}))


def _goal(name: str, goal: str, value: float, limit: float) -> None:
    print(json.dumps({"goal": name, "is": goal, "value": round(value, 4), "reached": value <= limit}))


if __name__ == "__main__":
    main()
