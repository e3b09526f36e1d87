"""`Door`: the bus on a unix socket, for exe-unit supervisors and the command line.

Whoever connects says a token first. The owner's token opens everything; a child's token, issued to a subject
such as an activity id, opens what it was issued for. A child may register endpoints, which the node's router
then serves by calling back over the same connection; when the connection ends they are gone. The socket is
open to its owner's processes alone; the token is what tells one of them from another.

Errors: `DoorTaken` if another process answers on the socket; `OSError` if it cannot be made there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import trio

from p2p.bus import frames
from p2p.bus.api import BadContent, BusError, Busy, RemoteError
from p2p.bus.frames import FrameReader, Hello, Welcome
from p2p.bus.visitor import Grant, Visitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from p2p.bus.api import Caller
    from p2p.bus.router import LocalBus
    from p2p.entropy import Entropy

TOKEN_BYTES: Final = 32
TOKEN_SUFFIX: Final = ".token"  # noqa: S105 - a file name
"""The owner's token is kept in a file beside the socket, whose name ends so."""
MAX_CONNECTIONS: Final = 256
"""Connections through the door at a time, handshakes included."""
MAX_PER_TOKEN: Final = 8
"""Connections of one child at a time."""
HELLO_TIMEOUT: Final = 5.0
"""Seconds within which a connection says its token."""
MAX_PATH_BYTES: Final = 107
"""Longest path of a unix socket on Linux (`sun_path` is 108 bytes with its final zero)."""

_log = structlog.get_logger("p2p.bus")


class DoorTaken(Exception):
    """Another process answers on the socket."""


