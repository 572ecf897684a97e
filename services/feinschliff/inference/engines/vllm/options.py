"""What an installation says about its vLLM servers. No torch."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from feinschliff.kit.errors import FieldViolation, Unserved


@dataclass(frozen=True)
class VllmOptions:
    """
    Args:
        urls: servers that run elsewhere; none: one is started here for each base.
        api_key: of those.
        command: program and first arguments of a server that is started here.
        arguments: further ones, behind those that the engine says.
        start_seconds: until a server answers, loading the base included.
        memory_share: of a GPU's memory, for a server that is started here.
        lora_rank_max: highest rank of an adapter.
        adapters_max: adapters that one step computes side by side.
        folder: where adapters are written for servers to read.
        folder_there: the same folder as servers elsewhere see it; empty: by the same name.
        look_seconds: between two looks at a server that runs.
    """

    urls: Sequence[str] = ()
    api_key: str = ""
    command: str = "vllm serve"
    arguments: str = ""
    start_seconds: float = 900.0
    memory_share: float = 0.9
    lora_rank_max: int = 64
    adapters_max: int = 8
    folder: Path = Path("vllm")
    folder_there: str = ""
    look_seconds: float = 1.0

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command)


def refuse_without_server(options: VllmOptions) -> None:
    """
    Raises:
        Unserved: ENGINE_UNSERVED where there is no server to ask and no command to start one.
    """
    program = next(iter(options.words), "")
    if options.urls or (program and shutil.which(program)):
        return
    message = f"This installation has no vLLM: it names no server, and there is no program {program!r}."
    raise Unserved(
        "ENGINE_UNSERVED",
        message,
        fields=[FieldViolation("deployment.engine", message, "ENGINE_UNSERVED")],
        advice=["Name servers in inference_vllm_urls, or run inference from the image `vllm`.", "Or use TRANSFORMERS."],
        engine="vllm",
    )
