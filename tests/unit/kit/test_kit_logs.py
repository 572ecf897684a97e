"""Log lines."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from feinschliff.kit import logs
from feinschliff.kit.context import log_context, request_context


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("INFO", "json", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_is_one_json_object_with_its_context_and_fields(lines: io.StringIO) -> None:
    with request_context("req-1"), log_context(room="training", job="j"):
        logging.getLogger("x").info("step %d", 3, extra={"loss": 0.5})
    line = json.loads(lines.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "logger": "x",
        "message": "step 3",
        "request_id": "req-1",
        "room": "training",
        "job": "j",
        "loss": 0.5,
    }


def test_context_ends_with_its_block(lines: io.StringIO) -> None:
    with log_context(job="j"):
        pass
    logging.getLogger("x").info("later")
    assert "job" not in json.loads(lines.getvalue())


def test_newlines_and_foreign_objects_do_not_break_the_line(lines: io.StringIO) -> None:
    logging.getLogger("x").info("a\nb", extra={"path": object, "ü": "ß"})
    assert lines.getvalue().count("\n") == 1
    assert json.loads(lines.getvalue())["message"] == "a\nb"


def test_a_traceback_is_part_of_the_line(lines: io.StringIO) -> None:
    try:
        raise KeyError("boom")
    except KeyError:
        logging.getLogger("x").exception("failed")
    line = json.loads(lines.getvalue())
    assert "KeyError: 'boom'" in line["traceback"]


def test_what_is_below_the_level_is_not_written(lines: io.StringIO) -> None:
    logging.getLogger("x").debug("no")
    assert lines.getvalue() == ""


def test_text_for_people() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.TextLines())
    with request_context("req-1"):
        handler.emit(logging.makeLogRecord({"msg": "hello", "levelname": "INFO", "job": "j"}))
    assert stream.getvalue().endswith("INFO    hello request_id=req-1 job=j\n")