class Door:
    """Lets local processes in.

    Args:
        bus: the node's router.
        path: of the socket; its folder exists and is the owner's.
        entropy: makes the tokens.
    """

    def __init__(self, bus: LocalBus, path: str | Path, *, entropy: Entropy) -> None:
        self.path = Path(path)
        self._bus = bus
        self._entropy = entropy
        self._grants: dict[bytes, Grant] = {}
        self._visitors: dict[Visitor, bytes] = {}
        self._connections = 0
        self.owner_token = self._add(Grant())
        """Opens everything. Whoever starts the door stores it: see `store_owner_token`."""

    def __repr__(self) -> str:
        return f"<Door {self.path}, {len(self._visitors)} inside, {len(self._grants) - 1} tokens of children>"

    def issue(
        self,
        subject: str,
        *,
        may_register: Sequence[str] = (),
        may_call: Sequence[str] = (),
        may_publish: Sequence[str] = (),
        may_subscribe: Sequence[str] = (),
        serves: Callable[[Caller], bool] | None = None,
    ) -> str:
        """Return a new token for a child process, valid until revoked or the node stops.

        Args:
            subject: who it is for, such as an activity id; its calls carry it as `Caller.child`.
            may_register: prefixes at or below which it may serve, such as `/public/exeunit/<id>`.
            may_call: prefixes at or below which it may call, such as `/local/activity` or `/net`.
                This node's own `/net/<id>/x` counts as `/public/x`.
            may_publish: topics, with segments parted by `/` as in an address.
            may_subscribe: topics.
            serves: whom its endpoints answer; None for everyone that reaches them.
        """
        if not subject:
            raise ValueError("a child's token needs a subject: without one it would be the owner's")
        return self._add(
            Grant(
                subject,
                tuple(may_register),
                tuple(may_call),
                tuple(may_publish),
                tuple(may_subscribe),
                serves,
            )
        )

    def revoke(self, token: str) -> None:
        """Take a token back and drop whoever came in by it. Nothing happens if it is not known."""
        digest = _digest(token)
        self._grants.pop(digest, None)
        for visitor, came_by in list(self._visitors.items()):
            if came_by == digest:
                visitor.drop()

    def store_owner_token(self) -> Path:
        """Write the owner's token beside the socket, readable by its owner alone; return where."""
        target = self.path.with_name(self.path.name + TOKEN_SUFFIX)
        fresh = target.with_name(target.name + ".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(self.owner_token + "\n")
        fresh.replace(target)
        return target

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Door]:
        """Listen while the block is open; on leaving, drop everyone and remove the socket.

        Raises:
            DoorTaken: another process answers on the socket, or is about to.
            OSError: the socket cannot be made there.
        """
        listener = _listen(self.path)
        made = _identity(self.path)
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
                await nursery.start(functools.partial(trio.serve_listeners, self._serve, listeners))
                try:
                    yield self
                except BaseException as error:  # raised below as it is, not wrapped by the nursery
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            listener.close()
            _unlink_if_ours(self.path, made)
        if failure is not None:
            raise failure

    def _add(self, grant: Grant) -> str:
        token = self._entropy.token_bytes(TOKEN_BYTES).hex()
        # Kept by its hash, so that the time of a look-up tells nothing of the tokens there are.
        self._grants[_digest(token)] = grant
        return token

    async def _serve(self, stream: trio.SocketStream) -> None:
        self._connections += 1
        try:
            if self._connections > MAX_CONNECTIONS:
                _log.warning("the door is full; a connection was refused", connections=MAX_CONNECTIONS)
            else:
                await self._let_in(stream)
        except Exception as error:
            _log.error("a connection through the door failed", exc_info=error)
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _let_in(self, stream: trio.SocketStream) -> None:
        reader = FrameReader(frames.MAX_HELLO_BYTES)
        try:
            with trio.fail_after(HELLO_TIMEOUT):
                digest = await self._greet(stream, reader)
        except BusError as error:
            _log.warning("the door let somebody not in", error=str(error))
            return
        except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
            _log.warning("the door let somebody not in", error="no hello came in time")
            return
        grant = self._grants.get(digest)
        if grant is None:
            return  # revoked while it was greeted
        reader.max_bytes = frames.MAX_FRAME_BYTES
        visitor = Visitor(self._bus, grant, stream, reader)
        self._visitors[visitor] = digest
        try:
            await visitor.run()
        finally:
            del self._visitors[visitor]

    async def _greet(self, stream: trio.SocketStream, reader: FrameReader) -> bytes:
        hello = await _read_hello(stream, reader)
        digest = _digest(hello.token)
        try:
            grant = self._admit(hello.version, digest)
        except BusError as refusal:
            await stream.send_all(frames.encode(frames.failure(0, refusal)))
            raise
        await stream.send_all(frames.encode(Welcome(self._bus.node_id, grant.subject)))
        return digest

    def _admit(self, version: int, digest: bytes) -> Grant:
        grant = self._grants.get(digest)
        if grant is None:
            raise RemoteError(
                "forbidden",
                "the node does not know this bus token: it is of an earlier run, or was taken back",
            )
        if version != frames.VERSION:
            raise BadContent(f"this node's bus speaks version {frames.VERSION}, not {version}")
        if grant.subject and list(self._visitors.values()).count(digest) >= MAX_PER_TOKEN:
            raise Busy(f"{grant.subject} has {MAX_PER_TOKEN} connections already")
        return grant


async def _read_hello(stream: trio.SocketStream, reader: FrameReader) -> Hello:
    while (frame := reader.next_frame()) is None:
        data = await stream.receive_some(frames.MAX_HELLO_BYTES)
        if not data:
            raise BadContent("the connection ended before it said hello")
        reader.feed(data)
    if not isinstance(frame, Hello):
        raise BadContent(f"a {type(frame).__name__} came before the hello")
    return frame


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _listen(path: Path) -> socket.socket:
    """Return a listening socket at `path`, in the place of a stale one if there is one."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise OSError(
            errno.ENAMETOOLONG,
            f"a unix socket's path may have {MAX_PATH_BYTES} bytes; choose a shorter data directory",
            str(path),
        )
    # The folder is locked meanwhile, so that two nodes do not both find the same socket stale.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DoorTaken(f"another process is making a socket in {path.parent}: try again") from error
        _clear_stale(path)
        return _bind(path)
    finally:
        os.close(folder)


def _clear_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(
            errno.EEXIST, "there is something that is not a socket; move it away", str(path)
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody is there
    raise DoorTaken(f"another node answers on {path}: stop it, or choose another data directory")


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)  # nobody can connect before listen(), so no umask need be changed for this
        listener.listen(128)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _unlink_if_ours(path: Path, made: tuple[int, int]) -> None:
    with contextlib.suppress(FileNotFoundError):
        if _identity(path) == made:
            path.unlink()
