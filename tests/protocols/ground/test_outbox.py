"""The outbox: messages that must arrive, in order, once their promise is committed, whatever is lost."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from p2p.bus import BusError, Caller, RemoteError, Service, ServiceError
from p2p.testing.nodes import memory_nodes
from protocols.ground import outbox as module
from protocols.ground.outbox import CALL_TIMEOUT, FIRST_PAUSE, LONGEST_PAUSE, Item, Outbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from p2p.protocol import NodeContext

HOUR_NS = 3600 * 10**9


class Letter(msgspec.Struct, frozen=True):
    text: str


class Parcel(msgspec.Struct, frozen=True):
    text: str


class Done(msgspec.Struct, frozen=True):
    count: int


class Receiver:
    """A peer that writes down what it is told."""

    def __init__(self, ctx: NodeContext) -> None:
        self.ctx = ctx
        self.got: list[str] = []
        self.at: list[float] = []
        self.refuses: dict[str, str] = {}
        """Texts that are refused, with the kind of the error."""
        self.delay = 0.0
        service = Service()
        service.method(Letter, self._on_message)
        service.method(Parcel, self._on_message)
        ctx.bus.register("/public/letters", service)

    @property
    def id(self) -> str:
        return self.ctx.node_id

    async def _on_message(self, caller: Caller, message: Letter | Parcel) -> Done:
        await trio.sleep(self.delay)
        self.at.append(trio.current_time())
        self.got.append(f"{'parcel ' if isinstance(message, Parcel) else ''}{message.text}")
        if message.text in self.refuses:
            raise ServiceError(self.refuses[message.text], "not that one")
        return Done(len(self.got))


class Sender:
    """A protocol with an outbox."""

    def __init__(self, ctx: NodeContext, protocol: str = "letters") -> None:
        self.ctx = ctx
        self.delivered: list[str] = []
        self.refused: list[str] = []
        self.gives_up = True
        self.crash_before_removal = False
        self.outbox = Outbox(protocol, ctx, delivered=self._on_delivered, refused=self._on_refused)

    async def put(
        self,
        peer: str,
        text: str,
        *,
        key: str = "",
        kind: Any = Letter,
        hours: float = 1.0,
        acting: str = "",
    ) -> None:
        expires = self.ctx.clock.utc_ns() + int(hours * HOUR_NS)

        def put(c: Any) -> None:
            self.outbox.put(
                c, peer, "letters", kind(text), key=key or text, expires_ns=expires, acting=acting
            )

        await self.ctx.database.write(put)
        self.outbox.wake()

    async def waiting(self) -> list[str]:
        def read(c: Any) -> list[str]:
            return [row[0] for row in c.execute("SELECT key FROM ground_outbox ORDER BY id")]

        return await self.ctx.database.read(read)

    async def _on_delivered(self, item: Item, reply: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.crash_before_removal:
            raise Crash
        self.delivered.append(item.key)

    async def _on_refused(self, item: Item, error: RemoteError) -> bool:
        await trio.lowlevel.checkpoint()
        self.refused.append(f"{item.key}: {error.kind}")
        return self.gives_up


class Crash(Exception):
    """The node dies here."""


class Post:
    """A sender and two receivers."""

    def __init__(self, contexts: list[NodeContext]) -> None:
        self.sender = Sender(contexts[0])
        self.a, self.b = (Receiver(ctx) for ctx in contexts[1:])
        overlay: Any = contexts[0].overlay
        self.network = overlay._world


@contextlib.asynccontextmanager
async def post(*, running: bool = True) -> AsyncIterator[Post]:
    async with memory_nodes(3, seed=4) as contexts:
        found = Post(contexts)
        await found.sender.outbox.migrate()
        async with trio.open_nursery() as nursery:
            if running:
                nursery.start_soon(found.sender.outbox.run)
            yield found
            nursery.cancel_scope.cancel()


# --- delivery -----------------------------------------------------------------------------------------------


async def test_in_order_one_at_a_time(autojump_clock: MockClock) -> None:
    async with post() as found:
        found.a.delay = 2.0
        for n in range(5):
            await found.sender.put(found.a.id, f"a{n}")
        await found.sender.put(found.b.id, "b0")
        await trio.sleep(1)
        assert found.b.got == ["b0"], "peers do not wait for each other"
        await trio.sleep(20)
        assert found.a.got == found.sender.delivered[1:] == [f"a{n}" for n in range(5)]
        assert all(later - earlier >= 2 for earlier, later in zip(found.a.at, found.a.at[1:], strict=False))
        assert await found.sender.waiting() == []


async def test_each_message_goes_as_who_it_is_of(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with post() as found:
        bus: Any = found.sender.ctx.bus
        real, as_whom = bus.call, []

        async def call(address: str, body: bytes, *, acting: str, **rest: Any) -> bytes:
            as_whom.append(acting)
            answer: bytes = await real(address, body, **rest)
            return answer

        monkeypatch.setattr(bus, "call", call)
        alias = "0x" + "a" * 40
        await found.sender.put(found.a.id, "mine")
        await found.sender.put(found.a.id, "its", acting=alias)
        await trio.sleep(1)
        assert found.sender.delivered == ["mine", "its"]
        assert as_whom == ["", alias]


async def test_nothing_is_said_before_the_commit(autojump_clock: MockClock) -> None:
    async with post() as found:

        def promise_and_fail(c: Any) -> None:
            found.sender.outbox.put(c, found.a.id, "letters", Letter("x"), key="x", expires_ns=2**62)
            raise LookupError("rolled back")

        with pytest.raises(LookupError):
            await found.sender.ctx.database.write(promise_and_fail)
        found.sender.outbox.wake()
        await trio.sleep(60)
        assert found.a.got == []


async def test_what_was_put_before_the_start_is_delivered(autojump_clock: MockClock) -> None:
    async with post(running=False) as found:
        await found.sender.put(found.a.id, "early")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.sender.outbox.run)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert found.a.got == ["early"]


async def test_protocols_do_not_see_each_others_messages(autojump_clock: MockClock) -> None:
    async with post() as found:
        other = Sender(found.sender.ctx, "parcels")
        await other.put(found.a.id, "x")
        await trio.sleep(60)
        assert found.a.got == []
        await found.sender.put(found.a.id, "x", kind=Parcel)
        await trio.sleep(1)
        assert found.a.got == ["parcel x"]
        assert await other.waiting() == ["x"]


async def test_many_peers_that_are_not_there_hold_up_nobody(autojump_clock: MockClock) -> None:
    async with post() as found:
        for n in range(module._PAGE + 40):
            await found.sender.put(f"0x{n:040x}", "lost")
        await found.sender.put(found.a.id, "a")
        await trio.sleep(2 * CALL_TIMEOUT + 5)
        assert found.a.got == ["a"]


# --- retries ------------------------------------------------------------------------------------------------


async def attempts(found: Post, seconds: float) -> list[float]:
    """Return when the sender tried to reach the first peer."""
    tried: list[float] = []
    bus: Any = found.sender.ctx.bus
    call = bus.call

    async def noted(address: str, body: bytes, **rest: Any) -> bytes:
        tried.append(trio.current_time())
        answer: bytes = await call(address, body, **rest)
        return answer

    bus.call = noted
    try:
        await found.sender.put(found.a.id, "x", hours=10_000)
        await trio.sleep(seconds)
    finally:
        bus.call = call
    return tried


async def test_the_pauses_grow_to_a_limit(autojump_clock: MockClock) -> None:
    async with post() as found:
        found.network.isolate(found.a.ctx.node_id)
        tried = await attempts(found, 6 * 3600)
        pauses = [later - earlier for earlier, later in itertools.pairwise(tried)]
        longest_failure = 10.0  # what a dial into silence takes
        for n, pause in enumerate(pauses):
            planned = min(LONGEST_PAUSE, FIRST_PAUSE * 2**n)
            assert 0.75 * planned <= pause <= 1.25 * planned + longest_failure, (n, pause)
        assert pauses[-1] > LONGEST_PAUSE / 2
        found.network.heal()
        await trio.sleep(LONGEST_PAUSE * 1.25 + 1)
        assert found.a.got == ["x"]
        assert found.sender.delivered == ["x"]


async def test_a_peer_that_is_heard_of_is_tried_at_once(autojump_clock: MockClock) -> None:
    async with post() as found:
        found.network.isolate(found.a.ctx.node_id)
        await found.sender.put(found.a.id, "x")
        await trio.sleep(1800)
        found.network.heal()
        await found.sender.outbox.wake_peer(found.a.id)
        await trio.sleep(1)
        assert found.a.got == ["x"]


async def test_a_peer_that_answers_too_late_is_asked_again(autojump_clock: MockClock) -> None:
    async with post() as found:
        found.a.delay = CALL_TIMEOUT + 5
        await found.sender.put(found.a.id, "x")
        await trio.sleep(CALL_TIMEOUT + 1)
        assert found.sender.delivered == []
        found.a.delay = 0.0
        await trio.sleep(60)
        assert found.a.got == ["x"], "the slow handler was stopped, the second one answered"
        assert found.sender.delivered == ["x"]


async def test_order_outlasts_a_failure(autojump_clock: MockClock) -> None:
    async with post() as found:
        found.network.isolate(found.a.ctx.node_id)
        await found.sender.put(found.a.id, "first")
        await trio.sleep(600)
        found.network.heal()
        await found.sender.put(found.a.id, "second")
        await trio.sleep(1)
        assert found.a.got == ["first", "second"], "what is put later does not overtake"
        assert await found.sender.waiting() == []


async def test_order_outlasts_a_refusal_for_now(autojump_clock: MockClock) -> None:
    async with post() as found:
        found.a.refuses["first"] = "later"
        found.sender.gives_up = False
        await found.sender.put(found.a.id, "first")
        await found.sender.put(found.a.id, "second")
        await trio.sleep(5)
        assert set(found.a.got) == {"first"}
        assert len(found.a.got) >= 2
        found.a.refuses.clear()
        await trio.sleep(60)
        assert found.sender.delivered == ["first", "second"]


# --- giving up ----------------------------------------------------------------------------------------------


async def test_a_refusal_that_is_final(autojump_clock: MockClock) -> None:
    async with post() as found:
        found.a.refuses["bad"] = "badRequest"
        for text in ("good", "bad", "better"):
            await found.sender.put(found.a.id, text)
        await trio.sleep(5)
        assert found.a.got == ["good", "bad", "better"]
        assert found.sender.refused == ["bad: badRequest"]
        assert found.sender.delivered == ["good", "better"]
        assert await found.sender.waiting() == []


async def test_what_is_too_old_is_dropped(autojump_clock: MockClock) -> None:
    async with post() as found:
        found.network.isolate(found.a.ctx.node_id)
        await found.sender.put(found.a.id, "old", hours=0.1)
        await found.sender.put(found.a.id, "young", hours=10)
        await trio.sleep(3600)
        assert await found.sender.waiting() == ["young"]
        found.network.heal()
        await trio.sleep(LONGEST_PAUSE * 1.25 + 1)
        assert found.a.got == ["young"]
        assert found.sender.delivered == ["young"]
        assert found.sender.refused == []


# --- replacing ----------------------------------------------------------------------------------------------


async def test_a_key_put_again_replaces_its_message(autojump_clock: MockClock) -> None:
    async with post() as found:
        found.network.isolate(found.a.ctx.node_id)
        await found.sender.put(found.a.id, "one", key="k")
        await found.sender.put(found.a.id, "other")
        await trio.sleep(60)
        await found.sender.put(found.a.id, "two", key="k")
        assert await found.sender.waiting() == ["k", "other"], "it keeps its place"
        found.network.heal()
        await trio.sleep(120)
        assert found.a.got == ["two", "other"]


async def test_a_key_put_again_as_another_message(autojump_clock: MockClock) -> None:
    async with post() as found:
        found.network.isolate(found.a.ctx.node_id)
        await found.sender.put(found.a.id, "x", key="k")
        await trio.sleep(60)
        await found.sender.put(found.a.id, "x", key="k", kind=Parcel)
        found.network.heal()
        await trio.sleep(120)
        assert found.a.got == ["parcel x"]


@pytest.mark.parametrize("again", [("two", Letter), ("one", Parcel)])
async def test_what_is_put_during_a_delivery_is_delivered_too(
    again: tuple[str, Any], autojump_clock: MockClock
) -> None:
    async with post() as found:
        found.a.delay = 5.0
        await found.sender.put(found.a.id, "one", key="k")
        await trio.sleep(2)
        text, kind = again
        await found.sender.put(found.a.id, text, key="k", kind=kind)
        await trio.sleep(60)
        assert found.a.got == ["one", "two" if kind is Letter else "parcel one"]
        assert await found.sender.waiting() == []


async def test_a_failure_does_not_punish_what_replaced_the_message(autojump_clock: MockClock) -> None:
    async with post() as found:
        found.network.isolate(found.a.ctx.node_id)
        await found.sender.put(found.a.id, "one", key="k")
        await trio.sleep(3600)
        await found.sender.put(found.a.id, "two", key="k")
        found.network.heal()
        await trio.sleep(15)
        assert found.a.got == ["two"], "its pauses begin anew"


# --- crashes ------------------------------------------------------------------------------------------------


async def test_a_crash_between_delivery_and_removal_delivers_again(autojump_clock: MockClock) -> None:
    async with post(running=False) as found:
        await found.sender.put(found.a.id, "x")
        await found.sender.put(found.a.id, "y")
        found.sender.crash_before_removal = True
        with pytest.raises(ExceptionGroup) as caught:
            await found.sender.outbox.run()
        assert caught.group_contains(Crash)
        assert found.a.got == ["x"]
        reborn = Sender(found.sender.ctx)
        await reborn.outbox.migrate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reborn.outbox.run)
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
        assert found.a.got == ["x", "x", "y"]
        assert reborn.delivered == ["x", "y"]
        assert await reborn.waiting() == []


async def test_a_stop_in_the_middle_loses_nothing(autojump_clock: MockClock) -> None:
    async with post(running=False) as found:
        found.a.delay = 5.0
        for n in range(3):
            await found.sender.put(found.a.id, str(n))
        for _ in range(4):
            with trio.move_on_after(7):
                await found.sender.outbox.run()
        assert list(dict.fromkeys(found.a.got)) == ["0", "1", "2"]
        assert await found.sender.waiting() == []


async def test_an_address_that_is_none_is_no_end(autojump_clock: MockClock) -> None:
    async with post() as found:
        await found.sender.put("nobody", "x")
        await found.sender.put(found.a.id, "y")
        await trio.sleep(60)
        assert found.a.got == ["y"]
        with pytest.raises(BusError):
            await found.sender.ctx.bus.call("/net/nobody/letters/Letter", b"")
