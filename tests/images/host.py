"""What this machine has: the programs that build and run images, a base image's files, and where its pip looks."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.images import INSTALL, ROOT, extras

PROGRAMS = {"buildah": "buildah", "podman": "podman", "runc": "runc", "debootstrap": "debootstrap"}
SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_BASE_PACKAGES = "python3,python3-venv,ca-certificates"
_SMALLER = ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")


@dataclass(frozen=True)
class Pip:
    """Where pip looks on this machine; empty strings are not set.

    Args:
        certificates: bundle of the authorities that its indexes are trusted by.
        wheelhouse: a folder that is sent along; then there is nothing else, and no network.
    """

    index_url: str = ""
    extra_index_url: str = ""
    find_links: str = ""
    no_index: str = ""
    certificates: str = ""
    wheelhouse: str = ""

    def build_arguments(self) -> dict[str, str]:
        """For the Dockerfile. Where a wheelhouse is set, torch is taken from it and from no index of its own."""
        if self.wheelhouse:
            return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheelhouse", "TORCH_INDEX_URL": "none"}
        settings = {
            "PIP_INDEX_URL": self.index_url,
            "PIP_EXTRA_INDEX_URL": self.extra_index_url,
            "PIP_FIND_LINKS": self.find_links,
            "PIP_NO_INDEX": self.no_index,
            "PIP_CERT": "/run/secrets/ca" if self.certificates else "",
            "TORCH_INDEX_URL": "none" if self.find_links or self.no_index else "",
        }
        return {name: value for name, value in settings.items() if value}

    def folders(self) -> list[Path]:
        """Those of this machine that it reads: wheelhouses, and indexes with the files beside them."""
        found = set()
        for word in f"{self.index_url} {self.extra_index_url} {self.find_links}".split():
            url = urlsplit(word)
            if url.scheme == "file":
                found.add(Path(url.path).parent)
            elif Path(word).is_absolute():
                found.add(Path(word))
        return sorted(found)


def this_pip() -> Pip:
    """As its files and the environment say; the environment goes before files."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    pairs = [line.partition("=")[::2] for line in listed.splitlines()]
    told = {
        name.rpartition(".")[2]: str(ast.literal_eval(value))
        for name, value in sorted(pairs, key=lambda pair: pair[0].startswith(":env:"))
    }
    system = str(SYSTEM_CERTIFICATES) if SYSTEM_CERTIFICATES.is_file() else ""
    return Pip(
        index_url=told.get("index-url", ""),
        extra_index_url=told.get("extra-index-url", ""),
        find_links=told.get("find-links", ""),
        no_index=told.get("no-index", ""),
        certificates=told.get("cert", "") or os.environ.get("SSL_CERT_FILE", "") or system,
    )


def fill_wheelhouse(folder: Path, targets: Iterable[str]) -> Pip:
    """All that these targets fetch, by the Python that runs this: the base image has to have the same version."""
    named = ",".join(sorted({extra for target in targets for extra in extras(target)}))
    torch_index = this_pip().build_arguments().get("TORCH_INDEX_URL", "default")
    step = ["wheelhouse", str(folder), f"--extras={named}", f"--torch-index={torch_index}"]
    subprocess.run([sys.executable, str(INSTALL), *step], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return Pip(wheelhouse=str(folder))


def need_programs() -> None:
    """Installs what is missing, by Debian's apt-get."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        _apt("update", "--quiet")
        _apt("install", "--quiet", "--yes", "--no-install-recommends", *missing)


def make_base(folder: Path, suite: str, mirror: str) -> None:
    """A root with Debian's own Python and nothing else that is not needed; `mirror` empty: Debian's usual one."""
    command = ["debootstrap", "--variant=minbase", f"--include={_BASE_PACKAGES}", suite, str(folder)]
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        done = subprocess.run([*command, *([mirror] if mirror else [])], stdout=output, stderr=output, check=False)
    if done.returncode:
        sys.exit(f"debootstrap ends with {done.returncode}:\n{log.read_text('utf-8')[-3000:]}")
    for name in _SMALLER:
        shutil.rmtree(folder / name, ignore_errors=True)


def _apt(*arguments: str) -> None:
    subprocess.run(["apt-get", *arguments], check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
