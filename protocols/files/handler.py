"""The node's side of gftp: publishes files, takes uploads into slots, moves files for local programs.

Published files are served live from disk; the name of a download is the SHA3-256 of its content when it was
published, so a file that changes meanwhile is noticed by whoever fetches it. Whoever knows a name may read
it, as in the original; the names of upload slots are unguessable and take one file. What is published twice is
there until it is closed twice. A peer is never told a local path.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from p2p.bus import Caller, Service, ServiceError
from p2p.entropy import hex32
from p2p.identity import NodeId
from p2p.overlay import OverlayError, Stream, protocol_id
from protocols.files.core import ContentCheck, File, encode_header, format_url, parse_url, slot_name, transfer
from protocols.files.errors import FilesError, LocalFileError, NotPublished, RemoteFilesError, TransferBroken
from protocols.files.messages import (
    CHUNK_BYTES,
    MAJOR,
    PROTOCOL,
    Close,
    Closed,
    Download,
    Found,
    Get,
    Moved,
    No,
    OpenSession,
    Publish,
    Published,
    Put,
    Receive,
    Session,
    Stored,
    Upload,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from p2p.protocol import NodeContext

MAX_UPLOAD_BYTES = 64 * 1024**3
MAX_SERVED = 256
"""Transfers that are served at a time."""
MAX_SERVED_PER_PEER = 64
IDLE_SECONDS = 120.0
"""Seconds in which a transfer may make no progress at all."""
_HEADER_TIMEOUT = 30.0


class _Entry(msgspec.Struct, frozen=True, eq=False):
    path: Path
    session: str


class FilesProtocol:
    """gftp as a protocol of the node."""

    name = "files"

    def __init__(self) -> None:
        self._published: dict[str, list[_Entry]] = {}
        self._slots: dict[str, _Entry] = {}
        self._filling: set[str] = set()
        self._served: collections.Counter[str] = collections.Counter()
        self._ctx: NodeContext

    @contextlib.asynccontextmanager
    async def running(self, ctx: NodeContext) -> AsyncIterator[None]:
        """Serve peers and local programs."""
        self._ctx = ctx
        self._protocol = protocol_id(ctx.overlay.network, PROTOCOL, MAJOR)
        ctx.overlay.serve(self._protocol, self._serve)
        service = Service()
        service.method(Publish, self._on_publish)
        service.method(Receive, self._on_receive)
        service.method(Close, self._on_close)
        service.method(Download, self._on_download)
        service.method(Upload, self._on_upload)
        service.streaming(OpenSession, self._on_session)
        registration = ctx.bus.register("/local/files", service)
        try:
            yield
        finally:
            registration.close()

    # --- for the node's own parts -----------------------------------------------------------------------

    async def publish(self, path: Path, *, session: str = "") -> str:
        """Offer a file for download and return its URL. Raises LocalFileError."""
        digest = await _digest_of(path)
        self._published.setdefault(digest, []).append(_Entry(path, session))
        return format_url(self._ctx.node_id, digest)

    async def receive(self, path: Path, *, session: str = "") -> str:
        """Open a slot that an upload is written to `path` through, and return its URL."""
        name = slot_name(self._ctx.entropy)
        try:
            async with await trio.open_file(path, "ab"):
                pass
        except OSError as error:
            raise LocalFileError(f"cannot write {path}: {error.strerror}") from error
        self._slots[name] = _Entry(path, session)
        return format_url(self._ctx.node_id, name)

    def close(self, url: str, *, session: str = "") -> bool:
        """Take a URL of ours back, as often as it was published; return whether it was open in `session`."""
        node_id, name = parse_url(url)
        if node_id != self._ctx.node_id:
            return False
        entries = self._published.get(name, [])
        for entry in entries:
            if entry.session == session:
                entries.remove(entry)
                if not entries:
                    del self._published[name]
                return True
        slot = self._slots.get(name)
        if slot is None or slot.session != session:
            return False
        del self._slots[name]
        return True

    async def download(self, url: str, path: Path) -> int:
        """Fetch a URL into a file and return its size. Raises FilesError, RemoteFilesError, OverlayError."""
        node_id, name = parse_url(url)
        if node_id == self._ctx.node_id:
            return await self._copy_own(name, path)
        size = 0
        async with (
            self._stream_to(node_id) as stream,
            _replacing(path) as file,
            contextlib.aclosing(transfer.download(stream, name)) as chunks,
        ):
            async for chunk in chunks:
                await file.write(chunk)
                size += len(chunk)
        return size

    async def upload(self, url: str, path: Path) -> int:
        """Send a file to a URL and return its size. Raises FilesError, RemoteFilesError, OverlayError."""
        node_id, name = parse_url(url)
        try:
            file = await trio.open_file(path, "rb")
        except OSError as error:
            raise LocalFileError(f"cannot read {path}: {error.strerror}") from error
        async with file, contextlib.aclosing(_chunks(file)) as chunks:
            size = os.fstat(file.fileno()).st_size
            if node_id == self._ctx.node_id:
                await self._fill(name, size, chunks)
            else:
                async with self._stream_to(node_id) as stream:
                    await transfer.upload(stream, name, size, chunks)
        return size

    async def serve(self, stream: Stream) -> None:
        """Serve one transfer that a peer, or a supervisor of this node, asks for."""
        await self._serve(stream)

    # --- peers ------------------------------------------------------------------------------------------

    async def _serve(self, stream: Stream) -> None:
        peer = stream.peer
        if self._served.total() >= MAX_SERVED or self._served[peer] >= MAX_SERVED_PER_PEER:
            await self._refuse(stream, "too many transfers are served here; try again later")
            return
        self._served[peer] += 1
        try:
            await self._serve_one(stream)
        finally:
            self._served[peer] -= 1
            self._served += collections.Counter()  # forgets whom nothing is served

    async def _serve_one(self, stream: Stream) -> None:
        moving = _Moving(stream)
        try:
            with trio.fail_after(_HEADER_TIMEOUT):
                header, rest = await transfer.read_header(stream)
            match header:
                case Get():
                    await self._serve_get(moving, header)
                case Put():
                    await self._serve_put(moving, header, rest)
                case _:
                    raise TransferBroken(f"a transfer cannot begin with {type(header).__name__}")
        except LocalFileError as error:
            self._ctx.log.warning("a transfer was not served", peer=stream.peer, reason=str(error))
            await self._refuse(stream, "the other side cannot use its file; its log says why")
        except (FilesError, RemoteFilesError) as error:
            self._ctx.log.info("transfer refused", peer=stream.peer, reason=str(error))
            await self._refuse(stream, str(error)[:500])
        except (trio.TooSlowError, _CutOff) as error:
            self._ctx.log.info("transfer cut off", peer=stream.peer, reason=str(error))
            stream.reset()
        else:
            await stream.aclose()

    async def _refuse(self, stream: Stream, reason: str) -> None:
        with trio.move_on_after(_HEADER_TIMEOUT) as scope:
            await stream.send_all(encode_header(No(reason)))
            await stream.aclose()
        if scope.cancelled_caught:
            stream.reset()

    async def _serve_get(self, stream: _Moving, request: Get) -> None:
        async with self._opened(request.name) as file:
            size = os.fstat(file.fileno()).st_size
            await file.seek(min(max(request.offset, 0), size))
            try:
                await transfer.send_file(stream, file, size)
            except (OSError, TransferBroken) as error:
                # What is said now would be taken for content.
                raise _CutOff(str(error)) from error

    async def _serve_put(self, stream: _Moving, request: Put, rest: bytes) -> None:
        self._slot(request.name)
        if not 0 <= request.size <= MAX_UPLOAD_BYTES:
            raise TransferBroken(f"{request.size} bytes are not taken")
        await stream.send_all(encode_header(Found(request.size)))

        async def arriving() -> AsyncGenerator[bytes, None]:
            chunk = rest
            while True:
                if chunk:
                    yield chunk
                chunk = await stream.receive_some(CHUNK_BYTES)
                if not chunk:
                    return

        async with contextlib.aclosing(arriving()) as chunks:
            digest = await self._fill(request.name, request.size, chunks)
        await stream.send_all(encode_header(Stored(request.size, digest)))

    async def _fill(self, name: str, size: int, chunks: AsyncIterator[bytes]) -> str:
        """Write what arrives into a slot, which is gone afterwards; return its digest."""
        slot = self._slot(name)
        self._filling.add(name)
        try:
            check = ContentCheck(name, size)
            async with _replacing(slot.path) as file:
                async for chunk in chunks:
                    check.feed(chunk)
                    await file.write(chunk)
                digest = check.finish()
                if self._slots.get(name) is not slot:
                    raise NotPublished("this upload slot was closed meanwhile")
            self._slots.pop(name, None)
        finally:
            self._filling.discard(name)
        return digest

    def _slot(self, name: str) -> _Entry:
        slot = self._slots.get(name)
        if slot is None:
            raise NotPublished("no such upload slot is open here")
        if name in self._filling:
            raise NotPublished("this upload slot is being filled by somebody else")
        return slot

    @contextlib.asynccontextmanager
    async def _opened(self, name: str) -> AsyncIterator[Any]:
        entries = self._published.get(name)
        if not entries:
            raise NotPublished(f"no file {name[:80]} is published here")
        try:
            file = await trio.open_file(entries[-1].path, "rb")
        except OSError as error:
            raise LocalFileError(f"cannot read {entries[-1].path}: {error.strerror}") from error
        async with file:
            yield file

    @contextlib.asynccontextmanager
    async def _stream_to(self, node_id: str) -> AsyncIterator[_Moving]:
        stream = await self._ctx.overlay.open_stream(NodeId(node_id), self._protocol)
        try:
            yield _Moving(stream)
        except BaseException:
            stream.reset()
            raise
        else:
            await stream.aclose()

    async def _copy_own(self, name: str, path: Path) -> int:
        async with (
            self._opened(name) as source,
            _replacing(path) as file,
            contextlib.aclosing(_chunks(source)) as chunks,
        ):
            check = ContentCheck(name, os.fstat(source.fileno()).st_size)
            size = 0
            async for chunk in chunks:
                check.feed(chunk)
                await file.write(chunk)
                size += len(chunk)
            check.finish()
        return size

    # --- local programs ---------------------------------------------------------------------------------

    async def _on_publish(self, caller: Caller, request: Publish) -> Published:
        async with _as_service_error(caller):
            return Published(await self.publish(_path(request.path), session=request.session))
        raise AssertionError("unreachable")

    async def _on_receive(self, caller: Caller, request: Receive) -> Published:
        async with _as_service_error(caller):
            return Published(await self.receive(_path(request.path), session=request.session))
        raise AssertionError("unreachable")

    async def _on_close(self, caller: Caller, request: Close) -> Closed:
        async with _as_service_error(caller):
            return Closed(self.close(request.url, session=request.session))
        raise AssertionError("unreachable")

    async def _on_download(self, caller: Caller, request: Download) -> Moved:
        async with _as_service_error(caller):
            return Moved(await self.download(request.url, _path(request.path)))
        raise AssertionError("unreachable")

    async def _on_upload(self, caller: Caller, request: Upload) -> Moved:
        async with _as_service_error(caller):
            return Moved(await self.upload(request.url, _path(request.path)))
        raise AssertionError("unreachable")

    async def _on_session(self, caller: Caller, _request: OpenSession) -> AsyncIterator[Session]:
        session = hex32(self._ctx.entropy)
        try:
            yield Session(session)
            await trio.sleep_forever()
        finally:
            self._close_session(session)

    def _close_session(self, session: str) -> None:
        for name, entries in list(self._published.items()):
            self._published[name] = [entry for entry in entries if entry.session != session]
            if not self._published[name]:
                del self._published[name]
        for name in [name for name, slot in self._slots.items() if slot.session == session]:
            del self._slots[name]


class _CutOff(Exception):
    """A transfer that can only be broken off: its content is under way."""


class _Moving:
    """A stream on which something must move every so often, or the transfer is broken."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes) -> None:
        with _moving():
            await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        with _moving():
            return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        with _moving():
            await self._stream.send_eof()


