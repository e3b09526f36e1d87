"""Victims and an attacker: our node and py-libp2p's host, each with an event loop of its own, and a peer that cheats.

A victim runs in a thread, so that what brings it down is seen and does not bring the test down. Handlers are written
once, for a small `Line`. The attacker is a session of ours that obeys when it wants to; it says hello where that is
asked for.
"""

from __future__ import annotations

import os
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self

import trio
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from p2p.discovery.exchange import greet
from p2p.discovery.messages import OLDEST_VERSION, PROTOCOL_VERSION, Hello
from p2p.entropy import SystemEntropy
from p2p.overlay import StreamBroken, protocol_id
from p2p.session import MemoryBudget, MuxedStream, NoiseIdentity, Secp256k1Identity, Session, upgrade
from tests.p2p.host.nodes import make

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from libp2p.network.config import ConnectionConfig

HELLO = protocol_id("devnet", "hello", 1)
ECHO = protocol_id("devnet", "echo", 1)
PATIENCE = 30.0


class Line(Protocol):
    """A stream at the victim's end, of either subject."""

    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes: ...

    async def open_back(self) -> Line:
        """Open a stream to whoever opened this one, by the means of the subject."""
        ...


Handler = Any
"""`async (Line) -> None`."""


async def echo(line: Line) -> None:
    while data := await line.receive():
        await line.send(data)


class Victim:
    """Something that listens, in a thread. Entered, it runs.

    Args:
        handlers: by protocol id; there is an echo besides.
    """

    name = ""

    def __init__(self, handlers: dict[str, Handler] | None = None) -> None:
        self.handlers: dict[str, Handler] = {ECHO: echo} | (handlers or {})
        self.crashed: BaseException | None = None
        self.host, self.port = "127.0.0.1", 0
        self._ready = threading.Event()
        self._stop: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE), "the victim did not start"
        assert self.crashed is None, self.crashed
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    @property
    def is_down(self) -> bool:
        """Return whether it has come down."""
        return not self._thread.is_alive()

    def ready(self, port: int) -> None:
        """Say that it listens, and how to stop it."""
        self.port = port
        token, scope = trio.lowlevel.current_trio_token(), trio.CancelScope()
        self.scope = scope

        def stop() -> None:
            try:
                token.run_sync_soon(scope.cancel)
            except trio.RunFinishedError:
                return

        self._stop = stop
        self._ready.set()

    async def run(self) -> None:
        raise NotImplementedError

    def _work(self) -> None:
        try:
            trio.run(self.run)
        except BaseException as error:
            self.crashed = error
        self._ready.set()


class _OurLine:
    def __init__(self, overlay: Any, stream: Any) -> None:
        self._overlay, self._stream = overlay, stream

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def receive(self) -> bytes:
        return bytes(await self._stream.receive_some())

    async def open_back(self) -> Line:
        return _OurLine(self._overlay, await self._overlay.open_stream(self._stream.peer, ECHO))


class OurVictim(Victim):
    """A node of ours."""

    name = "ours"

    async def run(self) -> None:
        self.overlay = overlay = make()
        for protocol, handler in self.handlers.items():

            async def serve(stream: Any, handler: Handler = handler) -> None:
                await handler(_OurLine(overlay, stream))

            overlay.serve(protocol, serve)
        async with overlay.running():
            self.ready(int(overlay.listen_addresses()[0].split("/")[4]))
            with self.scope:
                await self.live()

    async def live(self) -> None:
        await trio.sleep_forever()


class _StockLine:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def send(self, data: bytes) -> None:
        await self._stream.write(data)

    async def receive(self) -> bytes:
        from libp2p.network.stream.exceptions import StreamEOF

        try:
            return bytes(await self._stream.read(65536))
        except StreamEOF:
            return b""

    async def open_back(self) -> Line:
        return _StockLine(await self._stream.swarm_conn.new_stream())


