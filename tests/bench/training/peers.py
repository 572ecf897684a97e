"""The tools that we are held against, each in an environment of its own below `.build/peers`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.training.measured import Ended, Failed, Step, run

HERE = Path(__file__).parent
INSTALL_SECONDS_MAX = 900
# Packages that an environment does not bring itself come from ours: the same torch for everybody.
OURS = sysconfig.get_paths()["purelib"]


class Peer(NamedTuple):
    """script: what runs in its environment. rows: the file of rows that it reads, and the option for it."""

    name: str
    script: str
    rows: tuple[str, str]
    requirements: tuple[str, ...]
    without_dependencies: tuple[str, ...] = ()
    stubs: tuple[str, ...] = ()


TRL = Peer("trl", "peer_trl.py", ("--tokens", "tokens.jsonl"), ("trl>=1.16",))
# It asks for torchaudio and torchvision, whose builds replace torch by one for GPUs, and imports the former always.
LLAMA_FACTORY = Peer(
    "llamafactory",
    "peer_llamafactory.py",
    ("--chats", "chats.jsonl"),
    (
        *("accelerate<=1.11.0", "datasets<=4.0.0", "peft>=0.18.0,<=0.18.1", "transformers>=4.55,<=5.6.0,!=4.57.0"),
        *("trl<=0.24.0", "einops", "fire", "hf-transfer", "matplotlib", "omegaconf", "scipy", "sentencepiece"),
        *("tiktoken", "tyro<0.9.0", "torchdata<=0.11.0"),
    ),
    without_dependencies=("llamafactory==0.9.5",),
    stubs=("torchaudio",),
)
PEERS: Mapping[str, Peer] = {peer.name: peer for peer in (TRL, LLAMA_FACTORY)}


def python_of(peer: Peer, folder: Path) -> Path:
    """The Python of a peer's environment, which is made if it is not there; a half-made one is finished.

    Raises:
        Failed: it does not install here.
    """
    place = folder / peer.name
    python, ready = place / "bin" / "python", place / ".ready"
    wanted = json.dumps(peer)
    if ready.is_file() and ready.read_text("utf-8") == wanted:
        return python
    if not python.exists():
        _do([sys.executable, "-m", "venv", str(place)])
    packages = next(place.glob("lib/python*/site-packages"))
    (packages / "ours.pth").write_text(OURS + "\n", "utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_pinned_torch(place)]
    _do([*pip, *peer.requirements])
    if peer.without_dependencies:
        _do([*pip, "--no-deps", *peer.without_dependencies])
    for stub in peer.stubs:
        (packages / f"{stub}.py").write_text('"""Stands in for a package that is imported and not used."""\n', "utf-8")
    ready.write_text(wanted, "utf-8")
    return python


class Run(NamedTuple):
    """One run of a peer; its files lie in `folder`, where the rows are."""

    name: str
    folder: Path
    precision: str
    steps: int
    seconds_max: float


def train(peer: Peer, one: Run, about: Mapping[str, Any], place: Path) -> tuple[Ended, list[Step], float]:
    """How the process ended, its steps, and when the first one began.

    Args: place: where the peers' environments are.

    Raises:
        Failed: it does not install or does not run.
    """
    out, (option, rows) = one.folder / f"{one.name}.steps", peer.rows
    command = [str(python_of(peer, place)), str(HERE / peer.script), "--base", about["base"]]
    command += [option, str(one.folder / rows), "--steps", str(one.steps), "--precision", one.precision]
    command += ["--out", str(out), "--work", str(one.folder / f"{one.name}.work")]
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hub"), "TOKENIZERS_PARALLELISM": "false"}
    log = one.folder / f"{one.name}.log"
    ended = run(command, log=log, environment=environment, seconds_max=one.seconds_max)
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    # The same rows in the same order: as many tokens as ours, whatever was padded.
    counts = [sum(about["row_tokens"][at : at + 8]) for at in range(0, len(about["row_tokens"]), 8)]
    steps = [Step(line["end"], line["loss"], count) for line, count in zip(lines, counts, strict=False)]
    return ended, steps, lines[0]["begin"]


def _pinned_torch(place: Path) -> list[str]:
    """No peer may bring another torch: only that it is the same makes times comparable."""
    import importlib.metadata

    constraint = place / "constraints.txt"
    constraint.write_text(f"torch=={importlib.metadata.version('torch').partition('+')[0]}\n", "utf-8")
    return ["--constraint", str(constraint)]


def _do(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX, env=os.environ)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"`{' '.join(command)}` took more than {INSTALL_SECONDS_MAX} s") from error
    if done.returncode:
        raise Failed(f"`{' '.join(command)}` failed: {done.stderr[-600:]}")
