"""Where attempts run and what becomes of them there: profiles, waiting, and machines that end them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feinschliff.kit.errors import Denied, Invalid, Refusal, Unavailable, WrongState
from feinschliff.lm.allocator import ALLOCATOR
from feinschliff.training.acts import workload_of
from feinschliff.training.life import State
from feinschliff.training.lists import Lists
from feinschliff.training.reconciler import Reconciler
from feinschliff.training.store import Job
from feinschliff.workloads import status
from feinschliff.workloads.profiles import Profile, Profiles
from feinschliff.workloads.spec import WorkloadSpec
from feinschliff.workloads.status import Trouble
from tests.contract.training.conftest import Training
from tests.support.scripted_runner import ScriptedRunner

CLUSTER = Profiles(
    default="cpu",
    profiles=(
        Profile(name="cpu", slots=2, price_per_hour=0.36, env={"OMP_NUM_THREADS": "4"}),
        Profile(name="gpu", slots=1, gpus=1, price_per_hour=3.6, nodes_max=2, processes_max=2),
    ),
)
FULL = Trouble("WORKLOAD_UNSCHEDULABLE", "0/3 nodes have a free GPU.", ("Add a node.",), patience_seconds=None)
NO_IMAGE = Trouble("WORKLOAD_IMAGE_UNAVAILABLE", "The image cannot be pulled.", retryable=False, patience_seconds=60)
OUT_OF_MEMORY = Trouble("WORKLOAD_OUT_OF_MEMORY", "It needed more memory than its limit.", retryable=False)
NODE_LOST = Trouble("WORKLOAD_NODE_LOST", "Its node is gone.", blameless=True)


@pytest.fixture
def runner() -> ScriptedRunner:
    return ScriptedRunner()


@pytest.fixture
def reconciler(training: Training, runner: ScriptedRunner) -> Reconciler:
    return training.reconciler(runner=runner, profiles=CLUSTER)


@pytest.fixture(autouse=True)
def on_cluster(training: Training) -> None:
    training.use(CLUSTER)


def ordered(training: Training, profile: str = "", *, nodes: int = 1, **changes: object) -> Job:
    training.clock.advance(1)
    order = training.order(**changes)  # type: ignore[arg-type]
    recipe = order.recipe.model_copy(update={"execution_profile": profile, "nodes": nodes})
    return training.jobs.create(replace(order, recipe=recipe))


def begun(training: Training, reconciler: Reconciler, job: Job) -> Job:
    training.clock.advance(100)
    reconciler.turn()
    started = training.jobs.get(job.name)
    assert started.state is State.RUNNING
    return started


def warnings(training: Training, job: Job) -> list[str]:
    events = Lists(training.database).events(job.name, "", 500, "", "").items
    return [event.message for event in events if event.level == "warning"]


def test_a_profile_that_is_not_in_the_file_is_refused_by_its_field(training: Training) -> None:
    with pytest.raises(Invalid) as refused:
        ordered(training, "tpu")

    assert refused.value.reason == "EXECUTION_PROFILE_UNKNOWN"
    assert [field.field for field in refused.value.fields] == ["training_job.recipe.execution_profile"]
    assert "cpu, gpu" in refused.value.message


def test_a_job_that_names_none_gets_the_default_one_and_says_so(training: Training) -> None:
    job = ordered(training)

    assert job.profile == job.recipe.execution_profile == "cpu"


def test_the_workload_carries_profile_settings_and_deadline(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner
) -> None:
    job = begun(training, reconciler, ordered(training, "cpu"))
    spec = runner.specs[workload_of(job)]

    assert spec.profile == CLUSTER.get("cpu")
    assert spec.env["OMP_NUM_THREADS"] == "4"
    assert spec.env.items() >= ALLOCATOR.items()
    assert spec.env["FEINSCHLIFF_ATTEMPT"] == job.attempt_name
    assert spec.deadline_seconds is None
    assert list(spec.secret_env) == ["FEINSCHLIFF_ATTEMPT_TOKEN"]


def test_each_profile_has_places_of_its_own(training: Training, reconciler: Reconciler) -> None:
    wanted = [ordered(training, profile) for profile in ("gpu", "gpu", "cpu", "cpu", "cpu")]

    reconciler.turn()

    states = [training.jobs.get(job.name).state.name for job in wanted]
    assert states == ["RUNNING", "QUEUED", "RUNNING", "RUNNING", "QUEUED"]
    assert training.metrics.value("feinschliff_training_slots_used", profile="gpu") == 1
    assert training.metrics.value("feinschliff_training_slots", profile="cpu") == 2


def test_a_job_whose_profile_was_taken_away_fails_and_says_why(training: Training, runner: ScriptedRunner) -> None:
    job = ordered(training, "gpu")
    smaller = Profiles(default="cpu", profiles=CLUSTER.profiles[:1])

    training.reconciler(runner=runner, profiles=smaller).turn()

    failed = training.jobs.get(job.name)
    assert failed.state is State.FAILED
    assert failed.failure is not None
    assert failed.failure.reason == "EXECUTION_PROFILE_UNKNOWN"
    assert training.metrics.value("feinschliff_training_jobs_finished_total", state="failed") == 1


def test_waiting_for_a_place_is_told_once_and_never_taken_for_silence(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner
) -> None:
    job = begun(training, reconciler, ordered(training))
    runner.show(workload_of(job), trouble=FULL)

    for _ in range(3):
        training.clock.advance(10_000)
        reconciler.turn()

    assert training.jobs.get(job.name).state is State.RUNNING
    assert runner.stopped == []
    assert warnings(training, job) == ["Attempt 1 waits: 0/3 nodes have a free GPU."]
    assert training.metrics.value("feinschliff_training_attempts_pending") == 1
    assert training.metrics.value("feinschliff_training_troubles_total", reason="WORKLOAD_UNSCHEDULABLE") == 1


def test_silence_counts_from_the_moment_it_began_to_run(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner
) -> None:
    job = begun(training, reconciler, ordered(training))
    training.clock.advance(10_000)
    runner.show(workload_of(job), state=status.State.RUNNING, started=training.clock.now())

    reconciler.turn()
    assert runner.stopped == []

    training.clock.advance(101)
    reconciler.turn()
    assert runner.stopped == [workload_of(job)]


def test_what_will_never_start_is_given_up_after_its_patience(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner
) -> None:
    job = begun(training, reconciler, ordered(training))
    runner.show(workload_of(job), trouble=replace(NO_IMAGE, since=training.clock.now()))
    training.clock.advance(59)
    reconciler.turn()
    assert runner.stopped == []

    training.clock.advance(2)
    reconciler.turn()
    reconciler.turn()

    failed = training.jobs.get(job.name)
    assert failed.state is State.FAILED
    assert failed.failure is not None
    assert (failed.failure.reason, failed.attempt) == ("WORKLOAD_IMAGE_UNAVAILABLE", 1)


def test_an_end_that_would_come_again_fails_the_job_with_the_machines_reason(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner
) -> None:
    job = begun(training, reconciler, ordered(training))
    runner.show(workload_of(job), state=status.State.EXITED, exit_code=137, trouble=OUT_OF_MEMORY)

    reconciler.turn()

    failed = training.jobs.get(job.name)
    assert failed.state is State.FAILED
    assert failed.failure is not None
    assert failed.failure.reason == "WORKLOAD_OUT_OF_MEMORY"


def test_a_lost_machine_is_no_failed_attempt(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner
) -> None:
    job = ordered(training)
    for number in range(1, 6):  # more often than attempts may fail
        job = begun(training, reconciler, job)
        assert job.attempt == number
        runner.show(workload_of(job), state=status.State.EXITED, trouble=NODE_LOST)
        reconciler.turn()
        job = training.jobs.get(job.name)
        assert (job.state, job.barren_attempts) == (State.QUEUED, 0)


def test_a_cancelled_job_that_still_waits_is_stopped(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner
) -> None:
    job = begun(training, reconciler, ordered(training))
    training.jobs.cancel(job.name)

    reconciler.turn()
    reconciler.turn()

    assert training.jobs.get(job.name).state is State.CANCELLED


def test_a_job_of_several_machines_asks_for_them_within_its_profile(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner
) -> None:
    job = begun(training, reconciler, ordered(training, "gpu", nodes=2))
    with pytest.raises(Invalid) as refused:
        ordered(training, "cpu", nodes=2)

    assert runner.specs[workload_of(job)].nodes == 2
    assert refused.value.reason == "NODES_TOO_MANY"
    assert [field.field for field in refused.value.fields] == ["training_job.recipe.nodes"]


@pytest.mark.parametrize(("changes", "may"), [({}, True), ({"nodes": 2}, False), ({"processes_per_node": 2}, False)])
def test_only_an_attempt_of_one_process_may_be_warm(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner, changes: dict[str, int], may: bool
) -> None:
    order = training.order()
    recipe = order.recipe.model_copy(update={"execution_profile": "gpu", **changes})
    job = begun(training, reconciler, training.jobs.create(replace(order, recipe=recipe)))
    assert runner.specs[workload_of(job)].may_be_warm is may


@pytest.mark.parametrize("nodes", [1, 2])
def test_cost_is_time_on_the_machines_times_their_price(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner, nodes: int
) -> None:
    job = begun(training, reconciler, ordered(training, "gpu", nodes=nodes))
    training.clock.advance(5)
    reconciler.turn()  # still pending: costs nothing
    runner.show(workload_of(job), state=status.State.RUNNING, started=training.clock.now())
    reconciler.turn()
    for _ in range(10):
        training.clock.advance(5)
        reconciler.turn()

    labels = {"profile": "gpu", "project": "default"}
    assert training.metrics.value("feinschliff_training_attempt_seconds_total", profile="gpu") == 50
    assert training.metrics.value("feinschliff_training_cost_total", **labels) == pytest.approx(50 * nodes * 0.001)


@pytest.mark.parametrize(
    ("refusal", "state", "reason"),
    [
        (WrongState("WORKLOAD_REFUSED", "A policy forbids it."), State.FAILED, "WORKLOAD_REFUSED"),
        (Unavailable("WORKLOAD_START_FAILED", "The quota is used up."), State.RUNNING, None),
        (Denied("WORKLOAD_RIGHT_MISSING", "It may not create jobs."), State.RUNNING, None),
    ],
)
def test_a_cluster_that_refuses_the_start(
    training: Training, runner: ScriptedRunner, refusal: Refusal, state: State, reason: str | None
) -> None:
    job = ordered(training)
    reconciler = training.reconciler(runner=runner, profiles=CLUSTER)
    runner.refusal = refusal
    for _ in range(10):  # more often than attempts may fail
        training.clock.advance(100)
        reconciler.turn()
        reconciler.turn()
    runner.refusal = None
    training.clock.advance(100)
    reconciler.turn()

    after = training.jobs.get(job.name)
    assert after.state is state
    assert (after.failure.reason if after.failure else None) == reason
    assert after.barren_attempts == 0


def test_the_wait_for_a_machine_is_not_the_jobs_time(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner
) -> None:
    job = begun(training, reconciler, ordered(training))
    training.clock.advance(500)
    runner.show(workload_of(job), state=status.State.RUNNING, started=training.clock.now())

    reconciler.turn()

    assert training.jobs.get(job.name).started == training.clock.now()


def test_a_profile_that_is_taken_away_while_its_job_runs_disturbs_nothing(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner
) -> None:
    job = begun(training, reconciler, ordered(training, "gpu"))
    runner.show(workload_of(job), state=status.State.RUNNING, started=training.clock.now())
    training.clock.advance(20)
    without = training.reconciler(
        "after", runner=runner, profiles=Profiles(default="cpu", profiles=CLUSTER.profiles[:1])
    )

    for _ in range(4):
        training.clock.advance(5)
        without.turn()

    assert training.metrics.value("feinschliff_training_reconcile_errors_total") == 0
    assert training.metrics.value("feinschliff_training_attempt_seconds_total", profile="gpu") == 15


def test_an_attempt_in_its_grace_is_asked_in_every_turn_and_its_log_kept_once(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner
) -> None:
    job = begun(training, reconciler, ordered(training))
    runner.show(workload_of(job), state=status.State.RUNNING, started=training.clock.now())
    runner.lingers, runner.said[workload_of(job)] = True, b"step 1"
    training.jobs.cancel(job.name)
    turn = training.wake.turn

    for _ in range(5):
        reconciler.turn()

    assert runner.stopped == [workload_of(job)] * 5
    assert runner.logs_read == 1
    assert training.store.get_bytes(f"{job.name}/logs/attempt-1.log") == b"step 1"
    assert training.wake.turn == turn  # else the next turn would follow at once, and so on until the grace is over


def test_a_store_that_is_away_keeps_no_attempt_from_being_stopped(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun(training, reconciler, ordered(training))
    runner.show(workload_of(job), state=status.State.RUNNING, started=training.clock.now())
    runner.lingers, runner.said[workload_of(job)] = True, b"step 1"
    training.jobs.cancel(job.name)

    def away(*given: object, **named: object) -> None:
        raise Unavailable("STORE_UNAVAILABLE", "no")

    monkeypatch.setattr(training.store, "put_bytes", away)
    reconciler.turn()

    assert runner.stopped == [workload_of(job)]


def test_a_trouble_of_a_running_attempt_counts_once_and_is_no_waiting(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner
) -> None:
    job = begun(training, reconciler, ordered(training))
    runner.show(workload_of(job), state=status.State.RUNNING, started=training.clock.now(), trouble=NODE_LOST)
    reconciler.turn()
    assert warnings(training, job) == []

    runner.show(workload_of(job), state=status.State.EXITED)
    reconciler.turn()

    assert training.metrics.value("feinschliff_training_troubles_total", reason="WORKLOAD_NODE_LOST") == 1


def test_a_copy_that_begins_a_job_in_the_middle_of_a_turn_takes_a_place(
    training: Training, runner: ScriptedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (training.reconciler(owner, runner=runner, profiles=CLUSTER) for owner in ("one", "two"))
    wanted = [ordered(training, "cpu") for _ in range(4)]
    start, others = runner.start, [two]

    def meanwhile(spec: WorkloadSpec) -> None:
        start(spec)
        while others:
            others.pop().turn()

    monkeypatch.setattr(runner, "start", meanwhile)
    one.turn()

    states = [training.jobs.get(job.name).state for job in wanted]
    assert states.count(State.RUNNING) == CLUSTER.get("cpu").slots


def test_a_cluster_that_does_not_answer_is_asked_once_a_turn(
    training: Training, reconciler: Reconciler, runner: ScriptedRunner
) -> None:
    for _ in range(2):
        begun(training, reconciler, ordered(training))
    runner.outage = Unavailable("WORKLOAD_CLUSTER_UNAVAILABLE", "The cluster does not answer.")
    waiting = ordered(training, "gpu")
    runner.asked = 0

    reconciler.turn()

    assert runner.asked == 1
    assert training.jobs.get(waiting.name).state is State.QUEUED
    runner.outage = None
    reconciler.turn()
    assert training.jobs.get(waiting.name).state is State.RUNNING
