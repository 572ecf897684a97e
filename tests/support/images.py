"""The Dockerfile as data: its stages, and what each image is made of."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
INSTALL = ROOT / "deploy" / "docker" / "install.py"
TARGETS = ("control", "trainer", "inference", "vllm")
SENT = ("pyproject.toml", "constraints.txt", "setup.py", "README.md", "LICENSE", "protos", "services")
_MADE_HERE = shutil.ignore_patterns("*_pb2*", "__pycache__", "*.egg-info", "built")
_FROM = re.compile(r"(?P<base>\S+)(?: AS (?P<name>\S+))?")
_EXTRAS = re.compile(r"--extras (\S+)")


@dataclass(frozen=True)
class Instruction:
    """One instruction, its lines joined."""

    keyword: str
    value: str


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next; `base` is another stage's name or an image."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]

    def values(self, keyword: str) -> list[str]:
        return [one.value for one in self.instructions if one.keyword == keyword]


@cache
def stages() -> Mapping[str, Stage]:
    """By name, in the order of the file."""
    found: dict[str, Stage] = {}
    for keyword, value in _instructions():
        if keyword == "FROM":
            named = _FROM.fullmatch(value)
            assert named is not None, value
            name = named["name"]
            found[name] = Stage(name, named["base"], ())
        elif found:
            last = found[name]
            found[name] = Stage(last.name, last.base, (*last.instructions, Instruction(keyword, value)))
    return found


def arguments() -> Mapping[str, str]:
    """Those before the first stage, with their defaults."""
    found = {}
    for keyword, value in _instructions():
        if keyword == "FROM":
            break
        name, _, default = value.partition("=")
        found[name] = default
    return found


def lineage(target: str) -> list[Stage]:
    """The stage and those that it is built on, first things first; the last image of a chain is not ours."""
    chain: list[Stage] = []
    name = target
    while name in stages():
        chain.insert(0, stages()[name])
        name = chain[0].base
    return chain


def extras(target: str) -> list[str]:
    """Extras of the project that the image's packages come from."""
    copied = [source for stage in lineage(target) for value in stage.values("COPY") for source in _sources(value)]
    named = [_EXTRAS.search(value) for source in copied for value in stages()[source].values("RUN")]
    (chosen,) = [one[1] for one in named if one is not None]
    return chosen.split(",")


def send(folder: Path) -> Path:
    """A copy of what a build is sent: steps that write beside their sources leave the work tree alone."""
    folder.mkdir()
    for name in SENT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=_MADE_HERE)
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


def _sources(copy: str) -> list[str]:
    return re.findall(r"--from=(\S+)", copy)


def _instructions() -> Iterator[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    for logical in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        keyword, _, value = logical.partition(" ")
        yield keyword, value.strip()
