"""The REST listener: HTTP/1.1 by Hypercorn's connections on a socket and in a nursery of our own.

Hypercorn's own worker is not used: it keeps the descriptor of a connection that its client has closed until the
idle time is over, and it cannot be stopped while a client reads nothing of what was sent to it.
"""

from __future__ import annotations

import contextlib
import functools
import socket
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.config import Config
from hypercorn.events import Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from node.api.server import RestServer

IDLE_SECONDS = 3600.0
"""Seconds that a client may keep a connection without a request: SDKs do not expect to be hung up on."""
UNREAD_SECONDS = 30.0
"""Seconds for which a client may leave unread what was sent to it; inherited by every connection."""
STOP_SECONDS = 1.0
"""Seconds that requests in work have to end when the server stops."""
_BACKLOG = 256


@contextlib.asynccontextmanager
async def serving(server: RestServer, host: str, port: int) -> AsyncIterator[str]:
    """Listen while the context is open; yields the base URL, with the real port where `port` was 0.

    Raises:
        OSError: the address cannot be listened on.
    """
    listening = _listen(host, port)
    bound = listening.getsockname()[1]
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.keep_alive_timeout = IDLE_SECONDS
    config.include_server_header = False
    context = WorkerContext(None)
    connection = functools.partial(
        _Connection, wrap_app(server, 0, "asgi"), config, context, ConnectionState({})
    )
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    async with trio.open_nursery() as connections:
        try:
            async with listener, trio.open_nursery() as accepting:
                serve = functools.partial(trio.serve_listeners, handler_nursery=connections)
                await accepting.start(serve, connection, [listener])
                yield f"http://[{host}]:{bound}" if ":" in host else f"http://{host}:{bound}"
                accepting.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await context.terminated.set()  # idle connections close
            connections.cancel_scope.deadline = trio.current_time() + STOP_SECONDS


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_SECONDS * 1000))
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise OSError(
            error.errno, f"cannot listen for REST on {host}:{port}: {error.strerror or error} (see api.url)"
        ) from error
    return listening


class _Connection(TCPServer):  # type: ignore[misc] # no type information upstream
    """One connection; when its client has closed it, nothing waits for the end of the idle time."""

    _read_all = False

    async def _read_data(self) -> None:
        await super()._read_data()
        self._read_all = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Any) -> None:
        if self._read_all and isinstance(event, Updated):
            return  # no next request will come, so there is nothing to be idle for
        await super().protocol_send(event)
