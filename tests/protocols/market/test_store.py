"""What is on disk after a crash is what was promised, no more and no less."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import apsw
import msgspec
import pytest
import trio

from p2p.identity import NodeId
from p2p.storage import InlineDatabase, open_database
from protocols.market import ids, store
from protocols.market.core.agreements import OPEN, Step, advance, learn
from protocols.market.messages import AgreementState, Role
from tests.protocols.market.core.test_agreements import (
    NOW,
    PROVIDER,
    REQUESTOR,
    TERMS,
    approve,
    confirmed,
    ended,
    in_state,
    proposed,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from p2p.storage import Connection, Database
    from protocols.market.core.agreements import Agreement


@pytest.fixture
async def database() -> AsyncIterator[InlineDatabase]:
    database = InlineDatabase()
    await database.migrate("market", store.migrations())
    yield database
    database.close()


def numbered(number: int, role: Role = Role.REQUESTOR, **changes: object) -> Agreement:
    terms = msgspec.structs.replace(TERMS, proposal_id=str(number), created_ns=NOW + number)
    return msgspec.structs.replace(
        proposed(role), agreement_id=ids.agreement_id(terms), terms=terms, **changes
    )


def test_every_statement_of_the_schema_is_one_migration() -> None:
    found = store.migrations()
    assert all(statement.startswith("CREATE ") and "--" not in statement for statement in found)
    assert sum("CREATE TABLE" in statement for statement in found) == 3
    assert all("STRICT" in statement for statement in found if "CREATE TABLE" in statement)


@pytest.mark.parametrize("state", list(AgreementState))
async def test_an_agreement_comes_back_as_it_was(database: InlineDatabase, state: AgreementState) -> None:
    mine = in_state(Role.PROVIDER, state)
    if state is AgreementState.TERMINATED:
        mine = msgspec.structs.replace(mine, end=ended(Step.TERMINATE, Role.REQUESTOR))
    mine = msgspec.structs.replace(mine, app_session_id="é", received=True, confirmed_ns=5)
    await database.write(lambda c: store.insert(c, mine))
    assert await database.read(lambda c: store.load(c, mine.agreement_id, Role.PROVIDER)) == mine
    assert await database.read(lambda c: store.load(c, mine.agreement_id, Role.REQUESTOR)) is None


async def test_a_node_may_be_both_sides(database: InlineDatabase) -> None:
    for role in Role:
        await database.write(lambda c, role=role: store.insert(c, proposed(role)))  # type: ignore[misc]
    for role in Role:
        mine = await database.read(lambda c, role=role: store.load(c, proposed(role).agreement_id, role))  # type: ignore[misc]
        assert mine is not None
        assert mine.role is role


async def test_a_proposal_becomes_one_agreement(database: InlineDatabase) -> None:
    await database.write(lambda c: store.insert(c, numbered(1)))
    other = msgspec.structs.replace(numbered(1), agreement_id="f" * 64)
    with pytest.raises(apsw.ConstraintError):
        await database.write(lambda c: store.insert(c, other))


async def test_selecting(database: InlineDatabase) -> None:
    for number in range(10):
        state = AgreementState.APPROVED if number % 2 else AgreementState.PENDING
        session = f"s{number % 3}"
        mine = numbered(number, state=state, app_session_id=session)
        await database.write(lambda c, mine=mine: store.insert(c, mine))  # type: ignore[misc]

    async def numbers(wanted: store.Filter) -> list[int]:
        return [int(a.terms.proposal_id) for a in await database.read(lambda c: store.select(c, wanted))]

    assert await numbers(store.Filter()) == list(range(10))
    assert await numbers(store.Filter(states=(AgreementState.APPROVED,))) == [1, 3, 5, 7, 9]
    assert await numbers(store.Filter(app_session_id="s1", states=OPEN)) == [1, 4, 7]
    assert await numbers(store.Filter(created_after_ns=NOW + 3, created_before_ns=NOW + 6)) == [4, 5]
    assert await numbers(store.Filter(owner="0x")) == []
    assert await numbers(store.Filter(peer=PROVIDER.node_id, role=Role.REQUESTOR, limit=2)) == [0, 1]
    assert await numbers(store.Filter(after=numbered(7).agreement_id)) == [8, 9]


async def test_no_two_events_share_a_time(database: InlineDatabase) -> None:
    mine = in_state(Role.REQUESTOR, AgreementState.APPROVED)
    await database.write(lambda c: store.insert(c, mine))
    for at in (NOW, NOW, NOW - 5_000_000, NOW + 1_500):
        await database.write(lambda c, at=at: store.log_event(c, mine, at))  # type: ignore[misc]
    found = await database.read(lambda c: store.events(c, REQUESTOR.node_id, 0, None, 10))
    assert [event.at_ns - NOW for event in found] == [0, 1000, 2000, 3000]
    rest = await database.read(lambda c: store.events(c, REQUESTOR.node_id, found[1].at_ns, None, 10))
    assert rest == found[2:]


async def test_expired_and_pending_states_are_no_events(database: InlineDatabase) -> None:
    for state in (AgreementState.PENDING, AgreementState.EXPIRED, AgreementState.APPROVING):
        mine = in_state(Role.PROVIDER, state)
        await database.write(lambda c, mine=mine: store.log_event(c, mine, NOW))  # type: ignore[misc]
    assert await database.read(lambda c: store.events(c, PROVIDER.node_id, 0, None, 10)) == []


async def test_old_agreements_go_with_their_events(database: InlineDatabase) -> None:
    done = in_state(Role.REQUESTOR, AgreementState.TERMINATED)
    lives = numbered(1, state=AgreementState.APPROVED)
    for mine in (done, lives):
        await database.write(lambda c, mine=mine: store.insert(c, mine))  # type: ignore[misc]
        await database.write(lambda c, mine=mine: store.log_event(c, mine, NOW))  # type: ignore[misc]
    before = TERMS.valid_to_ns
    assert await database.write(lambda c: store.forget(c, before)) == 0
    assert await database.write(lambda c: store.forget(c, before + 1)) == 1
    left = await database.read(lambda c: store.events(c, REQUESTOR.node_id, 0, None, 10))
    assert [event.agreement_id for event in left] == [lives.agreement_id]


class Crash(Exception):
    """The node dies here."""


async def test_a_crash_between_state_and_event_leaves_neither(tmp_path: Path) -> None:
    """Kill the transaction at each of its statements: afterwards all of it is there, or nothing."""
    mine = approve(confirmed(Role.PROVIDER))
    (after,) = learn(mine, in_state(Role.REQUESTOR, AgreementState.APPROVED).status(), NOW, PROVIDER)

    def commit(c: Connection, dies_at: int) -> None:
        if dies_at == 0:
            raise Crash
        store.update(c, after)
        if dies_at == 1:
            raise Crash
        store.log_event(c, after, NOW)
        if dies_at == 2:
            raise Crash

    async def seen(database: Database) -> tuple[AgreementState, int]:
        found = await database.read(lambda c: store.load(c, mine.agreement_id, Role.PROVIDER))
        events = await database.read(lambda c: store.events(c, PROVIDER.node_id, 0, None, 10))
        assert found is not None
        return found.state, len(events)

    path = tmp_path / "node.sqlite3"
    async with open_database(path) as database:
        await database.migrate("market", store.migrations())
        await database.write(lambda c: store.insert(c, mine))
    for dies_at in (0, 1, 2, 99):
        async with open_database(path) as database:
            with contextlib.suppress(Crash):
                await database.write(lambda c, d=dies_at: commit(c, d), durable=True)  # type: ignore[misc]
        async with open_database(path) as database:
            whole = dies_at == 99
            expected = (AgreementState.APPROVED, 1) if whole else (AgreementState.APPROVING, 0)
            assert await seen(database) == expected


async def test_own_offers_remember_their_numbers(database: InlineDatabase) -> None:
    owner = NodeId("0x" + "ab" * 20)
    first = store.OwnOffer(owner, 3, 5, 6, NOW, NOW, NOW + 1, False)
    second = msgspec.structs.replace(first, seq=7, withdrawn=True)
    await database.write(lambda c: store.put_own_offer(c, first))
    await database.write(lambda c: store.put_own_offer(c, second))
    assert await database.read(store.own_offers) == [second]


async def test_expiring_pages(database: InlineDatabase) -> None:
    for number in range(5):
        mine = numbered(number, state=AgreementState.PENDING)
        await database.write(lambda c, mine=mine: store.insert(c, mine))  # type: ignore[misc]
    due = TERMS.valid_to_ns
    pending = AgreementState.PENDING
    assert await database.read(lambda c: store.next_expiry(c, (pending,))) == due
    assert await database.read(lambda c: store.ending_before(c, pending, due, 10)) == []
    assert len(await database.read(lambda c: store.ending_before(c, pending, due + 1, 3))) == 3


async def test_confirmed_agreements_that_nobody_took(database: InlineDatabase) -> None:
    mine = confirmed(Role.REQUESTOR)
    mine = msgspec.structs.replace(mine, confirmed_ns=NOW)
    await database.write(lambda c: store.insert(c, mine))
    assert await database.read(store.next_unreceived) == NOW
    assert await database.read(lambda c: store.unreceived(c, NOW - 1)) == []
    assert await database.read(lambda c: store.unreceived(c, NOW)) == [mine]
    taken = msgspec.structs.replace(mine, received=True)
    await database.write(lambda c: store.update(c, taken))
    assert await database.read(store.next_unreceived) is None


async def test_a_writer_does_not_see_half_of_another(tmp_path: Path) -> None:
    """Twenty tasks take the same agreement a step further at once; one does, and there is one event."""
    mine = advance(confirmed(Role.PROVIDER), Step.REJECT, end=ended(Step.REJECT, Role.PROVIDER))

    def reject(c: Connection) -> bool:
        held = store.load(c, mine.agreement_id, Role.PROVIDER)
        if held is None or held.state is not AgreementState.PENDING:
            return False
        store.update(c, mine)
        store.log_event(c, mine, NOW)
        return True

    async with open_database(tmp_path / "node.sqlite3") as database:
        await database.migrate("market", store.migrations())
        await database.write(lambda c: store.insert(c, confirmed(Role.PROVIDER)))
        done: list[bool] = []
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(_append, database, reject, done)
        assert sorted(done) == [False] * 19 + [True]
        assert len(await database.read(lambda c: store.events(c, PROVIDER.node_id, 0, None, 10))) == 1


async def _append(database: Database, f: object, done: list[bool]) -> None:
    done.append(await database.write(f))  # type: ignore[arg-type]
