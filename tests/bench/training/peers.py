"""The tools that we are held against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.environments import Environment, python_of
from tests.bench.training.measured import Ended, Step, run

HERE = Path(__file__).parent


class Peer(NamedTuple):
    """script: what runs in its environment. rows: the file of rows that it reads, and the option for it."""

    script: str
    rows: tuple[str, str]
    environment: Environment

    @property
    def name(self) -> str:
        return self.environment.name


TRL = Peer("peer_trl.py", ("--tokens", "tokens.jsonl"), Environment("trl", ("trl>=1.16",)))
# It asks for torchaudio and torchvision, whose builds replace torch by one for GPUs, and imports the former always.
LLAMA_FACTORY = Peer(
    "peer_llamafactory.py",
    ("--chats", "chats.jsonl"),
    Environment(
        "llamafactory",
        (
            *("accelerate<=1.11.0", "datasets<=4.0.0", "peft>=0.18.0,<=0.18.1", "transformers>=4.55,<=5.6.0,!=4.57.0"),
            *("trl<=0.24.0", "einops", "fire", "hf-transfer", "matplotlib", "omegaconf", "scipy", "sentencepiece"),
            *("tiktoken", "tyro<0.9.0", "torchdata<=0.11.0"),
        ),
        without_dependencies=("llamafactory==0.9.5",),
        stubs=("torchaudio",),
    ),
)
PEERS: Mapping[str, Peer] = {peer.name: peer for peer in (TRL, LLAMA_FACTORY)}


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
    command = [str(python_of(peer.environment, place)), str(HERE / peer.script), "--base", about["base"]]
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
