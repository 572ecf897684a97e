"""Start of the trainer: finds out what to do, does it, and says by its exit code whether to come back.

0: the result is committed. 65: the work cannot succeed, see the failure. 75: saved, resume me. Else: a crash.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from feinschliff.artifacts.store import Store
from feinschliff.formats.report import ExitCode, Failure, Notice
from feinschliff.formats.runfile import Runfile
from feinschliff.kit import failpoints, imports, logs, spans, tls, tracing
from feinschliff.kit.context import log_context
from feinschliff.kit.errors import Refusal, StartError
from feinschliff.kit.settings import read_settings
from feinschliff.lm.threads import share_cores
from feinschliff.trainer import launch
from feinschliff.trainer.energy import Meter
from feinschliff.trainer.failures import CRASHED, ending_of
from feinschliff.trainer.peers import PeerLost, is_loss_of_a_peer
from feinschliff.trainer.progress import Link, Outbox, Reporter
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.trainer.stop import Stop, Stopped

if TYPE_CHECKING:
    from feinschliff.lm.load import LoadedBase
    from feinschliff.trainer.processes import Processes

logger = logging.getLogger("feinschliff.trainer")

FAILURE_NAME = "failure.json"


class Wiring(NamedTuple):
    """What this process is connected to.

    Args:
        bases: what it read into memory before it had any work, at most one; whoever looks at it takes it out.
    """

    runfile: Runfile
    store: Store
    link: Link
    meter: Meter
    bases: list[LoadedBase] | None = None


def main(arguments: Sequence[str] | None = None, bases: list[LoadedBase] | None = None) -> int:
    """Args: bases: see `Wiring`."""
    options = parse(arguments)
    if options.launcher:
        launch.end_with(options.launcher)
    stop = Stop()
    stop.on_signals()
    try:
        settings = read_settings(TrainerSettings)
        logs.configure(settings.log_level, settings.log_format)
        failpoints.configure(settings.failpoints)
        tls.configure(settings)
        spans.configure(settings, "trainer")
        wiring = wire_local(options, settings) if options.runfile else wire_service(settings)
        wiring = wiring._replace(bases=bases)
        about = {"job": wiring.runfile.job, "attempt": str(wiring.runfile.attempt)}
        with log_context(**about), spans.span("attempt", parent=tracing.from_environment(os.environ), **about):
            if options.meeting:
                return one_of_many(wiring, settings, stop, options.meeting)
            if launch.is_for_many(wiring.runfile):
                return launch.launch(wiring.runfile, sys.argv[1:] if arguments is None else arguments, settings, stop)
            return attempt(wiring, settings, stop)
    except StartError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except Refusal as refusal:
        logger.error("cannot start", extra={"reason": refusal.reason, "why": refusal.message})
        return CRASHED
    finally:
        spans.close()


def one_of_many(wiring: Wiring, settings: TrainerSettings, stop: Stop, meeting: Path) -> int:
    """An attempt together with the processes that meet there; 0 where it ends on its own and says how in the folder."""
    share_cores()
    with imports.uncollected():
        from feinschliff.trainer.processes import join

    try:
        crew = join(meeting)
        with log_context(process=str(crew.place)):
            code = attempt(wiring, settings, stop, crew)
    except PeerLost as loss:
        logger.warning("another process of the job is lost", extra={"why": str(loss)})
        return CRASHED
    finally:
        stop.be_deaf()
    launch.note_exit(meeting, crew.seat.place_here, code)
    return 0


def attempt(wiring: Wiring, settings: TrainerSettings, stop: Stop, crew: Processes | None = None) -> int:
    """Run one attempt and tell the service how it ended.

    Raises:
        PeerLost: another process of the crew died without a word; all begin again.
    """
    outbox = Outbox()
    if crew is not None and crew.restarts:
        outbox.post(begun_again(wiring.runfile, crew))
    reporter = Reporter(outbox, wiring.link, stop)
    speaks = crew is None or crew.is_first
    if speaks:
        reporter.start()
    failure: Failure | None = None
    try:
        code = int(run_attempt(wiring, settings, stop, outbox, crew))
    except Stopped as stopped:
        logger.info("stopped", extra={"why": stopped.why})
        code = ExitCode.RESUME_ME
    except Exception as error:
        said = end_of_another(error, crew)
        failure, code = ending_of(error) if said is None else (None, said)
        trace = None if isinstance(error, Refusal) or said is not None else error
        reason = failure.reason if failure else "PEER_ENDED"
        logger.error("failed", extra={"reason": reason, "why": failure.message if failure else ""}, exc_info=trace)
    if crew is not None:
        crew.leave(code)
    if failure is not None:
        keep_failure(wiring, failure)
    delivered = not speaks or reporter.close(
        wait_seconds=settings.trainer_delivery_seconds if code != ExitCode.RESUME_ME else 5
    )
    if not delivered:
        logger.warning("the service did not take all reports", extra={"left": len(outbox.unacknowledged())})
    if failure is not None or (speaks and code in (ExitCode.DONE, ExitCode.RESUME_ME)):
        say_goodbye(wiring, code, failure)
    logger.info("over", extra={"exit_code": int(code)})
    return int(code)


def begun_again(runfile: Runfile, crew: Processes) -> Notice:
    text = f"A process died; all {crew.seat.size} begin again from the last checkpoint."
    return Notice(key=f"attempt/{runfile.attempt}/restart/{crew.restarts:.0f}", level="warning", message=text)


def end_of_another(error: Exception, crew: Processes | None) -> int | None:
    """The exit code of a process that left on its own, where `error` is only that it is gone; None: the error is ours.

    Raises:
        PeerLost: it is gone without a word.
    """
    if crew is None:
        return None
    if not is_loss_of_a_peer(error):
        return None
    said = crew.verdict()
    if said is None:
        raise PeerLost(str(error)) from error
    return said


def run_attempt(
    wiring: Wiring, settings: TrainerSettings, stop: Stop, outbox: Outbox, crew: Processes | None
) -> ExitCode:
    share_cores()
    with imports.uncollected():
        from feinschliff.trainer.attempt import run
        from feinschliff.trainer.preparation import Attempt
        from feinschliff.trainer.scratch import Scratch

    stop.check()
    own = f"/processes/{crew.place}" if crew is not None and not crew.is_first else ""
    scratch = Scratch(f"{wiring.runfile.job}{own}", settings.scratch_folder)
    try:
        one = Attempt(wiring.runfile, wiring.store, settings, outbox, stop, scratch, crew, wiring.meter, wiring.bases)
        with one.trackers:
            run(one)
    finally:
        scratch.close()
    return ExitCode.DONE


def keep_failure(wiring: Wiring, failure: Failure) -> None:
    try:
        text = failure.model_dump_json(indent=2).encode()
        wiring.store.put_bytes(f"{wiring.runfile.prefix}/{FAILURE_NAME}", text, media_type="application/json")
    except (Refusal, OSError) as error:
        logger.warning("the failure is not in the store", extra={"why": str(error)})


def say_goodbye(wiring: Wiring, code: int, failure: Failure | None) -> None:
    try:
        wiring.link.finish(
            result_prefix=f"{wiring.runfile.prefix}/result" if code == ExitCode.DONE else "", failure=failure
        )
    except Refusal as refusal:
        logger.warning("the service was not told of the end", extra={"reason": refusal.reason})


def wire_service(settings: TrainerSettings) -> Wiring:
    """Everything from the environment, the work from the training service."""
    from feinschliff.artifacts.connect import connect
    from feinschliff.trainer.link import ServiceLink

    token = settings.attempt_token.get_secret_value()
    if not settings.attempt or not token:
        raise StartError(["FEINSCHLIFF_ATTEMPT and FEINSCHLIFF_ATTEMPT_TOKEN: both are needed without --runfile"])
    meter = Meter(core_watts=settings.trainer_core_watts)
    link = ServiceLink(
        settings.training_address,
        attempt=settings.attempt,
        token=token,
        bucket=settings.s3_bucket,
        energy=meter.read,
    )
    runfile = link.runfile()
    meter.processes = runfile.recipe.nodes * runfile.recipe.processes_per_node
    return Wiring(runfile, connect(settings), link, meter)


def wire_local(options: argparse.Namespace, settings: TrainerSettings) -> Wiring:
    """Everything from this machine's files."""
    from feinschliff.artifacts.directory import DirectoryStore
    from feinschliff.trainer.link import FileLink

    runfile = Runfile.model_validate_json(options.runfile.read_bytes())
    processes = runfile.recipe.nodes * runfile.recipe.processes_per_node
    meter = Meter(core_watts=settings.trainer_core_watts, processes=processes)
    return Wiring(runfile, DirectoryStore(options.store), FileLink(options.reports), meter)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="feinschliff-trainer", description=__doc__)
    parser.add_argument("--runfile", type=Path, help="train this runfile without any service")
    parser.add_argument("--store", type=Path, default=Path("store"), help="with --runfile: folder of artifacts")
    parser.add_argument("--reports", type=Path, default=Path("reports.jsonl"), help="with --runfile: reports go here")
    parser.add_argument("--meeting", type=Path, help="set by the launcher of several processes: its folder")
    parser.add_argument("--launcher", type=int, default=0, help="set by the launcher of several processes: its id")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
