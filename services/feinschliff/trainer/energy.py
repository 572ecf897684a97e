"""How much energy this process uses: measured by the machine's counters where they can be read, else modelled."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

POWERCAP = Path("/sys/class/powercap")
PROC_STAT = Path("/proc/stat")
TICKS_PER_SECOND = 100  # of /proc/stat, on every Linux that runs torch
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal


class Energy(NamedTuple):
    """Joules since the meter began, and how they were had: `rapl`, `model`, `nvml`, two of them joined by `+`."""

    joules: float
    source: str


class Gpu(Protocol):
    """The accelerator that this process computes on."""

    def joules(self) -> float | None:
        """What it has used since some moment in the past; None where it does not count, or is not in use yet."""
        ...


class Meter:
    """Counts from its creation on; may be read from any thread.

    Of the processor's counters (RAPL: all packages and their memory) the process gets its share of the processor time
    that the machine spent on work in between, so that idle power falls on those who work and neighbours pay for
    themselves. Where the counters are not readable, as for anybody but root on most machines, it is processor time
    times `core_watts`. A GPU is taken whole: nobody shares one with a trainer.

    Args:
        core_watts: power of one busy core for the model, W; 0: no model.
        processes: that do the same work, each counted like this one.
    """

    def __init__(
        self,
        *,
        core_watts: float,
        processes: int = 1,
        powercap: Path = POWERCAP,
        proc_stat: Path = PROC_STAT,
        cpu_seconds: Callable[[], float] = time.process_time,
        gpu: Gpu | None = None,
    ) -> None:
        self.processes = processes
        self._core_watts = core_watts
        self._proc_stat = proc_stat
        self._cpu_seconds = cpu_seconds
        self._lock = threading.Lock()
        self._counters = [Counter(path) for path in domains(powercap)]
        self._gpu: Gpu = Nvidia() if gpu is None else gpu
        self._gpu_first: float | None = None
        self._cpu_first = self._cpu_last = cpu_seconds()
        self._busy_last = busy_seconds(proc_stat)
        self._package_joules = 0.0

    def read(self) -> Energy | None:
        """None where nothing is measured and nothing modelled."""
        with self._lock:
            cpu = self._processor()
            gpu = self._accelerator()
        parts = [part for part in (cpu, gpu) if part is not None]
        if not parts:
            return None
        return Energy(self.processes * sum(part.joules for part in parts), "+".join(part.source for part in parts))

    def _processor(self) -> Energy | None:
        cpu, busy = self._cpu_seconds(), busy_seconds(self._proc_stat)
        if self._counters and busy is not None and self._busy_last is not None:
            used = self._joules_of_packages()
            all_seconds = busy - self._busy_last
            share = min(1.0, (cpu - self._cpu_last) / all_seconds) if all_seconds > 0 else 0.0
            self._package_joules += used * share
            self._cpu_last, self._busy_last = cpu, busy
            return Energy(self._package_joules, "rapl")
        if not self._core_watts:
            return None
        return Energy((cpu - self._cpu_first) * self._core_watts, "model")

    def _joules_of_packages(self) -> float:
        """Since the last time; nothing more from counters that have become unreadable."""
        try:
            return sum(counter.joules_since_last() for counter in self._counters)
        except (OSError, ValueError):
            return 0.0

    def _accelerator(self) -> Energy | None:
        now = self._gpu.joules()
        if now is None:
            return None
        if self._gpu_first is None:
            self._gpu_first = now
        return Energy(now - self._gpu_first, "nvml")


class Counter:
    """One counter of the processor, in microjoules; it begins again at 0 beyond its range."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last = int(self._path.read_text())

    def joules_since_last(self) -> float:
        """Read it every few minutes at least: one that went round twice is not noticed."""
        now = int(self._path.read_text())
        gone, self._last = now - self._last, now
        return (gone if gone >= 0 else gone + self._range) / 1e6


def domains(powercap: Path) -> list[Path]:
    """The packages and their memory, as far as they are readable; none where one of the packages is not."""
    found = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (folder / "name").read_text().strip()
            if name.startswith("package") or name == "dram":
                int((folder / "energy_uj").read_text())
                int((folder / "max_energy_range_uj").read_text())
                found.append(folder)
        except (OSError, ValueError):
            return []
    return found


def busy_seconds(proc_stat: Path) -> float | None:
    """Processor time that all cores of the machine have spent on work; None where nothing tells."""
    try:
        fields = proc_stat.read_text().split("\n", 1)[0].split()[1:]
        return sum(int(fields[place]) for place in _BUSY) / TICKS_PER_SECOND
    except (OSError, ValueError, IndexError):
        return None


class Nvidia:
    """The GPU that torch computes on in this process, by NVIDIA's management library; Volta and newer count energy."""

    def __init__(self) -> None:
        self._library: ctypes.CDLL | None = None
        self._device = ctypes.c_void_p()
        self._is_dead = False

    def joules(self) -> float | None:
        torch = sys.modules.get("torch")
        if self._is_dead or torch is None or not torch.cuda.is_initialized():
            return None
        try:
            if self._library is None:
                self._open(str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid))
            millijoules = ctypes.c_ulonglong()
            self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(millijoules))
            return millijoules.value / 1e3
        except (OSError, AttributeError, RuntimeError):
            self._is_dead = True
            return None

    def _open(self, uuid: str) -> None:
        self._library = ctypes.CDLL("libnvidia-ml.so.1")
        self._call("nvmlInit_v2")
        name = f"GPU-{uuid.removeprefix('GPU-')}".encode()
        self._call("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(name), ctypes.byref(self._device))

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise OSError(f"{name} answered {status}")
