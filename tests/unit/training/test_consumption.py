"""What jobs use adds up over attempts and processes that begin again."""

from __future__ import annotations

from feinschliff.training.consumption import Energy, Tariff, Used, with_energy
from feinschliff.workloads.profiles import local_profiles


def test_energy_adds_up_over_attempts_and_over_processes_that_begin_again() -> None:
    used = Used()
    told = [(1, 10.0), (1, 25.0), (2, 3.0), (2, 3.0), (2, 7.0), (2, 1.0), (2, 2.0)]
    totals = []
    for attempt, joules in told:
        used = with_energy(used, attempt, Energy(joules, "model"))
        totals.append(used.energy_joules)
    assert totals == [10.0, 25.0, 28.0, 28.0, 32.0, 33.0, 34.0]


def test_sources_are_told_once_each_in_their_order() -> None:
    used = with_energy(Used(), 1, Energy(1.0, "model"))
    used = with_energy(used, 2, Energy(1.0, "rapl+nvml"))
    assert with_energy(used, 3, Energy(1.0, "model+nvml")).energy_source == "model+rapl+nvml"


def test_a_kilowatt_hour_is_3_6_megajoules() -> None:
    assert Tariff(local_profiles(1), 445.0).carbon_grams(3.6e6) == 445.0
