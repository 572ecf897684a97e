"""Runs inside the sandbox: reads a call, runs `grade(sample, item)`, writes a number or what went wrong.

It shares its interpreter with the source that it runs, so nothing here defends anything: the walls are outside.
"""

from __future__ import annotations

import json
import linecache
import math
import numbers
import os
import sys
import traceback
import types

ANSWER = 100
"""The descriptor that answers are written to."""
NAME = "grader.py"
FRAMES_MAX = 20
_TEXT_MAX = 4000


def run(payload: str) -> None:
    answer = _answer(payload)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # the source may have closed or replaced it
            continue
    os.write(ANSWER, answer.encode("utf-8", "replace"))


def _answer(payload: str) -> str:
    try:
        call = json.loads(payload)
        return f"value {_grade(call['source'], call['sample'], call['item'])!r}"
    except MemoryError:
        return "memory The function needed more memory than it may have."
    except _Unusable as error:
        return f"error {error}"
    except SystemExit as error:
        return f"error The function left with sys.exit({_shown(error.code)}) instead of returning a number."
    except BaseException as error:
        return f"error {_trace(error)}"


class _Unusable(Exception):
    pass


def _grade(source: str, sample: object, item: object) -> float:
    lines = source.splitlines(keepends=True)
    linecache.cache[NAME] = (len(source), None, lines, NAME)  # so that a traceback shows them
    module = types.ModuleType("grader")
    sys.modules["grader"] = module
    exec(compile(source, NAME, "exec"), module.__dict__)
    grade = module.__dict__.get("grade")
    if not callable(grade):
        raise _Unusable("The source defines no function grade(sample, item).")
    return _number(grade(sample, item))


def _number(value: object) -> float:
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return float(bool(value))
    if not isinstance(value, numbers.Real):
        raise _Unusable(f"grade() returned {_shown(value)}, of type {type(value).__name__}; it must return a number.")
    try:
        number = float(value)
    except OverflowError:
        raise _Unusable("grade() returned a number that is too large to be finite.") from None
    if not math.isfinite(number):
        raise _Unusable(f"grade() returned {float.__repr__(number)}; it must return a finite number.")
    return number + 0.0  # a plain float, whatever class it came as


def _shown(value: object) -> str:
    try:
        return repr(value)[:80]
    except Exception:
        return f"a {type(value).__name__}"


def _trace(error: BaseException) -> str:
    """As Python shows it, from the first frame of the source on."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename != NAME:
        frame = frame.tb_next
    try:
        text = "".join(traceback.format_exception(error.with_traceback(frame), limit=-FRAMES_MAX))
    except Exception:
        text = f"{type(error).__name__} (its traceback cannot be shown)"
    return text.strip()[-_TEXT_MAX:]
