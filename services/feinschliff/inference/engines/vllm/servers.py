"""Where a vLLM server comes from: a process of ours, or someone else's that is waited for."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from feinschliff.inference.engines.vllm.client import Address
from feinschliff.inference.engines.vllm.options import VllmOptions
from feinschliff.inference.engines.vllm.wire import ALLOWED, TOP_LOGPROBS_MAX, served_name
from feinschliff.kit.errors import WrongState

logger = logging.getLogger(__name__)

_STOP_SECONDS = 20.0
_LINES_KEPT = 20
_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
# It ends with us, however we end: an orphan would keep the GPU's memory. 1 is PR_SET_PDEATHSIG of <sys/prctl.h>.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15, 0, 0, 0); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execvp(sys.argv[2], sys.argv[2:])"
)


class Server(Protocol):
    """For one event loop."""

    is_ours: bool

    async def begin(self) -> Sequence[Address]:
        """Starts it where it is ours and does not run; the addresses of which one has the base, or will."""
        ...

    def ended(self) -> str:
        """Why it cannot answer any more, empty while it may."""
        ...

    async def end(self) -> None: ...

    def folder(self) -> Path:
        """Where adapters are written for it."""
        ...

    def seen(self, folder: Path) -> str:
        """A folder in there, as the server names it."""
        ...

    def forget(self) -> None:
        """Removes what lies there for its sake; it has ended."""
        ...


class Elsewhere:
    """See `Server`. Its adapters are one copy's at a time; whoever writes some has a folder of its own, so that the one
    who leaves takes nothing from the one who has come."""

    is_ours = False

    def __init__(self, options: VllmOptions) -> None:
        self._options = options
        self._place = options.folder / f"copy-{uuid.uuid4().hex}"

    async def begin(self) -> Sequence[Address]:
        return [Address(url.rstrip("/"), api_key=self._options.api_key) for url in self._options.urls]

    def ended(self) -> str:
        return ""

    async def end(self) -> None: ...

    def folder(self) -> Path:
        return self._place

    def seen(self, folder: Path) -> str:
        there = self._options.folder_there.rstrip("/")
        return f"{there}/{folder.relative_to(self._options.folder)}" if there else str(folder)

    def forget(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)


class OwnProcess:
    """See `Server`. Nobody but us reaches it: it listens on a socket in a folder of ours, with no port."""

    is_ours = True

    def __init__(self, command: Sequence[str]) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="feinschliff-vllm-")
        self._socket = f"{self._place.name}/http"
        self._command = [*command, "--uds", self._socket]
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)

    async def begin(self) -> Sequence[Address]:
        if self._process is None or self._process.returncode is not None:
            await self.end()
            Path(self._socket).unlink(missing_ok=True)
            self._lines.clear()
            self._process = await self._spawn()
            self._reading = asyncio.create_task(self._read(self._process))
        return [Address("http://vllm", socket=self._socket)]

    async def _spawn(self) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _DIE_WITH_PARENT, str(os.getpid()), *self._command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment_of(os.environ),
                start_new_session=True,
            )
        except OSError as error:
            raise start_failed(f"{self._command[0]}: {error.strerror}") from error

    def ended(self) -> str:
        code = self._process.returncode if self._process else None
        return "" if code is None else f"it ended with {code}: {' | '.join(self._lines)[-1500:] or 'without a word'}"

    async def end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            _signal(process, signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except TimeoutError:
                _signal(process, signal.SIGKILL)
                await process.wait()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Its words go to our log, the last ones into the reason why it ended."""
        assert process.stdout is not None
        while line := await _line(process.stdout):
            text = line.decode("utf-8", "replace").rstrip()
            self._lines.append(text)
            logger.info("vllm: %s", text)

    def folder(self) -> Path:
        return Path(self._place.name)

    def seen(self, folder: Path) -> str:
        return str(folder)

    def forget(self) -> None:
        self._place.cleanup()


def start_failed(why: str) -> WrongState:
    return WrongState(
        "ENGINE_START_FAILED",
        f"There is no vLLM server for this base: {why}",
        advice=["See the log of the service, and the settings whose names begin with inference_vllm."],
        error=why,
    )


def command_of(options: VllmOptions, folder: Path, base_digest: str, precision: str, *, rows_max: int) -> list[str]:
    """The command that serves a base, without where it listens (`vllm serve` of 0.31)."""
    return [
        *options.words,
        str(folder),
        *("--served-model-name", served_name(base_digest, precision)),
        *("--dtype", _DTYPES[precision]),
        *("--max-num-seqs", str(rows_max)),
        *("--gpu-memory-utilization", f"{options.memory_share:g}"),
        "--enable-lora",
        *("--max-lora-rank", str(options.lora_rank_max)),
        *("--max-loras", str(options.adapters_max)),
        *("--max-logprobs", str(TOP_LOGPROBS_MAX)),
        *("--logprobs-mode", "raw_logprobs"),  # the model's own, before temperature and penalties
        *("--generation-config", "vllm"),  # no defaults out of the base's files
        *("--structured-outputs-config.backend", "guidance"),  # the library that makes our grammars
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        *shlex.split(options.arguments),
    ]


def environment_of(ours: Mapping[str, str]) -> dict[str, str]:
    """Ours without our own settings, secrets among them; it loads adapters when told, and talks to nobody."""
    kept = {name: value for name, value in ours.items() if not name.startswith("FEINSCHLIFF_")}
    return kept | {ALLOWED: "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line, or as much as is kept of one that is too long."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.readexactly(error.consumed)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """To the process and all it started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
