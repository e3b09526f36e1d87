"""What is said about an activity: between the two nodes, and between a node and its supervisors.

Three conversations share these structs. The requestor's node asks the provider's `/public/activity` to create
and destroy activities. Either node, on behalf of the requestor, talks to the supervisor at
`/public/exeunit/<activityId>`. The supervisor reports to its own node at `/local/activity`. Every struct
encodes to the JSON that SDKs know (camel case, except the runtime events, which are snake case there),
so the REST edge passes values on unchanged.

Nothing here decides anything: `decode_exe_script` checks form only, and is here because the requestor's node
(to answer 400 at once) and the supervisor (which trusts nobody) must agree on what a script is.

Errors: `ScriptError` (a `ValueError`) for a script that is no script.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

PROTOCOL: Final = "activity"
"""Name of the protocol, as in `/golem-p2p/<network>/activity/1`."""
VERSION: Final = 1
"""Major version: bumped only when an old peer could misread a message."""

ACTIVITY_SERVICE: Final = "/public/activity"
"""Where a provider's node takes `CreateActivity` and `DestroyActivity`."""
REPORT_SERVICE: Final = "/local/activity"
"""Where a supervisor's own node takes `SetActivityState` and `SetActivityUsage`."""

MAX_SCRIPT_BYTES: Final = 1 << 20
"""Longest exe script text. Larger inputs belong into a transfer; Linux takes about 2 MiB of arguments."""
MAX_SCRIPT_COMMANDS: Final = 1024
"""Most commands in one script; the event log and the results of a batch are sized for it."""

COMMAND_NAMES: Final = ("sign", "deploy", "start", "run", "transfer", "terminate")
"""Every command of an exe script, in the order in which the original lists them."""


def exeunit_service(activity_id: str) -> str:
    """Return the bus address at which the supervisor of `activity_id` listens."""
    return f"/public/exeunit/{activity_id}"


class ScriptError(ValueError):
    """The text is not an exe script; the message says where and why."""


# --- state and usage ----------------------------------------------------------------------------------------


class State(enum.Enum):
    """One half of an activity's state pair."""

    NEW = "New"
    INITIALIZED = "Initialized"
    DEPLOYED = "Deployed"
    READY = "Ready"
    UNRESPONSIVE = "Unresponsive"
    TERMINATED = "Terminated"


