"""The node's side of gftp: publishes files, takes uploads into slots, moves files for local programs.

Published files are served live from disk; the name of a download is the SHA3-256 of its content when it was
published, so a file that changes meanwhile is noticed by whoever fetches it. Whoever knows a name may read
it, as in the original; the names of upload slots are unguessable and take one file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

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
    from collections.abc import AsyncIterator

    from p2p.protocol import NodeContext

MAX_UPLOAD_BYTES = 64 * 1024**3
_HEADER_TIMEOUT = 30.0


class _Entry(msgspec.Struct, frozen=True):
    path: Path
    session: str


class FilesProtocol:
    """gftp as a protocol of the node."""

    name = "files"

    def __init__(self) -> None:
        self._published: dict[str, _Entry] = {}
        self._slots: dict[str, _Entry] = {}
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
        self._published[digest] = _Entry(path, session)
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

    def close(self, url: str) -> bool:
        """Take a URL of ours back; return whether it was open."""
        _, name = parse_url(url)
        return (self._published.pop(name, None) or self._slots.pop(name, None)) is not None

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
            size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise LocalFileError(f"cannot read {path}: {error.strerror}") from error
        async with file, self._stream_to(node_id) as stream:
            await transfer.upload(stream, name, size, _chunks(file))
        return size

    async def serve(self, stream: Stream) -> None:
        """Serve one transfer that a peer, or a supervisor of this node, asks for."""
        await self._serve(stream)

    # --- peers ------------------------------------------------------------------------------------------

    async def _serve(self, stream: Stream) -> None:
        try:
            with trio.fail_after(_HEADER_TIMEOUT):
                header, rest = await transfer.read_header(stream)
            match header:
                case Get():
                    await self._serve_get(stream, header)
                case Put():
                    await self._serve_put(stream, header, rest)
                case _:
                    raise TransferBroken(f"a transfer cannot begin with {type(header).__name__}")
        except (FilesError, RemoteFilesError, OSError) as error:
            self._ctx.log.info("transfer refused", peer=stream.peer, reason=str(error))
            await stream.send_all(encode_header(No(str(error)[:500])))
            await stream.aclose()
        except trio.TooSlowError:
            stream.reset()
        else:
            await stream.aclose()

    async def _serve_get(self, stream: Stream, request: Get) -> None:
        entry = self._published.get(request.name)
        if entry is None:
            raise NotPublished(f"no file {request.name[:80]} is published here")
        async with await trio.open_file(entry.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            await file.seek(min(max(request.offset, 0), size))
            await transfer.send_file(stream, file, size)

    async def _serve_put(self, stream: Stream, request: Put, rest: bytes) -> None:
        entry = self._slots.get(request.name)
        if entry is None:
            raise NotPublished("no such upload slot is open here")
        if not 0 <= request.size <= MAX_UPLOAD_BYTES:
            raise TransferBroken(f"{request.size} bytes are not taken")
        await stream.send_all(encode_header(Found(request.size)))
        check = ContentCheck(request.name, request.size)
        async with _replacing(entry.path) as file:
            chunk = rest
            while True:
                if chunk:
                    check.feed(chunk)
                    await file.write(chunk)
                chunk = await stream.receive_some(CHUNK_BYTES)
                if not chunk:
                    break
            digest = check.finish()
        self._slots.pop(request.name, None)
        await stream.send_all(encode_header(Stored(request.size, digest)))

    @contextlib.asynccontextmanager
    async def _stream_to(self, node_id: str) -> AsyncIterator[Stream]:
        stream = await self._ctx.overlay.open_stream(NodeId(node_id), self._protocol)
        try:
            yield stream
        except BaseException:
            stream.reset()
            raise
        else:
            await stream.aclose()

    async def _copy_own(self, name: str, path: Path) -> int:
        entry = self._published.get(name)
        if entry is None:
            raise NotPublished(f"no file {name[:80]} is published here")
        size = 0
        async with await trio.open_file(entry.path, "rb") as source, _replacing(path) as file:
            async for chunk in _chunks(source):
                await file.write(chunk)
                size += len(chunk)
        return size

    # --- local programs ---------------------------------------------------------------------------------

    async def _on_publish(self, caller: Caller, request: Publish) -> Published:
        async with _as_service_error(caller):
            return Published(await self.publish(Path(request.path), session=request.session))
        raise AssertionError("unreachable")

    async def _on_receive(self, caller: Caller, request: Receive) -> Published:
        async with _as_service_error(caller):
            return Published(await self.receive(Path(request.path), session=request.session))
        raise AssertionError("unreachable")

    async def _on_close(self, caller: Caller, request: Close) -> Closed:
        async with _as_service_error(caller):
            return Closed(self.close(request.url))
        raise AssertionError("unreachable")

    async def _on_download(self, caller: Caller, request: Download) -> Moved:
        async with _as_service_error(caller):
            return Moved(await self.download(request.url, Path(request.path)))
        raise AssertionError("unreachable")

    async def _on_upload(self, caller: Caller, request: Upload) -> Moved:
        async with _as_service_error(caller):
            return Moved(await self.upload(request.url, Path(request.path)))
        raise AssertionError("unreachable")

    async def _on_session(self, caller: Caller, _request: OpenSession) -> AsyncIterator[Session]:
        session = hex32(self._ctx.entropy)
        try:
            yield Session(session)
            await trio.sleep_forever()
        finally:
            for table in (self._published, self._slots):
                for name in [name for name, entry in table.items() if entry.session == session]:
                    del table[name]


@contextlib.asynccontextmanager
async def _as_service_error(caller: Caller) -> AsyncIterator[None]:
    """Let only the node's owner pass, and word errors for the bus."""
    if caller.child:
        raise ServiceError("forbidden", "an exe-unit has no business with this node's files")
    try:
        yield
    except (FilesError, RemoteFilesError, OverlayError, OSError) as error:
        raise ServiceError("transfer", str(error)) from error


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


async def _chunks(file: File) -> AsyncIterator[bytes]:
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
