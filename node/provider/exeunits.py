"""Starts exe-unit supervisors as processes, and sees to it that none outlives its node.

A supervisor gets its own session and process group, a token for the bus and one for the bulk socket, both of
which die with it. It kills its runtime when its connection to the node ends; a supervisor that a crashed node
left behind is swept at the next start from the journal in its work folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import msgspec
import trio

from protocols.activity.launcher import LaunchError
from protocols.activity.messages import REPORT_SERVICE, exeunit_service

if TYPE_CHECKING:
    from pathlib import Path

    import structlog.typing

    from node.provider.runtimes import RuntimeDescriptor
    from p2p.bus.api import Caller
    from p2p.bus.door import Door
    from p2p.entropy import Entropy
    from protocols.files.bulk import BulkSocket
    from protocols.market.messages import AgreementView

STOP_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL (the Golem agent's PROCESS_TERMINATION_TIMEOUT)."""


class SupervisorProcess:
    """A running supervisor."""

    def __init__(self, process: trio.Process, released: _Access) -> None:
        self._process = process
        self._access = released
        self._gone = trio.Event()

    async def wait(self) -> str:
        try:
            code = await self._process.wait()
        finally:
            self._access.release()
            self._gone.set()
        # Whatever of its group is left has lost its parent; nothing of it may go on working.
        _kill_group(self._process.pid)
        if code == 0:
            return "the exe-unit ended"
        if code < 0:
            return f"the exe-unit was killed by {_signal_name(-code)}"
        return f"the exe-unit failed with exit code {code}"

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
            with trio.move_on_after(STOP_GRACE):
                await self._process.wait()
        if self._process.returncode is None:
            _kill_group(self._process.pid)
            await self._process.wait()
        await self._gone.wait()


class _Access:
    """What one supervisor may do; given back at its end."""

    def __init__(self, door: Door, bus_token: str, bulk: BulkSocket, bulk_token: str) -> None:
        self._door = door
        self._bus_token = bus_token
        self._bulk = bulk
        self._bulk_token = bulk_token

    def release(self) -> None:
        self._door.revoke(self._bus_token)
        self._bulk.forbid(self._bulk_token)


class SupervisorLauncher:
    """Starts supervisors below `folder`; an `ExeUnitLauncher`."""

    def __init__(
        self,
        folder: Path,
        door: Door,
        bulk: BulkSocket,
        runtimes: dict[str, RuntimeDescriptor],
        entropy: Entropy,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._folder = folder
        self._door = door
        self._bulk = bulk
        self._runtimes = runtimes
        self._entropy = entropy
        self._log = log

    async def launch(self, activity_id: str, agreement: AgreementView) -> SupervisorProcess:
        offer = msgspec.json.decode(agreement.offer_properties)
        name = offer.get("golem.runtime.name", "")
        runtime = self._runtimes.get(name)
        if runtime is None:
            raise LaunchError(f"no runtime {name!r} here")
        work = self._folder / "work" / agreement.agreement_id / activity_id
        document = work.parent / "agreement.json"
        try:
            work.mkdir(parents=True, mode=0o700)
            document.write_bytes(_agreement_json(agreement, offer))
            log_file = (work.parent / f"{activity_id}.log").open("ab")
        except OSError as error:
            raise LaunchError(f"cannot make the work folder: {error}") from error
        requestor = agreement.requestor_id

        def admits(caller: Caller) -> bool:
            return caller.node_id == requestor or (caller.local and caller.child in ("", activity_id))

        token = self._door.issue(
            activity_id,
            may_register=[exeunit_service(activity_id)],
            may_call=[REPORT_SERVICE],
            serves=admits,
        )
        bulk_token = self._entropy.token_bytes(32).hex()
        self._bulk.allow(bulk_token)
        access = _Access(self._door, token, self._bulk, bulk_token)
        command = runtime.command(
            "service-bus", activity_id, REPORT_SERVICE,
            "-a", str(document), "-w", str(work), "-c", str(self._folder / "cache"),
        )  # fmt: skip
        environment = {
            **_passed_on(os.environ),
            "GSB_URL": f"unix:{self._door.path}",
            "GOLEM_P2P_BUS_TOKEN": token,
            "GOLEM_P2P_BULK": str(self._bulk.path),
            "GOLEM_P2P_BULK_TOKEN": bulk_token,
        }
        try:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env=environment,
                cwd=work,
                start_new_session=True,
            )
        except OSError as error:
            access.release()
            raise LaunchError(f"cannot start {command[0]}: {error.strerror}") from error
        except BaseException:
            access.release()
            raise
        finally:
            log_file.close()
        self._log.info("exe-unit started", activity=activity_id, pid=process.pid, runtime=name)
        return SupervisorProcess(process, access)

    async def sweep(self) -> None:
        # The journal is the supervisors' own; each kind is asked to clear up after its kind.
        for supervisor in {runtime.supervisor_program for runtime in self._runtimes.values()}:
            try:
                done = await trio.run_process(
                    [*supervisor, "sweep", str(self._folder)],
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                )
            except OSError as error:
                self._log.warning("leftovers were not swept", error=str(error))
                continue
            for line in done.stdout.decode(errors="replace").splitlines():
                self._log.warning("left over from an earlier run", what=line)


def _agreement_json(agreement: AgreementView, offer: dict[str, object]) -> bytes:
    return msgspec.json.encode(
        {
            "agreementId": agreement.agreement_id,
            "state": agreement.state.value,
            "offer": {
                "properties": offer,
                "constraints": agreement.offer_constraints,
                "offerId": agreement.offer_id,
                "providerId": agreement.provider_id,
            },
            "demand": {
                "properties": msgspec.json.decode(agreement.demand_properties),
                "constraints": agreement.demand_constraints,
                "demandId": agreement.demand_id,
                "requestorId": agreement.requestor_id,
            },
        }
    )


_PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "PYTHONHASHSEED",
)


def _passed_on(environ: os._Environ[str]) -> dict[str, str]:
    """Return what a supervisor inherits: never keys, passwords or tokens of the node."""
    return {name: environ[name] for name in _PASSED_ON if name in environ}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals
        return f"signal {number}"


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
