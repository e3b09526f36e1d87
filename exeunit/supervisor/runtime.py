"""How a runtime is called, and what it answers: the one-shot command line that all runtimes share. No I/O.

A runtime is named by the path of its program, or as `module:NAME` for a Python module of our own, run by this very
interpreter. Modules take three options that the original's runtimes do not know: `--cache-dir`, `--env` and always the
hardware limits.

Errors: `BadAnswer`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from exeunit.supervisor.agreement import Limits
from exeunit.supervisor.journal import TOKEN_VARIABLE
from exeunit.transfer.container import Volume

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from protocols.activity.messages import Deploy, Run, Start

MAX_ANSWER_BYTES: Final = 1 << 20
_MODULE: Final = "module:"
_MAX_VOLUMES: Final = 64

_PASSED_ON: Final = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME",
)  # fmt: skip
"""What a runtime may know of the supervisor's environment, which holds the keys to the node's bus."""


class BadAnswer(Exception):
    """What the runtime printed cannot be understood."""


class RuntimeCommand(msgspec.Struct, frozen=True):
    """A runtime and how to call it for one activity."""

    binary: str
    """Path of a program, or `module:NAME`."""
    extra: tuple[str, ...]
    """Arguments that go before the subcommand, from the runtime's descriptor."""
    workdir: Path
    cache: Path
    limits: Limits
    managed_hardware: bool = False
    """Whether the runtime is told the hardware limits and keeps them itself."""

    @property
    def is_module(self) -> bool:
        """Whether the runtime is a Python module of ours."""
        return self.binary.startswith(_MODULE)

    @property
    def keeps_limits(self) -> bool:
        """Whether the runtime enforces memory and storage limits itself."""
        return self.managed_hardware or self.is_module

    def program(self) -> list[str]:
        """Return the program and its first arguments, without any of the activity."""
        if self.is_module:
            # -P: the current directory is the activity's, and nothing may be imported from there.
            return [sys.executable, "-P", "-m", self.binary.removeprefix(_MODULE)]
        return [self.binary]

    def deploy(self, package: Path | None, deploy: Deploy) -> list[str]:
        """Return the command line for `deploy`."""
        options: list[str] = []
        if deploy.volumes:
            options += ["--volume-override", msgspec.json.encode(deploy.volumes).decode()]
        if deploy.hostname is not None:
            options += ["--hostname", deploy.hostname]
        return [*self._common(package), *options, *self.extra, "deploy", "--"]

    def start(self, package: Path | None, start: Start) -> list[str]:
        """Return the command line for `start`."""
        return [*self._common(package), *self.extra, "start", "--", *start.args]

    def run(self, package: Path | None, run: Run, environment: Mapping[str, str]) -> list[str]:
        """Return the command line for `run`; `environment` is that of deploy, which the command's own tops."""
        options: list[str] = []
        if self.is_module:
            for name, value in {**environment, **run.env}.items():
                options += ["--env", f"{name}={value}"]
        entry_point = ["--entrypoint", run.entry_point]
        return [*self._common(package), *self.extra, "run", *entry_point, *options, "--", *run.args]

    def subcommand(self, name: str) -> list[str]:
        """Return the command line for `offer-template` or `test`."""
        return [*self.program(), *self.extra, name]

    def _common(self, package: Path | None) -> list[str]:
        line = [*self.program(), "--workdir", str(self.workdir)]
        if package is not None:
            line += ["--task-package", str(package)]
        if self.keeps_limits:
            limits = self.limits
            if limits.cpu_threads is not None:
                line += ["--cpu-cores", str(limits.cpu_threads)]
            if limits.memory_gib is not None:
                line += ["--mem-gib", repr(limits.memory_gib)]
            if limits.storage_gib is not None:
                line += ["--storage-gib", repr(limits.storage_gib)]
        if self.is_module:
            line += ["--cache-dir", str(self.cache / "compiled")]
        return line


def child_environment(token: str) -> dict[str, str]:
    """Return the environment of a runtime's process; `token` marks it as the activity's."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**passed_on, TOKEN_VARIABLE: token}


class _Answer(msgspec.Struct, rename="camel"):
    valid: Any = None
    vols: tuple[dict[str, str], ...] = ()
    start_mode: str = "empty"


def deploy_answer(stdout: bytes, workdir: Path) -> tuple[Volume, ...]:
    """Return the volumes that `deploy` reports on its stdout.

    Text before the first `{` is skipped and nothing at all is allowed, as the original has it.

    Raises:
        BadAnswer: not JSON, a volume outside of the work directory, or a runtime that wants service mode.
    """
    at = stdout.find(b"{")
    if at < 0:
        return ()
    try:
        answer, _ = _decode_first(stdout[at:])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadAnswer(f"the runtime's answer to deploy is not understood: {error}") from error
    if answer.start_mode != "empty":
        raise BadAnswer(
            f"the runtime wants the start mode {answer.start_mode[:32]!r}; only 'empty' is offered"
        )
    if isinstance(answer.valid, dict) and "Err" in answer.valid:
        raise BadAnswer(f"the runtime finds the image invalid: {str(answer.valid['Err'])[:500]}")
    if len(answer.vols) > _MAX_VOLUMES:
        raise BadAnswer(f"the runtime reports {len(answer.vols)} volumes, at most {_MAX_VOLUMES} are taken")
    return tuple(_volume(volume, workdir) for volume in answer.vols)


def _decode_first(data: bytes) -> tuple[_Answer, bytes]:
    """Decode the JSON at the start of `data`; runtimes may print a line after it."""
    try:
        return msgspec.json.decode(data, type=_Answer), b""
    except msgspec.DecodeError:
        end = data.rindex(b"}") + 1 if b"}" in data else len(data)
        return msgspec.json.decode(data[:end], type=_Answer), data[end:]


def _volume(volume: dict[str, str], workdir: Path) -> Volume:
    name, path = volume.get("name", ""), volume.get("path", "")
    if not name or "/" in name or name in (".", "..") or "\0" in name:
        raise BadAnswer(
            f"the runtime names a volume {name[:64]!r}, which is no directory of the work directory"
        )
    return Volume("/" + path.strip("/"), str(workdir / name))


def offer_template(stdout: bytes, counters: Sequence[str]) -> dict[str, Any]:
    """Merge the runtime's offer template over the supervisor's own.

    A runtime that prints nothing useful has an empty template, as the original has it.
    """
    own: dict[str, Any] = {
        "golem.com.usage.vector": list(counters),
        "golem.activity.caps.transfer.protocol": ["gftp", "http", "https"],
        "golem.activity.caps.transfer.report-progress": True,
        "golem.activity.caps.deploy.report-progress": True,
    }
    template: Any = {}
    at = stdout.find(b"{")
    if at >= 0:
        try:
            template = msgspec.json.decode(stdout[at : stdout.rindex(b"}") + 1] if b"}" in stdout else b"{}")
        except msgspec.DecodeError:
            template = {}
    properties = template.get("properties")
    constraints = template.get("constraints")
    return {
        "properties": {**own, **(properties if isinstance(properties, dict) else {})},
        "constraints": constraints if isinstance(constraints, str) else "",
    }