class ActivityState(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """State of an activity as both sides see it."""

    state: tuple[State, State | None]
    """The present state, and the one that a running command leads to."""
    reason: str | None = None
    """Why the activity is terminated; absent otherwise."""
    error_message: str | None = None
    """What went wrong, when something did."""

    @property
    def alive(self) -> bool:
        """Whether neither half is `Terminated`."""
        return State.TERMINATED not in self.state


class ActivityUsage(msgspec.Struct, frozen=True, rename="camel"):
    """One sample of what the activity has used so far."""

    current_usage: tuple[float, ...] | None
    """One value for each name in the agreement's `golem.com.usage.vector`, in that order."""
    timestamp: int
    """When it was measured, in whole seconds UTC since the epoch."""


# --- exe script ---------------------------------------------------------------------------------------------


class Progress(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Asks for progress events."""

    update_interval: str | None = None
    """Least time between two events, such as `300ms`; one second if absent."""
    update_step: int | None = None
    """Least progress between two events, in bytes."""


class DeployNetwork(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A virtual network that the activity should join."""

    id: str
    """Network id, 32 hex digits."""
    ip: str
    """Network address."""
    node_ip: str = ""
    """Address of this activity in the network."""
    mask: str | None = None
    gateway: str | None = None
    nodes: dict[str, str] = {}
    """Address to node id of the other members."""


class Deploy(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Make the image ready to start."""

    net: tuple[DeployNetwork, ...] = ()
    hosts: dict[str, str] = {}
    """Host name to address."""
    hostname: str | None = None
    volumes: tuple[str, ...] | dict[str, dict[str, Any]] | None = None
    """Extra volumes: guest paths, or guest path to `{"host": {}}`, `{"ram": ..}` or `{"storage": ..}`."""
    env: dict[str, str] = {}
    """Environment for every later `run`."""
    progress: Progress | None = None


class Start(msgspec.Struct, frozen=True, omit_defaults=True):
    """Start the runtime."""

    args: tuple[str, ...] = ()


class CapturePart(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How one output stream is captured; the limits are bytes and at most one may be given."""

    head: int | None = None
    """Keep the first so many bytes."""
    tail: int | None = None
    """Keep the last so many bytes."""
    head_tail: int | None = None
    """Keep half of it from the start and half from the end."""
    limit: int | None = None
    """For a stream: keep and send the first so many bytes."""
    format: Literal["str", "string", "bin", "binary"] | None = None
    """Text (the default) or an array of bytes."""


class CaptureMode(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Either `atEnd` or `stream`."""

    at_end: CapturePart | UnsetType = UNSET
    stream: CapturePart | UnsetType = UNSET


class Capture(msgspec.Struct, frozen=True, omit_defaults=True):
    """What of a command's output is wanted; what is absent is thrown away."""

    stdout: CaptureMode | None = None
    stderr: CaptureMode | None = None


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """Run one command inside the started runtime."""

    entry_point: str
    """Name of an entry point of a WASM image, or path of a program in a container or VM."""
    args: tuple[str, ...] = ()
    capture: Capture | None = None
    env: dict[str, str] = {}
    """Environment of this command, over that of `deploy`. The original drops it; our runtimes honour it."""
    timeout: float | None = None
    """Seconds after which the command is ended and fails. An extension: absent in scripts of Golem's SDKs."""


class FileSet(msgspec.Struct, frozen=True, omit_defaults=True):
    """A selection of files below a directory."""

    desc: str | None = None
    includes: str | tuple[str, ...] = ()
    excludes: str | tuple[str, ...] = ()


class Transfer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Copy between the activity and the world."""

    from_: str = msgspec.field(name="from")
    to: str
    format: str | None = None
    """Archive format, such as `tar.gz`, when a directory travels."""
    depth: int | None = None
    fileset: str | FileSet | tuple[str | FileSet, ...] | None = None
    progress: Progress | None = None


class Empty(msgspec.Struct, frozen=True):
    """The body of a command without arguments."""


class ExeScriptCommand(msgspec.Struct, frozen=True, omit_defaults=True):
    """One command: exactly one field is set, and its name is the command's name."""

    sign: Empty | UnsetType = UNSET
    deploy: Deploy | UnsetType = UNSET
    start: Start | UnsetType = UNSET
    run: Run | UnsetType = UNSET
    transfer: Transfer | UnsetType = UNSET
    terminate: Empty | UnsetType = UNSET

    @property
    def name(self) -> str:
        """Name of the command, one of `COMMAND_NAMES`."""
        return next(name for name in COMMAND_NAMES if getattr(self, name) is not UNSET)

    def __post_init__(self) -> None:
        if sum(getattr(self, name) is not UNSET for name in COMMAND_NAMES) != 1:
            raise ValueError(f"a command has exactly one of the keys {', '.join(COMMAND_NAMES)}")


def decode_exe_script(text: str | bytes) -> tuple[ExeScriptCommand, ...]:
    """Read the JSON text of an exe script.

    Keys that a command does not know are ignored, as the original does; an unknown command is refused.

    Raises:
        ScriptError: too long, not JSON, not an array of single-key objects, or a body of the wrong form.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > MAX_SCRIPT_BYTES:
        raise ScriptError(f"the script has {len(data)} bytes, at most {MAX_SCRIPT_BYTES} are taken")
    try:
        commands = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ScriptError(f"the script is not JSON: {error}") from error
    if not isinstance(commands, list):
        raise ScriptError("the script is not a JSON array of commands")
    if len(commands) > MAX_SCRIPT_COMMANDS:
        raise ScriptError(f"the script has {len(commands)} commands, at most {MAX_SCRIPT_COMMANDS} are taken")
    return tuple(_command(index, value) for index, value in enumerate(commands))


def _command(index: int, value: Any) -> ExeScriptCommand:
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ScriptError(f"command {index} is not an object with exactly one key")
    (name,) = value
    if name not in COMMAND_NAMES:
        expected = ", ".join(f"`{known}`" for known in COMMAND_NAMES)
        raise ScriptError(f"command {index}: unknown variant `{str(name)[:64]}`, expected one of {expected}")
    try:
        return msgspec.convert(value, ExeScriptCommand)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ScriptError(f"command {index} ({name}): {error}") from error


# --- results and events -------------------------------------------------------------------------------------

CapturedOutput = str | tuple[int, ...] | None
"""Text, an array of bytes when the format is binary, or nothing."""


class CommandResult(enum.Enum):
    """How a command ended."""

    OK = "Ok"
    ERROR = "Error"


class ExeScriptCommandResult(msgspec.Struct, frozen=True, rename="camel"):
    """Result of one finished command of a batch; absent values are present as null."""

    index: int
    """Place of the command in its batch, from 0."""
    result: CommandResult
    stdout: CapturedOutput
    stderr: CapturedOutput
    message: str | None
    """Why the command failed, or a note on how it ended."""
    is_batch_finished: bool
    """Whether no later result of this batch will come."""
    event_date: datetime
    """When it ended, in UTC."""


class CommandStarted(msgspec.Struct, frozen=True):
    """A command begins."""

    command: ExeScriptCommand


class CommandFinished(msgspec.Struct, frozen=True):
    """A command has ended."""

    return_code: int
    """Exit code of the runtime, or -1 when the supervisor failed it."""
    message: str | None


class CommandProgress(msgspec.Struct, frozen=True):
    """How far a command is."""

    step: tuple[int, int]
    """Steps done, and steps in all."""
    message: str | None
    progress: tuple[int, int | None]
    """Units done in this step, and units in all if known."""
    unit: str | None
    """What is counted, such as `Bytes`."""


class RuntimeEventKind(msgspec.Struct, frozen=True, omit_defaults=True):
    """What happened: exactly one field is set."""

    started: CommandStarted | UnsetType = UNSET
    finished: CommandFinished | UnsetType = UNSET
    stdout: str | tuple[int, ...] | UnsetType = UNSET
    stderr: str | tuple[int, ...] | UnsetType = UNSET
    progress: CommandProgress | UnsetType = UNSET


class RuntimeEvent(msgspec.Struct, frozen=True):
    """One thing that happened while a batch ran, in the form that SDKs read."""

    batch_id: str
    index: int
    """Place of the command in its batch, from 0."""
    timestamp: datetime
    """When, in UTC but without a zone: the original writes it so."""
    kind: RuntimeEventKind


class StreamedEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item of `StreamExecBatchResults`: an event and its place in the batch's log."""

    id: int
    """Number of the event in its batch, from 0; what SSE calls the last event id."""
    event: RuntimeEvent
    missed: int = 0
    """How many events right before this one were dropped because the log was full."""


class RunningCommand(msgspec.Struct, frozen=True, omit_defaults=True):
    """A command that has not ended yet."""

    command: str
    """Name of the command with a capital letter, such as `Run`."""
    progress: str | None = None
    params: tuple[str, ...] | None = None


# --- requests to a supervisor: /public/exeunit/<activityId> -------------------------------------------------


class Exec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Run a batch. The reply is `BatchAccepted`; a repeated batch id is refused as a bad request."""

    activity_id: str
    batch_id: str
    """Chosen by the requestor's node: 32 hex digits."""
    exe_script: tuple[ExeScriptCommand, ...]
    timeout: float | None = None


class BatchAccepted(msgspec.Struct, frozen=True, rename="camel"):
    """The batch is queued or running."""

    batch_id: str


class GetExecBatchResults(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Wait for results. The reply is `BatchResults`."""

    activity_id: str
    batch_id: str
    timeout: float | None = None
    """Seconds to wait at most; none means what there is now."""
    command_index: int | None = None
    """Wait for this command; without it, for the last one."""


class BatchResults(msgspec.Struct, frozen=True):
    """Results of the commands that have ended."""

    results: tuple[ExeScriptCommandResult, ...]


class StreamExecBatchResults(msgspec.Struct, frozen=True, omit_defaults=True):
    """Stream the events of a batch as `StreamedEvent` items, from its beginning to its end."""

    activity_id: str
    batch_id: str
    after: int | None = None
    """Leave out events up to and including this id."""


class GetRunningCommand(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Ask what is running. The reply is `RunningCommands`."""

    activity_id: str
    timeout: float | None = None


class RunningCommands(msgspec.Struct, frozen=True):
    """One entry for each batch with an unfinished command."""

    commands: tuple[RunningCommand, ...]


class GetActivityState(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Ask for the state. The reply is `ActivityState`."""

    activity_id: str
    timeout: float | None = None


class GetActivityUsage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Ask for a fresh usage sample. The reply is `ActivityUsage`."""

    activity_id: str
    timeout: float | None = None


class Terminate(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """End the activity in good order. The reply is `Done`, sent before the supervisor exits."""

    activity_id: str
    reason: str | None = None


class Done(msgspec.Struct, frozen=True):
    """It was done; there is nothing more to say."""


# --- reports of a supervisor to its node: /local/activity ---------------------------------------------------


class SetActivityState(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Report a change of state. The reply is `Done`."""

    activity_id: str
    state: ActivityState
    timeout: float | None = None


class SetActivityUsage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Report usage; sent every second, and taken as the sign of life. The reply is `Done`."""

    activity_id: str
    usage: ActivityUsage
    timeout: float | None = None


# --- from the requestor's node to the provider's: /public/activity ------------------------------------------


class CreateActivity(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Ask the provider for an activity under an approved agreement. The reply is `ActivityCreated`."""

    provider: str
    """Node id of the provider, 0x and 40 hex digits."""
    agreement_id: str
    timeout: float | None = None
    """Seconds the requestor will wait; the provider gives up the activity after that."""


class ActivityCreated(msgspec.Struct, frozen=True, rename="camel"):
    """The supervisor is up and has reported `Initialized`."""

    activity_id: str
    """32 hex digits."""


class DestroyActivity(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """End an activity; idempotent. The reply is `Done`, once the activity is terminated."""

    activity_id: str
    agreement_id: str | None = None
    timeout: float | None = None


class ErrorCode(enum.Enum):
    """Names under which a supervisor or the provider's node refuses a request."""

    SERVICE = "service"
    ACTIVITY = "activity"
    BAD_REQUEST = "badRequest"
    USAGE_LIMIT_EXCEEDED = "usageLimitExceeded"
    NOT_FOUND = "notFound"
    FORBIDDEN = "forbidden"
    TIMEOUT = "timeout"


# --- the node's own parts: /local/activity ------------------------------------------------------------------


class GetActivityAgreement(msgspec.Struct, frozen=True, rename="camel"):
    """Ask under which agreement an activity runs, or ran. The reply is `ActivityAgreement`, or `notFound`."""

    activity_id: str


class ActivityAgreement(msgspec.Struct, frozen=True, rename="camel"):
    """The agreement of an activity."""

    agreement_id: str


class ListActivities(msgspec.Struct, frozen=True, rename="camel"):
    """Ask for the activities under an agreement, on either side. The reply is `Activities`."""

    agreement_id: str


class ActivityView(msgspec.Struct, frozen=True, rename="camel"):
    """An activity as this node has it."""

    activity_id: str
    alive: bool
    usage: tuple[float, ...]
    """The last sample, in the order of the agreement's usage vector; empty on the requestor's side."""


class Activities(msgspec.Struct, frozen=True, rename="camel"):
    """The activities under one agreement, oldest first."""

    activities: tuple[ActivityView, ...]
