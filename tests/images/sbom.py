"""What each image holds, as CycloneDX: `make sbom` installs each target's packages and asks the environment itself.

Made for CPUs; the base image's own packages are its publisher's to list.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.images.host import this_pip
from tests.support.images import INSTALL, ROOT, extras, send

TARGETS = ("control", "trainer", "inference")
FORMAT = "1.6"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="sbom", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; none: all")
    parser.add_argument("--into", type=Path, default=ROOT / ".build" / "sbom")
    options = parser.parse_args(arguments)
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}")
    options.into.mkdir(parents=True, exist_ok=True)
    wanted = options.targets or TARGETS
    for chosen in dict.fromkeys(",".join(extras(target)) for target in wanted):
        alike = [target for target in wanted if ",".join(extras(target)) == chosen]
        with tempfile.TemporaryDirectory(prefix="feinschliff-sbom-") as folder:
            environment = installed(chosen, Path(folder))
            for target in alike:
                count = write(target, environment, options.into / f"{target}.cdx.json")
                print(f"{target:9} {count} components", flush=True)


def installed(chosen: str, folder: Path) -> Path:
    """An environment with the extras, the project and the sample model, made by the steps of an image."""
    environment, source = folder / "environment", send(folder / "source")
    torch_index = this_pip().build_arguments().get("TORCH_INDEX_URL", "default")
    for step in (
        ("wheel", str(folder / "dist")),
        ("packages", str(environment), f"--extras={chosen}", f"--torch-index={torch_index}", "--no-compile"),
        ("project", str(environment), f"--wheels={folder / 'dist'}", "--no-compile"),
        ("model", str(environment)),
    ):
        subprocess.run([sys.executable, INSTALL, *step], check=True, cwd=source, stdout=sys.stderr)
    return environment


def write(target: str, environment: Path, path: Path) -> int:
    """Lists what is installed there, the same text for the same packages; the number of components."""
    command = [
        *(Path(sys.executable).with_name("cyclonedx-py"), "environment", "--output-reproducible"),
        *(f"--spec-version={FORMAT}", "--output-format=JSON", f"--output-file={path}"),
        environment / "bin" / "python",
    ]
    subprocess.run([str(word) for word in command], check=True, stderr=subprocess.DEVNULL)
    listed = json.loads(path.read_text("utf-8"))
    (project,) = (one for one in listed["components"] if one["name"] == "feinschliff")
    image = {"type": "container", "bom-ref": f"image/{target}", "name": f"feinschliff/{target}"}
    listed["metadata"]["component"] = {**image, "version": project["version"]}
    path.write_text(json.dumps(listed, indent=2) + "\n", "utf-8")
    return len(listed["components"])


if __name__ == "__main__":
    main()
