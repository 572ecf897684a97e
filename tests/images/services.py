"""The image `control`: its services as containers, all in one and each in its own, until all of them are SERVING."""

from __future__ import annotations

import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from feinschliff.cli.control import ROOMS
from feinschliff.cli.embedded_s3 import start_s3
from feinschliff.cli.free_ports import free_ports
from tests.images.engine import HOME, Engine
from tests.support.processes import RoomProcess
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.waiting import eventually

SERVICES: Mapping[str, tuple[str, ...]] = {
    "ingestion": ("feinschliff.v1.DatasetService",),
    "training": ("feinschliff.v1.TrainingService", "feinschliff.v1.WorkerService"),
    "evaluation": ("feinschliff.v1.EvaluationService",),
    "registry": ("feinschliff.v1.RegistryService",),
    "gateway": (),
}
_STOP_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class Platform:
    """The settings of one platform, whose ports are free ones of this machine."""

    engine: Engine
    image: str
    settings: Mapping[str, str]
    ports: Mapping[str, int]
    home: str
    folder: Path

    def container(self, name: str, module: str, port: int, **settings: str) -> RoomProcess:
        """A container that is a process to whoever watches it; its door is at `port`."""
        volumes = [f"{self.home}:{HOME}"]
        command = self.engine.command(self.image, module, settings={**self.settings, **settings}, volumes=volumes)
        return RoomProcess(name, command, {}, self.folder / f"{name}.log", address=f"127.0.0.1:{port}")


@contextmanager
def platform(engine: Engine, image: str) -> Iterator[Platform]:
    """A bucket on a real S3 server of this machine, and a home that containers share."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feinschliff-images-")))
        names = [f"{room}{kind}" for room in ROOMS for kind in ("_port", "_metrics_port")]
        ports = dict(zip([*names, "s3", "probe"], free_ports(len(names) + 2), strict=True))
        s3 = start_s3(folder / "s3", port=ports["s3"], access_key=ACCESS_KEY, secret_key=SECRET_KEY)
        stack.callback(s3.stop)
        settings = S3Server(s3.endpoint).environment("images")
        settings |= {f"FEINSCHLIFF_{name.upper()}": str(ports[name]) for name in names}
        settings |= {
            f"FEINSCHLIFF_{room.upper()}_ADDRESS": f"127.0.0.1:{ports[f'{room}_port']}"
            for room in ROOMS
            if room != "gateway"
        }
        yield Platform(engine, image, settings, ports, f"home-{uuid.uuid4().hex[:8]}", folder)


def check_services(engine: Engine, image: str) -> Iterator[str]:
    """A line for each thing seen; fails at the first that is not so."""
    with platform(engine, image) as made:
        yield f"migrate: {migrated(made)}"
        yield f"all in one container: {together(made)}"
        yield f"a container each: {apart(made)}"


def migrated(made: Platform) -> str:
    command = made.container("migrate", "feinschliff.cli.migrate", 0).command
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return "; ".join(done.stdout.splitlines())


def together(made: Platform) -> str:
    began = time.monotonic()
    probe = made.ports["probe"]
    one = made.container("control", "feinschliff.cli.control", probe, FEINSCHLIFF_PROBE_PORT=str(probe))
    try:
        one.start_and_wait()
        assert one.health("live") == "SERVING"
        seen = [_serving(one, made, room) for room in ROOMS]
        seconds = time.monotonic() - began
        return f"{', '.join(seen)} SERVING after {seconds:.1f} s; {_ended(one)}"
    finally:
        one.close()


def apart(made: Platform) -> str:
    began = time.monotonic()
    rooms = {room: made.container(room, f"feinschliff.{room}", made.ports[f"{room}_port"]) for room in ROOMS}
    try:
        for one in rooms.values():
            one.start()
        seen = [_serving(one, made, room) for room, one in rooms.items()]
        seconds = time.monotonic() - began
        return f"{', '.join(seen)} SERVING after {seconds:.1f} s; {', '.join(_ended(one) for one in rooms.values())}"
    finally:
        for one in rooms.values():
            one.close()


def _serving(one: RoomProcess, made: Platform, room: str) -> str:
    """The room says so at its own door, for every service of it."""
    door = RoomProcess(room, (), {}, one.log_path, address=f"127.0.0.1:{made.ports[f'{room}_port']}")
    asked = ("", *SERVICES[room])

    def ready() -> bool:
        one.check_alive()
        if room == "gateway":
            return _answers(f"http://{door.address}/readyz")
        return all(door.health(service) == "SERVING" for service in asked)

    eventually(ready, 60, f"{room} SERVING")
    return room


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _ended(one: RoomProcess) -> str:
    code = one.terminate(_STOP_SECONDS_MAX)
    assert code == 0, f"{one.name} ended with {code}:\n{one.logs()[-4000:]}"
    return f"{one.name} ends with 0"
