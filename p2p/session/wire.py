"""What a session needs of the byte stream below it.

`Wire` hides the one difference that matters for speed: on a TCP stream of trio's, reading and writing go straight
to the socket, into and out of buffers that all sessions of a run share, so that a session holds none; on any other
stream, `receive_some` and `send_all` are called with sizes that grow while there is much to do.

Profile of 256 KiB writes on loopback, sender and receiver each on a core (py-spy, 200 Hz): 45-50 % AEAD, 25-30 %
socket calls, 8 % copies and joins, 8 % trio, the rest this package. What mattered, in order: reading 256 KiB at
a time and opening all records of it in one step; no checkpoint for each 64 KiB but one for each full buffer;
frames that end with their record; one buffer for all, since fresh ones of that size are zeroed page by page.
"""

from __future__ import annotations

import os

import trio

from p2p.session.records import LARGEST_SEALED_BYTES

READ_BYTES = 256 * 1024
LEAST_READ_BYTES = 4096
FLUSH_BYTES = 256 * 1024
"""Plaintext that is sealed and sent in one step."""

_SCRATCH_BYTES = max(READ_BYTES, FLUSH_BYTES) + 2 * LARGEST_SEALED_BYTES


class _Scratch:
    def __init__(self) -> None:
        self.incoming = memoryview(bytearray(_SCRATCH_BYTES))
        self.outgoing = memoryview(bytearray(_SCRATCH_BYTES))


_scratch: trio.lowlevel.RunVar[_Scratch] = trio.lowlevel.RunVar("p2p.session scratch")


def scratch() -> _Scratch:
    """Return this run's buffers, to be used without awaiting in between."""
    try:
        return _scratch.get()
    except LookupError:
        made = _Scratch()
        _scratch.set(made)
        return made


class Wire:
    """A byte stream, read by one task and written by one."""

    def __init__(self, stream: trio.abc.Stream, unread: bytes = b"") -> None:
        self.stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._kept = unread
        self._size = LEAST_READ_BYTES
        self._more = self._again = False
        self._unsent = b""

    @property
    def direct(self) -> bool:
        """Return whether `send_now` may be called."""
        return self._socket is not None

    def local_port(self) -> int | None:
        """Return the port at this end, if it is a socket that is open."""
        if self._socket is None or self._socket.fileno() < 0:
            return None
        return int(self._socket.getsockname()[1])

    def keep(self, rest: memoryview, *, again: bool = False) -> None:
        """Have `rest` precede what is read next.

        Args:
            again: whether it is worth a look before anything more comes, once others had their turn.
        """
        self._kept = bytes(rest)
        self._again = again

    async def read(self) -> memoryview | None:
        """Return what was kept and what came, good until the next await; None when the peer has hung up."""
        if self._again:
            await trio.lowlevel.checkpoint()
            self._again = False
            return memoryview(self._kept)
        if self._socket is None:
            return await self._read_stream()
        sock = self._socket
        if self._more:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(sock.fileno())
        while True:
            buffer, kept = scratch().incoming, len(self._kept)
            try:
                count = os.readv(sock.fileno(), [buffer[kept : kept + READ_BYTES]])
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock.fileno())
                continue
            if not count:
                return None
            buffer[:kept] = self._kept
            self._more = count == READ_BYTES
            return buffer[: kept + count]

    async def _read_stream(self) -> memoryview | None:
        data = await self.stream.receive_some(self._size)
        if not data:
            return None
        if len(data) >= self._size:
            self._size = min(self._size * 2, READ_BYTES)
        elif len(data) * 4 < self._size:
            self._size = max(self._size // 2, LEAST_READ_BYTES)
        return memoryview(self._kept + data if self._kept else data)

    def send_now(self, data: memoryview | bytes) -> bool:
        """Send what the socket takes at once; return whether that was all. The rest is kept for `send_rest`."""
        assert self._socket is not None
        try:
            count = os.write(self._socket.fileno(), data)
        except BlockingIOError:
            count = 0
        if count < len(data):
            self._unsent = bytes(data[count:])
            return False
        return True

    async def send(self, data: memoryview) -> None:
        """Send `data`, which must not change meanwhile. Cancelling it breaks the connection."""
        await self.stream.send_all(data)

    async def send_rest(self) -> None:
        """Send what `send_now` has left."""
        assert self._socket is not None
        while self._unsent:
            await trio.lowlevel.wait_writable(self._socket.fileno())
            rest, self._unsent = self._unsent, b""
            self.send_now(rest)

    async def finish(self) -> bool:
        """Tell the other end that nothing more comes; return whether the stream can."""
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            await self.stream.send_eof()
            return True
        return False

    async def close(self) -> None:
        """Close at once."""
        await trio.aclose_forcefully(self.stream)
