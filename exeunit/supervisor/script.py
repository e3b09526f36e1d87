"""Turn the commands of an `Exec` into ones that can be run, or refuse the whole batch before anything happens. No I/O.

What a command means is fixed here (which output is kept, how often progress is told, where a transfer goes); what it
does is the driver's. `protocols.activity.messages.decode_exe_script` has checked the form.

Errors: `ScriptError`, with the place of the command.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

import msgspec

from exeunit.supervisor.capture import EVERYTHING, CaptureSpec, capture_spec
from exeunit.transfer.errors import BadLocation
from exeunit.transfer.location import Location, container_path, parse_location
from protocols.activity.messages import (
    MAX_SCRIPT_COMMANDS,
    Deploy,
    ExeScriptCommand,
    Progress,
    Run,
    ScriptError,
    Start,
    Transfer,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCHEMES: Final = frozenset({"container", "gftp", "http", "https"})
"""What a script may copy from and to. `file` is this machine's own and never among them."""
DEFAULT_PROGRESS_S: Final = 1.0
_MIN_PROGRESS_S: Final = 0.1
_MAX_TIMEOUT_S: Final = 30 * 86_400.0
_MAX_VOLUMES: Final = 32
_MAX_ARGUMENT_BYTES: Final = 120 << 10
"""Linux takes 128 KiB for one argument."""

_DURATION: Final = re.compile(r"\s*(\d{1,12})\s*([a-z]+)")
_UNITS: Final = {
    "nsec": 1e-9, "ns": 1e-9, "usec": 1e-6, "us": 1e-6, "msec": 1e-3, "ms": 1e-3,
    "seconds": 1, "second": 1, "sec": 1, "s": 1, "minutes": 60, "minute": 60, "min": 60, "m": 60,
    "hours": 3600, "hour": 3600, "hr": 3600, "h": 3600,
}  # fmt: skip


class Command(msgspec.Struct, frozen=True):
    """One command, understood."""

    name: str
    source: ExeScriptCommand
    """As it came; events and the list of running commands show it."""
    stdout: CaptureSpec = EVERYTHING
    stderr: CaptureSpec = EVERYTHING
    timeout: float | None = None
    """Seconds that it may take."""
    progress: float | None = None
    """Seconds between two progress events; none if they were not asked for."""
    places: tuple[Location, Location] | None = None
    """Of a transfer: from and to."""

    @property
    def params(self) -> tuple[str, ...]:
        """What to show of it while it runs."""
        match self.source:
            case ExeScriptCommand(run=Run() as run):
                return (run.entry_point, *run.args)
            case ExeScriptCommand(transfer=Transfer()):
                assert self.places is not None
                return tuple(str(place) for place in self.places)
            case ExeScriptCommand(start=Start() as start):
                return start.args
        return ()


def check_script(commands: Sequence[ExeScriptCommand]) -> tuple[Command, ...]:
    """Understand a script.

    Raises:
        ScriptError: too long, or a command that could never work.
    """
    if not commands:
        raise ScriptError("the script has no commands")
    if len(commands) > MAX_SCRIPT_COMMANDS:
        raise ScriptError(f"the script has {len(commands)} commands, at most {MAX_SCRIPT_COMMANDS} are taken")
    checked = []
    for index, command in enumerate(commands):
        try:
            checked.append(_check(command))
        except (ValueError, BadLocation) as error:
            raise ScriptError(f"command {index} ({command.name}): {error}") from error
    return tuple(checked)


def _check(command: ExeScriptCommand) -> Command:
    match command:
        case ExeScriptCommand(deploy=Deploy() as deploy):
            return _deploy(command, deploy)
        case ExeScriptCommand(start=Start() as start):
            _check_arguments(start.args)
        case ExeScriptCommand(run=Run() as run):
            return _run(command, run)
        case ExeScriptCommand(transfer=Transfer() as transfer):
            return _transfer(command, transfer)
    return Command(command.name, command)


def _deploy(command: ExeScriptCommand, deploy: Deploy) -> Command:
    _check_environment(deploy.env)
    if deploy.hostname is not None and not re.fullmatch(r"[A-Za-z0-9-]{1,63}", deploy.hostname):
        raise ValueError("the hostname is not one")
    volumes = deploy.volumes or ()
    if len(volumes) > _MAX_VOLUMES:
        raise ValueError(f"more than {_MAX_VOLUMES} volumes")
    if isinstance(volumes, dict):
        for path, kind in volumes.items():
            if len(kind) != 1 or not set(kind) <= {"host", "ram", "storage"}:
                raise ValueError(f"volume {path[:64]!r} is not one of 'host', 'ram' and 'storage'")
            if path.strip("/") == "" and "host" in kind:
                raise ValueError("the volume '/' cannot be of the kind 'host'")
    return Command("deploy", command, progress=_interval(deploy.progress))


def _run(command: ExeScriptCommand, run: Run) -> Command:
    _check_arguments((run.entry_point, *run.args))
    if not run.entry_point:
        raise ValueError("the entry point is empty")
    _check_environment(run.env)
    if run.timeout is not None and not 0 < run.timeout <= _MAX_TIMEOUT_S:
        raise ValueError(f"the timeout must be more than 0 and at most {_MAX_TIMEOUT_S:.0f} seconds")
    capture = run.capture
    return Command(
        "run",
        command,
        stdout=capture_spec(capture.stdout if capture else None),
        stderr=capture_spec(capture.stderr if capture else None),
        timeout=run.timeout,
    )


def _transfer(command: ExeScriptCommand, transfer: Transfer) -> Command:
    if transfer.format is not None:
        raise ValueError("archives are not packed or unpacked on the way; transfer the files one by one")
    places = (parse_location(transfer.from_, "container"), parse_location(transfer.to, "container"))
    for place in places:
        if place.scheme not in SCHEMES:
            raise BadLocation(f"the scheme {place.scheme[:32]!r} is not one of {', '.join(sorted(SCHEMES))}")
        if place.scheme == "container":
            container_path(place.url)
    return Command("transfer", command, progress=_interval(transfer.progress), places=places)


def _check_arguments(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if "\0" in argument:
            raise ValueError("an argument holds a zero byte")
        if len(argument.encode("utf-8", "surrogatepass")) > _MAX_ARGUMENT_BYTES:
            raise ValueError(
                f"an argument has more than {_MAX_ARGUMENT_BYTES} bytes; use a transfer for data"
            )


def _check_environment(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"{name[:64]!r} cannot be the name of an environment variable")
        _check_arguments((f"{name}={value}",))


def _interval(progress: Progress | None) -> float | None:
    if progress is None:
        return None
    if progress.update_interval is None:
        return DEFAULT_PROGRESS_S
    return max(_MIN_PROGRESS_S, duration(progress.update_interval))


def duration(text: str) -> float:
    """Return the seconds in a text such as `300ms` or `1h 30m`.

    Raises:
        ValueError: not a duration.
    """
    at, seconds = 0, 0.0
    while match := _DURATION.match(text, at):
        if match[2] not in _UNITS:
            break
        seconds += int(match[1]) * _UNITS[match[2]]
        at = match.end()
    if at == 0 or text[at:].strip() or not math.isfinite(seconds):
        raise ValueError(f"{text[:32]!r} is not a duration such as '300ms'")
    return seconds
