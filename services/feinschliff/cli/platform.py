"""`feinschliff up`, `down`, `status`: the platform on this machine."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Group

from feinschliff.cli import launch, readiness
from feinschliff.cli.errors import REFUSED
from feinschliff.cli.output import Output, facts, seconds, table
from feinschliff.cli.ports import check_free
from feinschliff.cli.services import settings_of_running
from feinschliff.cli.session import Json
from feinschliff.cli.settings import ROOMS, PlatformSettings, platform_settings, with_free_ports
from feinschliff.cli.state import Child, Phase, PlatformState, is_owned, read_state
from feinschliff.cli.supervisor import Supervisor, open_log, stop_on_signals, sweep
from feinschliff.kit.errors import Unavailable


def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return once all is ready; `down` stops it.")] = False,
    as_json: Json = False,
) -> None:
    """Start the platform on this machine; Ctrl-C stops it. Ports and folders are set by environment."""
    output = Output(as_json=as_json)
    settings = platform_settings()
    home = settings.home.absolute()
    if is_owned(home):
        output.note(f"A platform runs in {home} already.")
        if launch.wait_until_ready(home) is None:
            raise Unavailable("PLATFORM_NOT_READY", f"It does not become ready; see {home / 'logs'}.", home=home)
        _show(output, settings_of_running())
        return
    sweep(settings)
    settings = with_free_ports(settings)
    check_free(settings)
    if detach:
        launch.start_in_background(home, {}, told=lambda state: _tell(output, state))
        _show(output, settings_of_running())
        return
    open_log(settings)
    supervisor = Supervisor(settings, lambda state: _tell_foreground(output, settings, state))
    stop_on_signals(supervisor)
    supervisor.run()
    output.note("stopped")


def down(as_json: Json = False) -> None:
    """Stop what `up` started: services first, then trainers, which save their work and go on at the next `up`."""
    output = Output(as_json=as_json)
    settings = platform_settings()
    stopped = launch.stop_platform(settings)
    home = str(settings.home.absolute())
    text = f"The platform in {home} is stopped." if stopped else f"No platform runs in {home}."
    output.show({"home": home, "stopped": stopped}, lambda: text)


def status(as_json: Json = False) -> None:
    """Show what runs and where; exit 1 where something is not ready."""
    output = Output(as_json=as_json)
    settings = settings_of_running()
    _show(output, settings)
    if not readiness.is_ready(readiness.look(settings)):
        raise typer.Exit(REFUSED)


def snapshot(settings: PlatformSettings) -> dict[str, object]:
    """What runs in the home, for programs."""
    home = settings.home.absolute()
    state = read_state(home)
    is_running = state is not None and state.is_running
    seen = readiness.look(settings)
    return {
        "home": str(home),
        "running": is_running,
        "phase": str(state.phase) if state is not None and is_running else "stopped",
        "since": state.since.isoformat() if state is not None and is_running else None,
        "services": {
            room: {
                "address": settings.gateway_url if room == "gateway" else settings.address_of(room),
                "metrics": f"http://{settings.bind_host}:{getattr(settings, f'{room}_metrics_port')}/metrics",
                "health": seen[room],
            }
            for room in ROOMS
        },
        "s3": {"endpoint": settings.s3_endpoint, "bucket": settings.s3_bucket},
        "openai_base_url": f"{settings.gateway_url}/v1",
        "processes": {
            name: _process(child) for name, child in (state.children if state and is_running else {}).items()
        },
        "logs": str(home / "logs"),
    }


def _process(child: Child) -> dict[str, object]:
    process = child.process.find() if child.process is not None else None
    memory = process.memory_info().rss if process is not None else 0
    return {"pid": process.pid if process else None, "restarts": child.restarts, "rss_bytes": memory}


def _show(output: Output, settings: PlatformSettings) -> None:
    data = snapshot(settings)
    output.show(data, lambda: _rendered(data))


def _rendered(data: dict[str, object]) -> Group:
    services, processes = data["services"], data["processes"]
    assert isinstance(services, dict)
    assert isinstance(processes, dict)
    since = datetime.fromisoformat(str(data["since"])) if data["since"] else None
    return Group(
        facts(
            {
                "platform": f"{data['phase']}, for {seconds((datetime.now(UTC) - since).total_seconds())}"
                if since
                else data["phase"],
                "home": data["home"],
                "OpenAI API": data["openai_base_url"],
                "logs": data["logs"],
            }
        ),
        table(
            ("SERVICE", "ADDRESS", "HEALTH", "METRICS"),
            ((room, one["address"], one["health"], one["metrics"]) for room, one in services.items()),
        ),
        table(
            ("PROCESS", "#PID", "#MEMORY", "#RESTARTS"),
            (
                (name, one["pid"] or "-", f"{one['rss_bytes'] / 1e6:.0f} MB", one["restarts"])
                for name, one in processes.items()
            ),
        ),
    )


def _tell(output: Output, state: PlatformState) -> None:
    waiting = [name for name, child in state.children.items() if child.process is None]
    if state.phase is Phase.STARTING and waiting:
        output.note(f"starting {', '.join(waiting)}")


def _tell_foreground(output: Output, settings: PlatformSettings, state: PlatformState) -> None:
    if state.phase is Phase.READY and all(child.process is not None for child in state.children.values()):
        _show(output, settings)
    elif state.phase is Phase.STOPPING:
        output.note("stopping")
