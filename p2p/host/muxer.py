"""Stock yamux with bounds: what can be mended from outside until sessions are our own.

py-libp2p 0.8.1's yamux does not enforce its receive window, lets frames of 16 MiB in, gives a blocked write up
after 5 s and loses frame sync when a write or the credit after a read is cancelled. `BoundedYamux` bounds what a
stream may hold unread, and a frame; `FrameWriter` runs everything that writes on a connection in one task that
nobody cancels. What stays is listed in `docs`: a FIN that comes with an ACK is not seen, streams share one TCP
window, and a reader that answers pings can be held up by its own full socket.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import structlog
import trio
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID, Yamux

from p2p.overlay import StreamBroken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WINDOW_BYTES = 2**20
"""What a peer may send on a stream that this node's application has not read."""
MAX_BUFFERED_BYTES = WINDOW_BYTES + 2**18
"""Where a peer that ignores its window is cut off: the window, and the initial one of yamux."""
MAX_FRAME_BYTES = MAX_BUFFERED_BYTES
WRITE_TIMEOUT = 30.0
"""Seconds that one frame may wait for the peer to read; its session is ended then."""

_log = structlog.get_logger("p2p.host")


class WindowViolated(trio.TooSlowError):
    """The peer sent more than its window allows. (`TooSlowError` is what stock yamux ends a connection for.)"""


class ReceiveBuffer(bytearray):
    """What a stream holds unread; bounded, and able to drop what nobody will read."""

    discarded: Callable[[int], None] | None = None
    """When set, what comes is dropped and its length told here."""

    def extend(self, data: Any) -> None:
        if self.discarded is not None:
            self.discarded(len(data))
        elif len(self) + len(data) > MAX_BUFFERED_BYTES:
            raise WindowViolated("the peer sent beyond its window")
        else:
            super().extend(data)


class _Buffers(dict[int, bytearray]):
    def __setitem__(self, stream_id: int, buffer: bytearray) -> None:
        super().__setitem__(stream_id, ReceiveBuffer(buffer))


class BoundedYamux(Yamux):  # type: ignore[misc] # no type information upstream
    """Stock yamux whose streams and frames are bounded, and whose failure ends its connection only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stream_buffers = _Buffers()

    async def start(self) -> None:
        try:
            await super().start()
        except Exception as error:
            _log.warning("a connection failed", peer=str(self.peer_id), error=repr(error))
            await self._cleanup_on_error()

    async def _read_data_body(self, length: int) -> bytes:
        if length > MAX_FRAME_BYTES:
            raise WindowViolated(f"a frame of {length} bytes")
        data: bytes = await super()._read_data_body(length)
        return data


class BoundedMuxer(MuxerMultistream):  # type: ignore[misc] # no type information upstream
    """Negotiates yamux and makes it bounded; stock code makes its own `Yamux`, whatever it is configured with."""

    def __init__(self) -> None:
        super().__init__({PROTOCOL_ID: BoundedYamux})

    async def new_conn(self, conn: Any, peer_id: Any) -> Any:
        protocol, muxer = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        return self._annotate_connection(muxer(conn, peer_id, is_initiator=conn.is_initiator), conn, protocol)


class Job:
    """Something that a `FrameWriter` does."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self.work = work
        self.done = trio.Event()
        self.error: BaseException | None = None

    async def finished(self) -> None:
        """Wait until it is done. Raises StreamBroken. Giving the wait up does not undo the job."""
        await self.done.wait()
        if self.error is not None:
            raise StreamBroken(f"the stream broke: {self.error or type(self.error).__name__}") from self.error


class FrameWriter:
    """Does what writes on one connection, one job after another, in a task of its own.

    Bounded by its callers: a stream has at most one write, one credit and one end waiting here.

    Args:
        hang: ends the connection when the peer does not read.
    """

    def __init__(self, hang: Callable[[], None]) -> None:
        self._hang = hang
        self._jobs: deque[Job] = deque()
        self._news = trio.Event()
        self._ended: str | None = None

    def submit(self, work: Callable[[], Awaitable[None]]) -> Job:
        """Have `work` done, after what was submitted before."""
        job = Job(work)
        if self._ended is not None:
            job.error = StreamBroken(self._ended)
            job.done.set()
        else:
            self._jobs.append(job)
            self._news.set()
        return job

    async def run(self) -> None:
        """Do jobs until cancelled; those left over fail."""
        try:
            while True:
                while self._jobs:
                    await self._do(self._jobs.popleft())
                self._news = trio.Event()
                await self._news.wait()
        finally:
            self._ended = "its connection is closed"
            while self._jobs:
                job = self._jobs.popleft()
                job.error = StreamBroken(self._ended)
                job.done.set()

    async def _do(self, job: Job) -> None:
        try:
            with trio.fail_after(WRITE_TIMEOUT):
                await job.work()
        except trio.TooSlowError as error:
            job.error = StreamBroken(f"the peer has not read for {WRITE_TIMEOUT:g} s")
            job.error.__cause__ = error
            self._hang()
        except Exception as error:  # whatever the stock layers raise means that the connection is gone
            job.error = error
        except BaseException:
            job.error = StreamBroken("its connection is closed")
            raise
        finally:
            job.done.set()
