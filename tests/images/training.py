"""The image `trainer`: its libraries load, its program helps, and it trains a tiny model."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.images.engine import USER, Engine
from tests.support.tiny_model import make_tiny_model
from tests.support.trainer import Workshop, rows

_VERSIONS = "import peft, torch, transformers as t; print(torch.__version__, t.__version__, peft.__version__)"
_STEPS = 2


def check_trainer(engine: Engine, image: str) -> Iterator[str]:
    """A line for each thing seen; fails at the first that is not so."""
    yield f"torch, transformers, peft: {engine.python(image, _VERSIONS).strip()}"
    helped = subprocess.run(engine.command(image, "feinschliff.trainer", "--help"), check=True, stdout=subprocess.PIPE)
    assert b"--runfile" in helped.stdout
    yield f"trained: {trained(engine, image)}"


def trained(engine: Engine, image: str) -> str:
    """A job of two steps on files that the container's user owns."""
    with tempfile.TemporaryDirectory(prefix="feinschliff-images-") as name:
        folder = Path(name)
        workshop = Workshop(
            folder / "job", make_tiny_model(folder / "tiny"), train=rows(8), validation=rows(2, first=8)
        )
        workshop.recipe = {"optimisation": {"batch_size": 4, "steps_max": _STEPS}}
        runfile = folder / "runfile.json"
        runfile.write_text(workshop.runfile().model_dump_json(), "utf-8")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, USER, USER)
        command = engine.command(
            image,
            *("feinschliff.trainer", f"--runfile={runfile}"),
            *(f"--store={workshop.store_folder}", f"--reports={workshop.reports_path}"),
            settings={"FEINSCHLIFF_HOME": str(folder / "home"), "FEINSCHLIFF_LOG_FORMAT": "text"},
            volumes=[f"{folder}:{folder}"],
        )
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:]
        result = workshop.result
        assert result is not None, done.stdout[-4000:]
        return f"{_STEPS} steps, {len(result.files)} files, {result.digest}"