class StockVictim(Victim):
    """A host of py-libp2p as it comes, on Noise and yamux unless told otherwise."""

    name = "stock"

    def __init__(
        self,
        handlers: dict[str, Handler] | None = None,
        *,
        as_it_comes: bool = False,
        config: ConnectionConfig | None = None,
    ) -> None:
        super().__init__(handlers)
        self._as_it_comes = as_it_comes
        self._config = config

    async def run(self) -> None:
        pair = create_new_key_pair(os.urandom(32))
        options: dict[str, Any] = {}
        if not self._as_it_comes:
            from libp2p.crypto.x25519 import create_new_key_pair as new_x25519

            noise = NoiseTransport(pair, noise_privkey=new_x25519().private_key)
            options = {"sec_opt": {NOISE: noise}, "muxer_opt": {YAMUX: Yamux}}
        self.stock = host = new_host(key_pair=pair, connection_config=self._config, **options)
        for protocol, handler in self.handlers.items():

            async def serve(stream: Any, handler: Handler = handler) -> None:
                await handler(_StockLine(stream))
                await stream.close()

            host.set_stream_handler(protocol, serve)
        async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            self.ready(int(str(host.get_addrs()[0]).split("/")[4]))
            with self.scope:
                await self.live()
            await host.close()

    async def live(self) -> None:
        await trio.sleep_forever()


class Attacker:
    """A session with a victim."""

    def __init__(self, session: Session, accepted: trio.MemoryReceiveChannel[MuxedStream]) -> None:
        self.session = session
        self.accepted = accepted
        """Streams that the victim opens."""

    def inject(self, frames: bytes) -> None:
        """Send raw yamux frames, encrypted as they should be."""
        self.session.core._control += frames
        self.session.wake_writer()

    async def echo(self, data: bytes = b"still there") -> bool:
        """Return whether the victim answers on this session."""
        try:
            with trio.fail_after(5):
                stream = await self.session.open_stream(ECHO)
                await stream.send_all(data)
                answer = b""
                while len(answer) < len(data):
                    piece = await stream.receive_some()
                    if not piece:
                        return False
                    answer += piece
                stream.reset()
                return answer == data
        except (StreamBroken, trio.TooSlowError):
            return False


@asynccontextmanager
async def attacking(
    victim: Victim, wrap: Callable[[trio.SocketStream], Any] = lambda stream: stream, secret: bytes = b""
) -> AsyncIterator[Attacker]:
    """Connect to a victim, and say hello if it wants that.

    Args:
        wrap: what the session talks through.
    """
    entropy = SystemEntropy()
    identity = NoiseIdentity(Secp256k1Identity(secret or entropy.token_bytes(32)), entropy)
    with trio.fail_after(PATIENCE):
        raw = await trio.open_tcp_stream(victim.host, victim.port)
        session = await upgrade(
            wrap(raw), identity, initiator=True, entropy=entropy, budget=MemoryBudget(2**32)
        )
    send, receive = trio.open_memory_channel[MuxedStream](1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run, send.send_nowait)
        if victim.name == "ours":
            stream = await session.open_stream(HELLO)
            hello = Hello(network="devnet", agent="attacker", version=PROTOCOL_VERSION, oldest=OLDEST_VERSION)
            await greet(stream, hello)
            await stream.aclose()
        yield Attacker(session, receive)
        await session.aclose()
        nursery.cancel_scope.cancel()


async def serves_others(victim: Victim) -> bool:
    """Return whether somebody else can connect and is answered."""
    try:
        async with attacking(victim) as other:
            return await other.echo(b"x" * 100_000)
    except (OSError, Exception, BaseExceptionGroup):
        return False


async def until(condition: Callable[[], bool], timeout: float = 15.0) -> bool:
    """Wait for what a thread does; return whether it did."""
    with trio.move_on_after(timeout):
        while not condition():  # noqa: ASYNC110 - another thread's state
            await trio.sleep(0.02)
        return True
    return condition()


class Valve(trio.abc.HalfCloseableStream):
    """A byte stream whose reading can be shut off, as by a peer whose process hangs."""

    def __init__(self, inner: trio.SocketStream) -> None:
        self._inner = inner
        self._open = trio.Event()
        self._open.set()

    def shut(self) -> None:
        self._open = trio.Event()

    def open(self) -> None:
        self._open.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self._open.wait()
        return bytes(await self._inner.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()
