"""Accepting connections when there are no descriptors left."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Self

import trio
from structlog.testing import capture_logs

from p2p.host.tcp import accept_forever
from p2p.testing.conformance import eventually

if TYPE_CHECKING:
    from trio.testing import MockClock


class Listener:
    """Gives a connection, fails for want of descriptors for a while, and does so again."""

    def __init__(self, failures: int) -> None:
        self._failures = failures
        self._asked = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def accept(self) -> Any:
        await trio.lowlevel.checkpoint()
        self._asked += 1
        if self._asked % (self._failures + 1):
            raise OSError(errno.EMFILE, "too many open files")
        return self._asked


async def test_want_of_descriptors_is_said_once_and_outlasted(autojump_clock: MockClock) -> None:
    served: list[Any] = []

    async def serve(stream: Any) -> None:
        served.append(stream)

    listener: Any = Listener(failures=50)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_forever, listener, serve, nursery)
            await eventually(lambda: len(served) >= 3, timeout=100)
            nursery.cancel_scope.cancel()
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert len(warnings) in (3, 4), "once each time that it begins"
