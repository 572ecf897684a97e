"""Images and containers without a Docker engine: buildah builds, podman runs, in a storage of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.images.host import Pip
from tests.support.images import DOCKERFILE, ROOT

BASE = "localhost/feinschliff-base:check"
HOME = "/var/lib/feinschliff"
USER = 10001
_RUN = (
    "--runtime=runc",
    "--cgroup-manager=cgroupfs",
    "run",
    "--rm",
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=1024:1024",
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--network=host",
    f"--user={USER}",
)


@dataclass(frozen=True)
class Engine:
    """What runs in it: not as root, on a read-only root, without a capability, on the host's network."""

    storage: Path

    def has(self, image: str) -> bool:
        return subprocess.run([*self._podman(), "image", "exists", image], check=False).returncode == 0

    def import_root(self, folder: Path, image: str) -> None:
        """An image of one layer from a folder."""
        command = [*self._podman(), "import", "--quiet", "-", image]
        with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(command, stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True)
        assert tar.returncode == 0

    def build(self, target: str, pip: Pip) -> str:
        """The target's image, on `BASE`; what pip is told on this machine, it is told there."""
        image = f"localhost/feinschliff/{target}:check"
        given = {"BASE_IMAGE": BASE, **pip.build_arguments()}
        command = [
            *(["unshare", "--net"] if pip.wheelhouse else []),
            *("buildah", "--storage-driver=overlay", *self._places(), "bud", "--isolation=chroot", "--layers"),
            *("--pull-never", f"--target={target}", f"--tag={image}", f"--file={DOCKERFILE}"),
            *(f"--build-arg={name}={value}" for name, value in given.items()),
            *(f"--volume={path}:{path}:ro" for path in pip.folders()),
            *([f"--build-context=wheelhouse={pip.wheelhouse}"] if pip.wheelhouse else []),
            *([f"--secret=id=ca,src={pip.certificates}"] if pip.certificates else []),
        ]
        log = self.storage / f"{target}.log"
        with log.open("wb") as output:
            done = subprocess.run([*command, ROOT], stdout=output, stderr=output, check=False)
        if done.returncode:
            sys.exit(f"{target} is not built ({done.returncode}):\n{log.read_text('utf-8', 'replace')[-5000:]}")
        return image

    def command(
        self,
        image: str,
        *arguments: str,
        settings: Mapping[str, str] | None = None,
        volumes: Sequence[str] = (),
        program: str = "",
    ) -> list[str]:
        """Runs in the foreground and ends with the container's exit code; signals go on to it."""
        return [
            *(*self._podman(), *_RUN),
            *(f"--env={name}={value}" for name, value in (settings or {}).items()),
            *(f"--volume={volume}" for volume in volumes),
            *([f"--entrypoint={program}"] if program else []),
            *(image, *arguments),
        ]

    def python(self, image: str, code: str) -> str:
        """What a program prints in a container of the image."""
        command = self.command(image, "-c", code, program="/opt/feinschliff/bin/python")
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def size_bytes(self, image: str) -> int:
        command = [*self._podman(), "image", "inspect", "--format={{.Size}}", image]
        return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

    def end(self) -> None:
        """No container is left, nor a mount."""
        subprocess.run([*self._podman(), "rm", "--all", "--force"], check=False, stdout=subprocess.DEVNULL)
        subprocess.run([*self._podman(), "volume", "prune", "--force"], check=False, stdout=subprocess.DEVNULL)
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text("utf-8").splitlines()]
        for place in sorted((one for one in mounted if Path(one).is_relative_to(self.storage)), reverse=True):
            subprocess.run(["umount", place], check=False)

    def _podman(self) -> list[str]:
        return ["podman", "--storage-driver=overlay", *self._places()]

    def _places(self) -> list[str]:
        return [f"--root={self.storage / 'root'}", f"--runroot={self.storage / 'run'}"]


@contextmanager
def engine(storage: Path, *, keep: bool) -> Iterator[Engine]:
    """Ends all that ran in it; without `keep`, its images go too."""
    storage.mkdir(parents=True, exist_ok=True)
    opened = Engine(storage.resolve())
    try:
        yield opened
    finally:
        opened.end()
        if not keep:
            shutil.rmtree(storage)
