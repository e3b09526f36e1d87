"""`upgrade`: from a byte stream to a `Session` with a proven peer, as libp2p does it, in one round trip.

The initiator says `/noise` together with the handshake's first message, and `/yamux/1.0.0` together with its last:
it may use the session when the second message has come. Timeouts belong to the caller, who gives some seconds for
all of it; how many upgrades run at once is the caller's affair too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.overlay import ProtocolRefused
from p2p.session.connection import Session
from p2p.session.errors import HandshakeFailed, ProtocolError, SessionEnded
from p2p.session.frames import YAMUX_PROTOCOL
from p2p.session.multistream import Answering, Proposal
from p2p.session.noise import NOISE_PROTOCOL, Handshake
from p2p.session.records import sealed_size
from p2p.session.wire import LEAST_READ_BYTES, Wire
from p2p.session.yamux import Yamux, YamuxSettings

if TYPE_CHECKING:
    from p2p.entropy import Entropy
    from p2p.session.budget import MemoryBudget
    from p2p.session.noise import NoiseIdentity
    from p2p.session.records import Sealer


async def upgrade(
    stream: trio.abc.Stream,
    identity: NoiseIdentity,
    *,
    initiator: bool,
    entropy: Entropy,
    budget: MemoryBudget,
    settings: YamuxSettings = YamuxSettings(),  # noqa: B008 - frozen
    expected: str | None = None,
) -> Session:
    """Agree on Noise, prove both ends, agree on yamux; return the session, for which `run` has to be called.

    Args:
        stream: closed when this fails or is cancelled.
        initiator: whether this end speaks first; usually the one that dialled.
        expected: the PeerId that has to be at the other end; None takes whoever proves to be someone.

    Raises:
        HandshakeFailed: the other end does not speak this, is not who it should be, or proves nothing.
        SessionEnded: it hung up.
    """
    handshake = Handshake(identity, initiator=initiator, entropy=entropy, expected=expected)
    try:
        if initiator:
            return await _begin(stream, handshake, budget, settings)
        return await _answer(stream, handshake, budget, settings)
    except HandshakeFailed:
        await _hang_up(stream)
        raise
    except (ProtocolError, ProtocolRefused) as error:
        await _hang_up(stream)
        raise HandshakeFailed(str(error)) from error
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        await _hang_up(stream)
        raise SessionEnded(f"the peer hung up in the handshake: {error}") from error
    except BaseException:
        await _hang_up(stream)
        raise


async def _begin(
    stream: trio.abc.Stream, handshake: Handshake, budget: MemoryBudget, settings: YamuxSettings
) -> Session:
    security = Proposal(NOISE_PROTOCOL)
    await stream.send_all(security.hello + handshake.start())
    rest = None
    while rest is None:
        rest = security.receive(await _some(stream))
    last = handshake.receive(rest)
    while handshake.keys is None:
        last = handshake.receive(await _some(stream))
    muxer = Proposal(YAMUX_PROTOCOL)
    await stream.send_all(last + _sealed(handshake.keys[0], muxer.hello))
    return _session(stream, handshake, budget, settings, initiator=True, proposal=muxer)


async def _answer(
    stream: trio.abc.Stream, handshake: Handshake, budget: MemoryBudget, settings: YamuxSettings
) -> Session:
    security = Answering((NOISE_PROTOCOL,))
    while True:
        answer = security.receive(await _some(stream))
        if security.protocol is not None:
            await stream.send_all(answer + handshake.receive(security.unread))
            break
        if answer:
            await stream.send_all(answer)
    while handshake.keys is None:
        answer = handshake.receive(await _some(stream))
        if answer:
            await stream.send_all(answer)
    muxer = Answering((YAMUX_PROTOCOL,))
    sealer, opener = handshake.keys
    sealed = handshake.unread
    while True:
        plains, used = opener.open(memoryview(sealed))
        sealed = sealed[used:]
        answer = muxer.receive(b"".join(plains))
        if muxer.protocol is not None:
            session = _session(
                stream, handshake, budget, settings, initiator=False, plain=muxer.unread, unread=sealed
            )
            session.core.precede(answer)  # in one system call with the session's first frame
            return session
        if answer:
            await stream.send_all(_sealed(sealer, answer))
        sealed += await _some(stream)


def _session(
    stream: trio.abc.Stream,
    handshake: Handshake,
    budget: MemoryBudget,
    settings: YamuxSettings,
    *,
    initiator: bool,
    proposal: Proposal | None = None,
    plain: bytes = b"",
    unread: bytes | None = None,
) -> Session:
    assert handshake.keys is not None
    assert handshake.peer is not None
    core = Yamux(initiator=initiator, budget=budget, now=trio.current_time(), settings=settings)
    wire = Wire(stream, handshake.unread if unread is None else unread)
    return Session(wire, handshake.keys, handshake.peer, core, proposal=proposal, plain=plain)


def _sealed(sealer: Sealer, plain: bytes) -> bytes:
    out = bytearray(sealed_size(len(plain)))
    sealer.seal([plain], memoryview(out))
    return bytes(out)


async def _some(stream: trio.abc.Stream) -> bytes:
    data = await stream.receive_some(LEAST_READ_BYTES)
    if not data:
        raise SessionEnded("the peer hung up in the handshake")
    return bytes(data)


async def _hang_up(stream: trio.abc.Stream) -> None:
    await trio.aclose_forcefully(stream)