@contextlib.contextmanager
def _moving() -> Iterator[None]:
    try:
        with trio.fail_after(IDLE_SECONDS):
            yield
    except trio.TooSlowError as error:
        raise TransferBroken(f"nothing moved for {IDLE_SECONDS:g} s") from error


@contextlib.asynccontextmanager
async def _as_service_error(caller: Caller) -> AsyncIterator[None]:
    """Let only the node's owner pass, and word errors for the bus."""
    if caller.child:
        raise ServiceError("forbidden", "an exe-unit has no business with this node's files")
    try:
        yield
    except (FilesError, RemoteFilesError, OverlayError, OSError) as error:
        raise ServiceError("transfer", str(error)) from error


def _path(text: str) -> Path:
    if "\0" in text:
        raise LocalFileError(f"{text[:160]!r} is no path")
    return Path(text)


@contextlib.asynccontextmanager
async def _replacing(path: Path) -> AsyncIterator[File]:
    """Write beside `path` and move over it at the end, so that half a file never stands under its name."""
    partial = path.with_name(f"{path.name}.part")
    try:
        async with await trio.open_file(partial, "wb") as file:
            yield file
        await trio.Path(partial).replace(path)
    except OSError as error:
        raise LocalFileError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with trio.CancelScope(shield=True), contextlib.suppress(FileNotFoundError):
            await trio.Path(partial).unlink()


async def _chunks(file: File) -> AsyncGenerator[bytes, None]:
    while chunk := await file.read(CHUNK_BYTES):
        yield chunk


async def _digest_of(path: Path) -> str:
    def run() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha3_256").hexdigest()

    try:
        return await trio.to_thread.run_sync(run)
    except OSError as error:
        raise LocalFileError(f"cannot read {path}: {error.strerror}") from error
