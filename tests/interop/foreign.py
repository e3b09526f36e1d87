"""`ForeignPeer`: a libp2p program in another language, as a process that is steered by JSON lines."""

from __future__ import annotations

import json
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from tests.interop.prepare import BUILT, KINDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.interop.matrix import KeyKind

PATIENCE = 45.0
"""Seconds for one order; other work on the machine makes them slow."""


class ForeignFailed(Exception):
    """The peer could not do what it was told to; the message is its own."""


class ForeignPeer:
    """A running peer. `do` gives it an order and waits for the answer; several may be under way."""

    def __init__(self, process: trio.Process, peer_id: str, address: str) -> None:
        self.peer_id = peer_id
        self.address = address
        self._process = process
        self._answers: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._next = 1
        self._writing = trio.Lock()

    async def do(self, order: str, **details: Any) -> Any:
        """Give an order; return what it gave. Raises ForeignFailed."""
        number, self._next = self._next, self._next + 1
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._answers[number] = send
        line = json.dumps({"id": number, "do": order, **details}) + "\n"
        assert self._process.stdin is not None
        async with self._writing:
            await self._process.stdin.send_all(line.encode())
        try:
            with trio.fail_after(PATIENCE):
                answer = await receive.receive()
        finally:
            self._answers.pop(number, None)
        if "error" in answer:
            raise ForeignFailed(f"{order}: {answer['error']}")
        return answer["ok"]

    async def has_met(self, peer: str) -> None:
        """Wait until this peer has a connection with `peer`, who may have finished its half of it earlier."""
        with trio.fail_after(PATIENCE):
            while peer not in await self.do("peers"):  # asking is waiting enough
                pass

    def _heard(self, line: bytes) -> None:
        answer = json.loads(line)
        waiting = self._answers.get(answer["id"])
        if waiting is not None:
            waiting.send_nowait(answer)


@asynccontextmanager
async def running(
    kind: str, key: KeyKind, *, network: str = "devnet", node: bool = False, role: str = "", seed: int = 7
) -> AsyncIterator[ForeignPeer]:
    """Run a peer of `kind` with a key of its own; `node` has it say our hello, `role` act as relays need it."""
    arguments = [
        key,
        (bytes([seed]) * 32).hex(),
        network,
        *(["node"] if node else []),
        *([role] if role else []),
    ]
    process = await trio.lowlevel.open_process(
        [*KINDS[kind].command, *arguments],
        cwd=BUILT / kind,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    lines = _Lines(process.stdout)
    try:
        with trio.fail_after(PATIENCE):
            first = json.loads(await lines.next())
        peer = ForeignPeer(process, first["peer"], first["address"])

        async def listen() -> None:
            while line := await lines.next():
                peer._heard(line)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            yield peer
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


class _Lines:
    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._kept = bytearray()

    async def next(self) -> bytes:
        """Return a line, or nothing when the process has ended."""
        while b"\n" not in self._kept:
            data = await self._stream.receive_some(65536)
            if not data:
                return b""
            self._kept += data
        line, _, rest = bytes(self._kept).partition(b"\n")
        self._kept = bytearray(rest)
        return line
