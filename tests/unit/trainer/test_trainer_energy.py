"""Energy is counted from the machine's own counters where they are, and modelled where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from feinschliff.trainer.energy import Energy, Meter


class Machine:
    """Counters in files as Linux has them, and a process on it."""

    def __init__(self, folder: Path) -> None:
        self.powercap, self.proc_stat = folder / "powercap", folder / "stat"
        self.cpu_seconds = 5.0
        self.gpu_joules: float | None = None
        self.powercap.mkdir()
        self.busy(100)

    def joules(self) -> float | None:
        return self.gpu_joules

    def busy(self, seconds: float) -> None:
        """All cores together; half of it in the kernel, and as much idle."""
        half, all_ = int(seconds * 50), int(seconds * 100)
        self.proc_stat.write_text(f"cpu {half} 0 {half} {all_} 77 0 0 0 0 0\ncpu0 1 2 3\n", "utf-8")

    def counter(self, name: str, microjoules: int, *, domain: str = "intel-rapl:0") -> None:
        folder = self.powercap / domain
        folder.mkdir(exist_ok=True)
        (folder / "name").write_text(f"{name}\n", "utf-8")
        (folder / "energy_uj").write_text(f"{microjoules}\n", "utf-8")
        (folder / "max_energy_range_uj").write_text("1000000000\n", "utf-8")

    def meter(self, *, core_watts: float = 4.0, processes: int = 1) -> Meter:
        return Meter(
            core_watts=core_watts,
            processes=processes,
            powercap=self.powercap,
            proc_stat=self.proc_stat,
            cpu_seconds=lambda: self.cpu_seconds,
            gpu=self,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_counters_it_is_processor_time_times_power(machine: Machine) -> None:
    meter = machine.meter()
    machine.cpu_seconds += 30
    assert meter.read() == Energy(120.0, "model")
    assert machine.meter(core_watts=0).read() is None


def test_counters_are_shared_among_those_who_work(machine: Machine) -> None:
    machine.counter("package-0", 5_000_000)
    machine.counter("dram", 1_000_000, domain="intel-rapl:0:1")
    machine.counter("core", 1_000_000, domain="intel-rapl:0:0")  # a part of the package, not beside it
    meter = machine.meter()
    machine.counter("package-0", 45_000_000)
    machine.counter("dram", 11_000_000, domain="intel-rapl:0:1")
    machine.counter("core", 31_000_000, domain="intel-rapl:0:0")
    machine.cpu_seconds += 5
    machine.busy(120)
    assert meter.read() == Energy(pytest.approx((40 + 10) * 5 / 20), "rapl")


def test_a_counter_that_went_round_goes_on(machine: Machine) -> None:
    machine.counter("package-0", 999_000_000)
    meter = machine.meter()
    machine.counter("package-0", 2_000_000)
    machine.cpu_seconds += 20
    machine.busy(120)
    assert meter.read() == Energy(pytest.approx(3.0), "rapl")


def test_nothing_used_in_between_adds_nothing(machine: Machine) -> None:
    machine.counter("package-0", 1_000_000)
    meter = machine.meter()
    assert meter.read() == Energy(0.0, "rapl")


def test_counters_that_only_root_reads_are_none(machine: Machine) -> None:
    machine.counter("package-0", 1_000_000)
    (machine.powercap / "intel-rapl:0" / "energy_uj").unlink()
    (machine.powercap / "intel-rapl:0" / "energy_uj").mkdir()  # reading it fails, whoever asks
    meter = machine.meter()
    machine.cpu_seconds += 1
    assert meter.read() == Energy(4.0, "model")


def test_counters_that_become_unreadable_count_no_further(machine: Machine) -> None:
    machine.counter("package-0", 1_000_000)
    meter = machine.meter()
    machine.counter("package-0", 5_000_000)
    machine.cpu_seconds += 20
    machine.busy(120)
    assert meter.read() == Energy(4.0, "rapl")
    (machine.powercap / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.read() == Energy(4.0, "rapl")


def test_a_gpu_counts_from_its_first_use_and_processes_count_alike(machine: Machine) -> None:
    meter = machine.meter(processes=2)
    assert meter.read() == Energy(0.0, "model")
    machine.gpu_joules = 1000.0
    assert meter.read() == Energy(0.0, "model+nvml")
    machine.gpu_joules, machine.cpu_seconds = 1300.0, 6.0
    assert meter.read() == Energy(2 * (4.0 + 300.0), "model+nvml")


def test_this_machine_can_be_read() -> None:
    used = Meter(core_watts=1.0).read()
    assert used is not None
    assert used.source in ("rapl", "model")
