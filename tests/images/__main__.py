"""Builds the images and runs them for real, without a Docker engine: `make images-check`, as root, on Debian.

Needs the network for Debian's packages and pip's; leaves nothing running, and with --keep its storage, which makes the
next run shorter.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.images.engine import BASE, USER, Engine, engine
from tests.images.host import Pip, fill_wheelhouse, make_base, need_programs, this_pip
from tests.images.services import check_services
from tests.images.training import check_trainer

MB = 1_000_000
PACKAGES_MB_MAX = {"control": 340}
MODULES = {
    "control": ("fastapi", "kubernetes"),
    "trainer": ("torch", "transformers", "peft", "tensorboard", "typer", "rich"),  # transformers needs typer
}
INSIDE = Path(__file__).with_name("inside.py")
CHECKS: Mapping[str, Callable[[Engine, str], Iterator[str]]] = {"control": check_services, "trainer": check_trainer}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="images-check", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(CHECKS)}; none: all")
    parser.add_argument("--suite", default="bookworm", help="Debian release of the base image")
    parser.add_argument("--mirror", default="", help="where debootstrap fetches; none: Debian's usual one")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the storage there, or go on with one")
    parser.add_argument("--offline", action="store_true", help="build without a network, from a wheelhouse made before")
    options = parser.parse_args(arguments)
    if unknown := set(options.targets) - set(CHECKS):
        parser.error(f"no check for {', '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        sys.exit("images-check builds roots and mounts layers: run it as root, such as in a virtual machine of its own")
    need_programs()
    storage = options.keep or Path(tempfile.mkdtemp(prefix="feinschliff-images-", dir="/var/tmp"))
    with engine(storage, keep=options.keep is not None) as opened:
        base(opened, options.suite, options.mirror)
        targets = options.targets or CHECKS
        pip = fill_wheelhouse(opened.storage / "wheels", targets) if options.offline else this_pip()
        for target in targets:
            check(opened, target, pip)


def base(engine: Engine, suite: str, mirror: str) -> None:
    """A root of Debian's own packages in place of the base image."""
    if engine.has(BASE):
        return
    began = time.monotonic()
    folder = engine.storage / suite
    make_base(folder, suite, mirror)
    engine.import_root(folder, BASE)
    shutil.rmtree(folder)
    say("base", f"Debian {suite}, {engine.size_bytes(BASE) / MB:.0f} MB, made in {time.monotonic() - began:.0f} s")


def check(engine: Engine, target: str, pip: Pip) -> None:
    """Builds the target, looks at it from inside, and lets it do its work."""
    began = time.monotonic()
    image = engine.build(target, pip)
    say(target, f"{engine.size_bytes(image) / MB:.0f} MB, built in {time.monotonic() - began:.0f} s")
    seen = json.loads(engine.python(image, INSIDE.read_text("utf-8")))
    parts = ", ".join(f"{name.replace('_', ' ')} {size / MB:.1f} MB" for name, size in seen["sizes"].items())
    say(target, parts)
    assert seen["ids"] == [USER, USER], seen
    assert seen["writable"] == ["/tmp"], seen
    assert not seen["programs"], seen
    assert set(seen["modules"]) == set(MODULES[target]), seen
    assert seen["sizes"]["packages"] / MB < PACKAGES_MB_MAX.get(target, float("inf")), parts
    for line in CHECKS[target](engine, image):
        say(target, line)


def say(about: str, line: str) -> None:
    print(f"{about:8} {line}", flush=True)


if __name__ == "__main__":
    main()
