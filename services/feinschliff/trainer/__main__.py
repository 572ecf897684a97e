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
from typing import NamedTuple

from feinschliff.artifacts.store import Store
from feinschliff.formats.report import ExitCode, Failure
from feinschliff.formats.runfile import Runfile
from feinschliff.kit import failpoints, logs, spans, tls, tracing
from feinschliff.kit.context import log_context
from feinschliff.kit.errors import Refusal, StartError
from feinschliff.kit.settings import read_settings
from feinschliff.trainer.failures import CRASHED, ending_of
from feinschliff.trainer.progress import Link, Outbox, Reporter
from feinschliff.trainer.settings import TrainerSettings
from feinschliff.trainer.stop import Stop, Stopped

logger = logging.getLogger("feinschliff.trainer")

FAILURE_NAME = "failure.json"


class Wiring(NamedTuple):
    """What this process is connected to."""

    runfile: Runfile
    store: Store
    link: Link


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    stop = Stop()
    stop.on_signals()
    try:
        settings = read_settings(TrainerSettings)
        logs.configure(settings.log_level, settings.log_format)
        failpoints.configure(settings.failpoints)
        tls.configure(settings)
        spans.configure(settings, "trainer")
        wiring = wire_local(options) if options.runfile else wire_service(settings)
    except StartError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except Refusal as refusal:
        logger.error("cannot start", extra={"reason": refusal.reason, "why": refusal.message})
        return CRASHED
    about = {"job": wiring.runfile.job, "attempt": str(wiring.runfile.attempt)}
    try:
        with log_context(**about), spans.span("attempt", parent=tracing.from_environment(os.environ), **about):
            return attempt(wiring, settings, stop)
    finally:
        spans.close()


def attempt(wiring: Wiring, settings: TrainerSettings, stop: Stop) -> int:
    """Run one attempt and tell the service how it ended."""
    outbox = Outbox()
    reporter = Reporter(outbox, wiring.link, stop)
    reporter.start()
    failure: Failure | None = None
    try:
        code = int(run_attempt(wiring, settings, stop, outbox))
    except Stopped as stopped:
        logger.info("stopped", extra={"why": stopped.why})
        code = ExitCode.RESUME_ME
    except Exception as error:
        failure, code = ending_of(error)
        trace = None if isinstance(error, Refusal) else error
        logger.error("failed", extra={"reason": failure.reason, "why": failure.message}, exc_info=trace)
    if failure is not None:
        keep_failure(wiring, failure)
    delivered = reporter.close(wait_seconds=settings.trainer_delivery_seconds if code != ExitCode.RESUME_ME else 5)
    if not delivered:
        logger.warning("the service did not take all reports", extra={"left": len(outbox.unacknowledged())})
    say_goodbye(wiring, code, failure)
    logger.info("over", extra={"exit_code": int(code)})
    return int(code)


def run_attempt(wiring: Wiring, settings: TrainerSettings, stop: Stop, outbox: Outbox) -> ExitCode:
    from feinschliff.lm.threads import share_cores

    share_cores()
    from feinschliff.trainer.attempt import run
    from feinschliff.trainer.preparation import Attempt
    from feinschliff.trainer.scratch import Scratch

    stop.check()
    scratch = Scratch(wiring.runfile.job, settings.scratch_folder)
    try:
        run(Attempt(wiring.runfile, wiring.store, settings, outbox, stop, scratch))
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
    link = ServiceLink(settings.training_address, attempt=settings.attempt, token=token, bucket=settings.s3_bucket)
    return Wiring(link.runfile(), connect(settings), link)


def wire_local(options: argparse.Namespace) -> Wiring:
    """Everything from this machine's files."""
    from feinschliff.artifacts.directory import DirectoryStore
    from feinschliff.trainer.link import FileLink

    runfile = Runfile.model_validate_json(options.runfile.read_bytes())
    return Wiring(runfile, DirectoryStore(options.store), FileLink(options.reports))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="feinschliff-trainer", description=__doc__)
    parser.add_argument("--runfile", type=Path, help="train this runfile without any service")
    parser.add_argument("--store", type=Path, default=Path("store"), help="with --runfile: folder of artifacts")
    parser.add_argument("--reports", type=Path, default=Path("reports.jsonl"), help="with --runfile: reports go here")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
