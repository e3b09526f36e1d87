"""Both sides of activities, between nodes in memory, with exe-units that do as planned."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from p2p import codec
from p2p.bus import Caller, NoEndpoint, RemoteError, Service, ServiceError
from protocols.activity.core import DESTROY_AFTER, UNRESPONSIVE_AFTER
from protocols.activity.errors import (
    ActivityError,
    BadRequest,
    Forbidden,
    NotFound,
    TimedOut,
    Unreachable,
)
from protocols.activity.events import ActivityCreated, ActivityEnded
from protocols.activity.messages import (
    REPORT_SERVICE,
    Activities,
    ActivityAgreement,
    ActivityState,
    ActivityUsage,
    BatchAccepted,
    CommandResult,
    CreateActivity,
    DestroyActivity,
    Exec,
    GetActivityAgreement,
    GetActivityState,
    GetActivityUsage,
    GetRunningCommand,
    ListActivities,
    RunningCommands,
    SetActivityState,
    SetActivityUsage,
    State,
)
from protocols.activity.messages import (
    ActivityCreated as Created,
)
from protocols.activity.provider import CHECK_AGREEMENTS_EVERY, COMMIT_TIMEOUT
from protocols.activity.store import ActivityRow
from protocols.market.messages import AgreementState
from tests.protocols.activity.world import AGREEMENT, INITIALIZED, READY, SCRIPT, Side, World, world

if TYPE_CHECKING:
    from trio.testing import MockClock


async def state_of(found: World, activity: str) -> ActivityState:
    state: ActivityState = await found.requestor.requestor.state(found.requestor.id, activity)
    return state


async def stored(side: Side, activity: str) -> ActivityRow:
    row = await side.protocol._store.get(activity)
    assert row is not None
    return row


def ends(side: Side) -> list[ActivityEnded]:
    return [event for event in side.events if isinstance(event, ActivityEnded)]


# --- a whole life -------------------------------------------------------------------------------------------


async def test_a_whole_life(autojump_clock: MockClock) -> None:
    async with world() as found:
        mine, me = found.requestor.requestor, found.requestor.id
        activity = await found.create()
        assert len(activity) == 32
        assert set(activity) <= set("0123456789abcdef")
        assert await state_of(found, activity) == INITIALIZED
        assert await mine.agreement(me, activity) == AGREEMENT
        assert await mine.running(me, activity)
        assert await found.requestor.protocol.ids_of(me, AGREEMENT) == [activity]
        assert await found.provider.protocol.ids_of(found.provider.id, AGREEMENT) == [activity]
        assert await found.provider.protocol.count_alive() == 1

        batch = await mine.exec(me, activity, SCRIPT)
        assert await mine.results(me, activity, batch, timeout=0.0, index=None) == ()
        first = await mine.results(me, activity, batch, timeout=10.0, index=0)
        assert [r.stdout for r in first] == ["did deploy"]
        began = trio.current_time()
        every = await mine.results(me, activity, batch, timeout=None, index=None)
        assert [r.index for r in every] == [0, 1, 2]
        assert [r.is_batch_finished for r in every] == [False, False, True]
        assert trio.current_time() - began < 3, "it does not sleep over the end"
        async with mine.follow(me, activity, batch) as events:
            kinds = [msgspec.to_builtins(item.event.kind) async for item in events]
        assert [next(iter(kind)) for kind in kinds] == ["started", "finished"] * 3

        await found.unit(activity).report(READY)
        assert await state_of(found, activity) == READY
        await trio.sleep(3)
        usage = await mine.usage(me, activity)
        assert usage.current_usage is not None
        assert usage.current_usage[0] > 3

        await mine.destroy(me, activity, timeout=5.0)
        ended = await state_of(found, activity)
        assert ended.state == (State.TERMINATED, None)
        assert found.unit(activity).gone.is_set()
        await mine.destroy(me, activity, timeout=5.0)
        with pytest.raises(Unreachable, match="endpoint address not found"):
            await mine.exec(me, activity, SCRIPT)
        with pytest.raises(Unreachable):
            await mine.results(me, activity, batch, timeout=1.0, index=None)
        assert await found.provider.protocol.count_alive() == 0
        last = (await mine.usage(me, activity)).current_usage
        assert found.provider.events == [
            ActivityCreated(activity, AGREEMENT),
            ActivityEnded(activity, AGREEMENT, last or (), ends(found.provider)[0].reason),
        ]
        assert "destroyed" in ends(found.provider)[0].reason


async def test_the_end_has_the_reason_of_who_ended_it(autojump_clock: MockClock) -> None:
    async with world() as found:
        activity = await found.create()
        await found.requestor.requestor.destroy(found.requestor.id, activity, timeout=5.0)
        row = await stored(found.provider, activity)
        assert row.state == ActivityState((State.TERMINATED, None), reason="destroyed by the requestor")


async def test_a_batch_that_fails_ends_there(autojump_clock: MockClock) -> None:
    async with world() as found:
        mine, me = found.requestor.requestor, found.requestor.id
        found.provider.units.plan.fails_at = 1
        activity = await found.create()
        batch = await mine.exec(me, activity, SCRIPT)
        began = trio.current_time()
        results = await mine.results(me, activity, batch, timeout=60.0, index=None)
        assert [r.result for r in results] == [CommandResult.OK, CommandResult.ERROR]
        assert results[-1].is_batch_finished
        assert trio.current_time() - began < 5
        assert (await mine.results(me, activity, batch, timeout=60.0, index=2))[-1].index == 1


async def test_waiting_for_results(autojump_clock: MockClock) -> None:
    async with world() as found:
        mine, me = found.requestor.requestor, found.requestor.id
        found.provider.units.plan.command_seconds = 45.0
        activity = await found.create()
        batch = await mine.exec(me, activity, SCRIPT)
        with pytest.raises(TimedOut):
            await mine.results(me, activity, batch, timeout=1.0, index=0)
        assert await mine.results(me, activity, batch, timeout=1.0, index=None) == ()
        assert len(await mine.results(me, activity, batch, timeout=60.0, index=0)) == 1
        assert len(await mine.results(me, activity, batch, timeout=60.0, index=1)) == 2
        assert len(await mine.results(me, activity, batch, timeout=None, index=None)) == 3
        with pytest.raises(NotFound, match="batch_id = nobatch"):
            await mine.results(me, activity, "nobatch", timeout=1.0, index=None)
        with pytest.raises(BadRequest):
            await mine.exec(me, activity, "no script")


async def test_a_stream_of_a_batch_that_is_none_is_silent(autojump_clock: MockClock) -> None:
    async with world() as found:
        activity = await found.create()
        async with found.requestor.requestor.follow(found.requestor.id, activity, "none") as events:
            assert [item async for item in events] == []


# --- who may ------------------------------------------------------------------------------------------------


async def test_a_stranger_is_told_of_nothing(autojump_clock: MockClock) -> None:
    async with world() as found:
        activity = await found.create()
        stranger, provider = found.stranger, found.provider
        for request, reply in (
            (GetActivityState(activity), ActivityState),
            (GetActivityUsage(activity), ActivityUsage),
            (DestroyActivity(activity), Any),
            (CreateActivity(provider.id, AGREEMENT), Created),
        ):
            with pytest.raises(RemoteError) as caught:
                await stranger.ask(provider, "activity", request, reply)
            assert caught.value.kind == "notFound"
            unknown = msgspec.structs.replace(request, **{_id_field(request): "0" * 32})
            with pytest.raises(RemoteError) as other:
                await stranger.ask(provider, "activity", unknown, reply)
            assert str(other.value).replace("0" * 32, "") == str(caught.value).replace(activity, "").replace(
                AGREEMENT, ""
            ), "not to be told from what does not exist"
        commands: tuple[tuple[Any, Any], ...] = (
            (Exec(activity, "b" * 32, ()), BatchAccepted),
            (GetRunningCommand(activity), RunningCommands),
        )
        for command, answer in commands:
            with pytest.raises(RemoteError) as caught:
                await stranger.ask(provider, f"exeunit/{activity}", command, answer)
            assert caught.value.kind == "forbidden"
        for service in ("/local/activity", f"/net/{provider.id}/../local/activity"):
            with pytest.raises(NoEndpoint):
                await stranger.ctx.bus.call(
                    f"/net/{provider.id}{service}/SetActivityState",
                    codec.encode(SetActivityState(activity, READY)),
                )
        assert await state_of(found, activity) == INITIALIZED


def _id_field(request: Any) -> str:
    return "agreement_id" if isinstance(request, CreateActivity) else "activity_id"


async def test_another_identity_of_the_requestors_node(autojump_clock: MockClock) -> None:
    async with world() as found:
        activity = await found.create()
        mine, other = found.requestor.requestor, found.stranger.id
        for call in (
            mine.exec(other, activity, SCRIPT),
            mine.results(other, activity, "b", timeout=0.0, index=None),
            mine.state(other, activity),
            mine.usage(other, activity),
            mine.running(other, activity),
            mine.agreement(other, activity),
            mine.destroy(other, activity, timeout=1.0),
        ):
            with pytest.raises(Forbidden):
                await call
        with pytest.raises(Forbidden):
            async with mine.follow(other, activity, "b"):
                pytest.fail("it must not open")
        with pytest.raises(NotFound):
            await mine.create(other, AGREEMENT, timeout=1.0)
        assert await found.requestor.protocol.ids_of(other, AGREEMENT) == []


async def test_what_is_unknown(autojump_clock: MockClock) -> None:
    async with world() as found:
        mine, me = found.requestor.requestor, found.requestor.id
        for call in (
            mine.exec(me, "0" * 32, SCRIPT),
            mine.state(me, "0" * 32),
            mine.destroy(me, "nonsense", timeout=1.0),
        ):
            with pytest.raises(NotFound, match="DAO error: Not found: agreement id for activity"):
                await call
        with pytest.raises(NotFound):
            await mine.create(me, "b2" * 32, timeout=1.0)


async def test_the_provider_sees_its_own_and_commands_nothing(autojump_clock: MockClock) -> None:
    async with world() as found:
        activity = await found.create()
        await trio.sleep(2.5)
        its, provider = found.provider.requestor, found.provider.id
        assert await its.state(provider, activity) == INITIALIZED
        assert (await its.usage(provider, activity)).current_usage
        assert await its.agreement(provider, activity) == AGREEMENT
        for call in (
            its.exec(provider, activity, SCRIPT),
            its.results(provider, activity, "b", timeout=0.0, index=None),
            its.running(provider, activity),
            its.destroy(provider, activity, timeout=1.0),
        ):
            with pytest.raises(Forbidden):
                await call
        assert await state_of(found, activity) == INITIALIZED


# --- agreements ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [state for state in AgreementState if state is not AgreementState.APPROVED])
async def test_only_an_approved_agreement_counts(state: AgreementState, autojump_clock: MockClock) -> None:
    async with world() as found:
        await found.provider.change(AGREEMENT, state)
        with pytest.raises(BadRequest, match=state.value):  # the requestor's node believes it approved
            await found.create()
        await found.requestor.change(AGREEMENT, state)
        await found.provider.change(AGREEMENT, AgreementState.APPROVED)
        with pytest.raises(BadRequest, match=state.value):
            await found.create()
        assert not found.provider.units.made


async def test_one_activity_at_a_time(autojump_clock: MockClock) -> None:
    async with world() as found:
        first = await found.create()
        with pytest.raises(BadRequest, match="destroy it first"):
            await found.create()
        other = await found.create(found.agree("c3" * 32))
        await found.requestor.requestor.destroy(found.requestor.id, first, timeout=5.0)
        second = await found.create()
        assert found.provider.units.running == {other, second}
        assert await found.requestor.protocol.ids_of(found.requestor.id, AGREEMENT) == [first, second]


async def test_two_at_the_same_moment_are_one(autojump_clock: MockClock) -> None:
    async with world() as found:
        outcomes: list[str] = []

        async def create() -> None:
            try:
                outcomes.append(await found.create())
            except BadRequest:
                outcomes.append("refused")

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(create)
        assert outcomes.count("refused") == 4
        assert len(found.provider.units.made) == 1


async def test_the_end_of_the_agreement_is_the_end(autojump_clock: MockClock) -> None:
    async with world() as found:
        activity = await found.create()
        other = await found.create(found.agree("c3" * 32))
        await found.provider.change(AGREEMENT, AgreementState.TERMINATED)
        await trio.sleep(1)
        ended = await state_of(found, activity)
        assert ended == ActivityState((State.TERMINATED, None), reason="the agreement was terminated")
        assert found.provider.units.running == {other}


async def test_agreements_end_while_another_exe_unit_takes_its_time(autojump_clock: MockClock) -> None:
    async with world() as found:
        found.provider.units.plan.stop_seconds = 30.0
        slow = await found.create()
        found.provider.units.plan.stop_seconds = 0.0
        quick = await found.create(found.agree("c3" * 32))
        await found.provider.change(AGREEMENT, AgreementState.TERMINATED)
        await found.provider.change("c3" * 32, AgreementState.TERMINATED)
        await trio.sleep(1)
        assert found.provider.units.running == {slow}
        assert (await state_of(found, quick)).state[0] is State.TERMINATED


async def test_an_end_that_nobody_told_is_seen(autojump_clock: MockClock) -> None:
    async with world() as found:
        await found.create()
        other = await found.create(found.agree("c3" * 32))
        found.provider.agreements[AGREEMENT] = msgspec.structs.replace(
            found.provider.agreements[AGREEMENT], state=AgreementState.TERMINATED
        )
        await trio.sleep(CHECK_AGREEMENTS_EVERY + 5)
        assert found.provider.units.running == {other}
        assert "Terminated, not Approved" in ends(found.provider)[0].reason


async def test_an_agreement_that_ends_while_the_exe_unit_is_launched(autojump_clock: MockClock) -> None:
    async with world() as found:
        found.provider.units.plan.launch_seconds = 5.0
        async with trio.open_nursery() as nursery:

            async def create() -> None:
                with pytest.raises((BadRequest, TimedOut)):
                    await found.create()

            nursery.start_soon(create)
            await trio.sleep(2)
            await found.provider.change(AGREEMENT, AgreementState.TERMINATED)
        await trio.sleep(10)
        assert not found.provider.units.running
        assert len(found.provider.units.made) == 1


async def test_an_activity_that_is_asked_for_before_the_commitment_is_heard(
    autojump_clock: MockClock,
) -> None:
    async with world() as found:
        provider = found.provider
        await provider.change(AGREEMENT, AgreementState.APPROVING)
        made: list[str] = []

        async def create() -> None:
            made.append(await found.create())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(create)
            await trio.sleep(COMMIT_TIMEOUT / 2)
            assert not provider.units.made, "nothing runs under an agreement that does not bind yet"
            await provider.change(AGREEMENT, AgreementState.APPROVED)
            before = trio.current_time()
        assert trio.current_time() - before < 1.0, "it did not wait on"
        assert provider.units.running == set(made)


async def test_an_activity_does_not_wait_for_a_commitment_for_ever(autojump_clock: MockClock) -> None:
    async with world() as found:
        await found.provider.change(AGREEMENT, AgreementState.APPROVING)
        before = trio.current_time()
        with pytest.raises(BadRequest, match="Approving, not Approved"):
            await found.create()
        assert COMMIT_TIMEOUT <= trio.current_time() - before < COMMIT_TIMEOUT + 2
        await found.provider.change(AGREEMENT, AgreementState.CANCELLED)
        before = trio.current_time()
        with pytest.raises(BadRequest, match="Cancelled, not Approved"):
            await found.create()
        assert trio.current_time() - before < 1.0
        assert not found.provider.units.made


async def test_a_commitment_that_nobody_told_of_is_seen(autojump_clock: MockClock) -> None:
    async with world() as found:
        await found.provider.change(AGREEMENT, AgreementState.APPROVING)

        async def commit_silently() -> None:
            await trio.sleep(3)
            view = found.provider.agreements[AGREEMENT]
            found.provider.agreements[AGREEMENT] = msgspec.structs.replace(
                view, state=AgreementState.APPROVED
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit_silently)
            assert await found.create()


# --- starting -----------------------------------------------------------------------------------------------


async def test_a_launcher_that_fails(autojump_clock: MockClock) -> None:
    async with world() as found:
        found.provider.units.plan.refusal = "no such runtime"
        with pytest.raises(BadRequest, match="no such runtime"):
            await found.create()
        assert await found.provider.protocol.count_alive() == 0
        (ended,) = ends(found.provider)
        assert "no such runtime" in ended.reason
        found.provider.units.plan.refusal = ""
        assert await found.create()


async def test_an_exe_unit_that_dies_at_once(autojump_clock: MockClock) -> None:
    async with world() as found:
        found.provider.units.plan.boot_seconds = 10.0
        found.provider.units.plan.dies_after = 0.5
        began = trio.current_time()
        with pytest.raises(BadRequest, match="ended at once"):
            await found.create()
        assert trio.current_time() - began < 2
        assert await found.provider.protocol.count_alive() == 0


async def test_an_exe_unit_that_does_not_begin(autojump_clock: MockClock) -> None:
    async with world() as found:
        found.provider.units.plan.boot_seconds = 1000.0
        began = trio.current_time()
        with pytest.raises(TimedOut):
            await found.create(timeout=20.0)
        assert 20 <= trio.current_time() - began < 23
        assert not found.provider.units.running
        assert await found.provider.protocol.count_alive() == 0


@pytest.mark.parametrize("where", ["launch_seconds", "boot_seconds"])
async def test_an_exe_unit_may_take_its_time_to_begin(where: str, autojump_clock: MockClock) -> None:
    async with world() as found:
        setattr(found.provider.units.plan, where, DESTROY_AFTER + 10)
        activity = await found.create(timeout=29.0)
        assert await state_of(found, activity) == INITIALIZED
        await trio.sleep(60)
        assert found.provider.units.running == {activity}


@pytest.mark.parametrize("where", ["launch_seconds", "boot_seconds"])
async def test_a_requestor_that_gives_up_leaves_nothing_behind(where: str, autojump_clock: MockClock) -> None:
    async with world() as found:
        setattr(found.provider.units.plan, where, 20.0)
        found.provider.units.plan.stop_seconds = 4.0
        with trio.move_on_after(3):
            await found.create()
        await trio.sleep(30)
        assert not found.provider.units.running
        assert await found.provider.protocol.count_alive() == 0
        assert len(ends(found.provider)) == len(
            await found.provider.protocol._store.of_agreement(AGREEMENT, "P")
        )
        found.provider.units.plan = type(found.provider.units.plan)()
        assert await found.create(), "the agreement is free"


async def test_no_time_to_create(autojump_clock: MockClock) -> None:
    async with world() as found:
        with pytest.raises(TimedOut):
            await found.create(timeout=0.0)
        await trio.sleep(10)
        assert not found.provider.units.running


# --- silence and the end ------------------------------------------------------------------------------------


async def test_silence(autojump_clock: MockClock) -> None:
    async with world() as found:
        found.provider.units.plan.silent_after = 3.0
        activity = await found.create()
        await trio.sleep(UNRESPONSIVE_AFTER)
        assert await state_of(found, activity) == INITIALIZED
        await trio.sleep(3.5)
        assert (await state_of(found, activity)).state == (State.UNRESPONSIVE, None)
        await trio.sleep(DESTROY_AFTER - UNRESPONSIVE_AFTER + 2)
        ended = await state_of(found, activity)
        assert ended == ActivityState((State.TERMINATED, None), reason="its exe-unit fell silent")
        assert found.unit(activity).stops == 1
        assert not found.provider.units.running


async def test_a_sign_of_life_brings_it_back(autojump_clock: MockClock) -> None:
    async with world() as found:
        found.provider.units.plan.silent_after = 0.0
        activity = await found.create()
        await trio.sleep(UNRESPONSIVE_AFTER + 2)
        assert (await stored(found.provider, activity)).state.state[0] is State.UNRESPONSIVE
        await found.unit(activity).report_usage(1.0, 1.0)
        assert await state_of(found, activity) == INITIALIZED
        assert (await stored(found.provider, activity)).state == INITIALIZED


async def test_a_stop_that_takes_long_is_asked_for_once(autojump_clock: MockClock) -> None:
    async with world() as found:
        found.provider.units.plan.silent_after = 1.0
        found.provider.units.plan.stop_seconds = 8.0
        activity = await found.create()
        await trio.sleep(40)
        assert found.unit(activity).stops == 1
        assert len(ends(found.provider)) == 1


async def test_a_fall_in_usage_is_no_bill_and_no_silence(autojump_clock: MockClock) -> None:
    async with world() as found:
        found.provider.units.plan.silent_after = 0.0
        activity = await found.create()
        unit = found.unit(activity)
        await unit.report_usage(10.0, 5.0)
        for n in range(20):
            await trio.sleep(1)
            await unit.report_usage(10.0 + n, 4.0)
        for sample in ((math.inf, 6.0), (20.0, -1.0), (20.0,), (20.0, 5.0, 1.0)):
            await unit.report_usage(*sample)
        usage = await found.requestor.requestor.usage(found.requestor.id, activity)
        assert usage.current_usage == (10.0, 5.0)
        assert found.provider.units.running == {activity}
        await unit.report_usage(30.0, 5.0)
        usage = await found.requestor.requestor.usage(found.requestor.id, activity)
        assert usage.current_usage == (30.0, 5.0)


async def test_an_exe_unit_that_says_its_end_and_stays(autojump_clock: MockClock) -> None:
    async with world() as found:
        activity = await found.create()
        await found.unit(activity).report(ActivityState((State.TERMINATED, None), reason="the work is done"))
        assert (await state_of(found, activity)).reason == "the work is done"
        assert found.provider.units.running == {activity}
        await trio.sleep(DESTROY_AFTER + 5)
        assert not found.provider.units.running
        assert [event.reason for event in ends(found.provider)] == ["the work is done"]


async def test_an_exe_unit_that_dies(autojump_clock: MockClock) -> None:
    async with world() as found:
        found.provider.units.plan.dies_after = 3.0
        activity = await found.create()
        await trio.sleep(4)
        assert await state_of(found, activity) == ActivityState(
            (State.TERMINATED, None), reason="the exe-unit ended"
        )
        (ended,) = ends(found.provider)
        assert ended.usage[0] > 1


async def test_what_has_ended_is_forgotten_in_memory(autojump_clock: MockClock) -> None:
    async with world() as found:
        provider: Any = found.provider.protocol.provider
        for _ in range(5):
            activity = await found.create()
            await found.requestor.requestor.destroy(found.requestor.id, activity, timeout=5.0)
        await trio.sleep(5)
        assert not provider._tracked
        assert not provider._units


# --- reports ------------------------------------------------------------------------------------------------


async def test_an_exe_unit_reports_on_itself_alone(autojump_clock: MockClock) -> None:
    async with world() as found:
        activity = await found.create()
        other = await found.create(found.agree("c3" * 32))
        bus: Any = found.provider.ctx.bus
        child = Caller(found.provider.id, local=True, child=other)
        for report in (
            SetActivityState(activity, READY),
            SetActivityUsage(activity, ActivityUsage((1e9, 1e9), 0)),
        ):
            address = f"{REPORT_SERVICE}/{type(report).__name__}"
            with pytest.raises(RemoteError) as caught:
                await bus.call_as(child, address, codec.encode(report), timeout=5)
            assert caught.value.kind == "forbidden"
            unknown = msgspec.structs.replace(report, activity_id="0" * 32)
            with pytest.raises(RemoteError) as caught:
                await bus.call(address, codec.encode(unknown))
            assert caught.value.kind == "notFound"
        assert await state_of(found, activity) == INITIALIZED


async def test_the_nodes_own_parts_ask(autojump_clock: MockClock) -> None:
    async with world() as found:
        activity = await found.create()
        await trio.sleep(2.5)
        bus = found.provider.ctx.bus
        answer = await bus.call(
            "/local/activity/GetActivityAgreement", codec.encode(GetActivityAgreement(activity))
        )
        assert codec.decode(answer, ActivityAgreement).agreement_id == AGREEMENT
        answer = await bus.call("/local/activity/ListActivities", codec.encode(ListActivities(AGREEMENT)))
        (view,) = codec.decode(answer, Activities).activities
        assert (view.activity_id, view.alive, bool(view.usage)) == (activity, True, True)
        with pytest.raises(RemoteError):
            await bus.call("/local/activity/GetActivityAgreement", codec.encode(GetActivityAgreement("x")))


# --- restarts -----------------------------------------------------------------------------------------------


async def test_an_orderly_stop_ends_all(autojump_clock: MockClock) -> None:
    async with world() as found:
        activity = await found.create()
        other = await found.create(found.agree("c3" * 32))
        found.unit(other).plan.stop_seconds = 3.0
        await found.provider.stop()
        assert not found.provider.units.running
        assert (await state_of(found, activity)).state == (State.UNRESPONSIVE, None)
        await found.provider.start()
        assert (await state_of(found, activity)).reason == "the provider's node is stopping"
        assert found.provider.units.sweeps == 2


async def test_what_a_crash_left_is_ended(autojump_clock: MockClock) -> None:
    async with world() as found:
        await found.provider.stop()
        row = ActivityRow(
            "d" * 32, "P", AGREEMENT, found.requestor.id, found.provider.id, READY, (7.0, 3.0), 10**9, 10**9
        )  # fmt: skip
        await found.provider.protocol._store.add(row)
        await found.requestor.protocol._store.add(
            msgspec.structs.replace(row, role="R", peer=found.provider.id, owner=found.requestor.id)
        )
        await found.provider.start()
        await wait_all_tasks_blocked()
        ended = await state_of(found, row.id)
        assert ended == ActivityState((State.TERMINATED, None), reason="the provider's node was restarted")
        (event,) = ends(found.provider)
        assert event.usage == (7.0, 3.0)
        assert await found.create(), "the agreement is free"
        with pytest.raises(Unreachable):
            await found.requestor.requestor.exec(found.requestor.id, row.id, SCRIPT)


# --- a requestor and a provider that is not as it should be -------------------------------------------------


async def test_a_provider_that_is_gone(autojump_clock: MockClock) -> None:
    async with world() as found:
        activity = await found.create()
        mine, me = found.requestor.requestor, found.requestor.id
        network: Any = found.provider.ctx.overlay
        network._world.isolate(found.provider.id)
        gone = await mine.state(me, activity)
        assert gone.state == (State.UNRESPONSIVE, None)
        assert gone.error_message
        for call in (
            mine.exec(me, activity, SCRIPT),
            mine.usage(me, activity),
            mine.running(me, activity),
            mine.destroy(me, activity, timeout=3.0),
            mine.create(me, AGREEMENT, timeout=3.0),
            mine.results(me, activity, "b", timeout=1.0, index=None),
        ):
            with pytest.raises((Unreachable, TimedOut)):
                await call
        with pytest.raises(Unreachable, match="endpoint address not found"):
            async with mine.follow(me, activity, "b"):
                pytest.fail("it must not open")
        network._world.heal()
        assert (await state_of(found, activity)).state[0] in (State.INITIALIZED, State.TERMINATED)


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (ServiceError("notFound", "words"), NotFound),
        (ServiceError("forbidden", "words"), Forbidden),
        (ServiceError("badRequest", "words"), BadRequest),
        (ServiceError("timeout", "words"), TimedOut),
        (ServiceError("usageLimitExceeded", "words"), ActivityError),
        (ServiceError("service", "words"), ActivityError),
        (ServiceError("what ever", "words"), ActivityError),
    ],
)
async def test_errors_by_their_kind(
    raised: Exception, seen: type[ActivityError], autojump_clock: MockClock
) -> None:
    async with world() as found:
        activity = await found.create()

        async def refuse(caller: Caller, request: Any) -> Any:
            raise raised

        await impostor(found, refuse)
        with pytest.raises(seen, match="words") as caught:
            await found.requestor.requestor.usage(found.requestor.id, activity)
        assert type(caught.value) is seen


async def impostor(found: World, handler: Any) -> None:
    """Let another program answer in the provider's place."""
    await found.provider.stop()
    service = Service()
    for request in (CreateActivity, DestroyActivity, GetActivityState, GetActivityUsage):
        service.method(request, handler)
    found.provider.ctx.bus.register("/public/activity", service)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {"activityId": 5},
        {"activityId": ""},
        {"activityId": "../../../local/activity"},
        {"activityId": "x" * 32},
        {"activityId": "A" * 32},
        {"activityId": "a" * 33},
        {"activityId": "a" * 1_000_000},
    ],
)
async def test_a_provider_that_invents_ids(answer: Any, autojump_clock: MockClock) -> None:
    async with world() as found:

        async def lie(caller: Caller, request: Any) -> Any:
            return answer

        await impostor(found, lie)
        with pytest.raises(ActivityError) as caught:
            await found.create()
        assert len(str(caught.value)) < 1000
        assert await found.requestor.protocol.ids_of(found.requestor.id, AGREEMENT) == []


async def test_a_provider_that_gives_an_id_twice(autojump_clock: MockClock) -> None:
    async with world() as found:
        activity = await found.create()

        async def lie(caller: Caller, request: Any) -> Any:
            return Created(activity)

        await impostor(found, lie)
        with pytest.raises(ActivityError, match="once already"):
            await found.create(found.agree("c3" * 32))
        assert await found.requestor.requestor.agreement(found.requestor.id, activity) == AGREEMENT


async def test_results_that_are_none(autojump_clock: MockClock) -> None:
    async with world() as found:
        activity = await found.create()
        mine, me = found.requestor.requestor, found.requestor.id
        await found.provider.stop()

        class Nonsense:
            async def call(self, call: Any) -> bytes:
                return codec.encode({"results": [1]})

            async def stream(self, call: Any) -> Any:
                yield codec.encode({"id": "x"})

        found.provider.ctx.bus.register(f"/public/exeunit/{activity}", Nonsense())
        with pytest.raises(ActivityError):
            await mine.results(me, activity, "b", timeout=1.0, index=None)
        async with mine.follow(me, activity, "b") as events:
            assert [item async for item in events] == []


async def test_events_of_the_provider(autojump_clock: MockClock) -> None:
    async with world() as found:
        provider = found.provider.protocol.provider
        assert provider is not None
        assert await provider.events(0, timeout=2.0) == []
        first = await found.create()
        rows = await provider.events(0, timeout=0.0)
        assert [(row.activity_id, row.kind) for row in rows] == [(first, "CreateActivity")]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: found.requestor.requestor.destroy(found.requestor.id, first, timeout=5.0)
            )
            began = trio.current_time()
            (row,) = await provider.events(rows[-1].time_ns, timeout=60.0)
            assert (row.activity_id, row.kind) == (first, "DestroyActivity")
            assert trio.current_time() - began < 2
        for _ in range(3):
            made = await found.create()
            await found.requestor.requestor.destroy(found.requestor.id, made, timeout=5.0)
        times = [row.time_ns for row in await provider.events(0, timeout=0.0)]
        assert len(times) == 8
        assert times == sorted(set(times))
        assert [row.time_ns for row in await provider.events(times[2], timeout=0.0, limit=3)] == times[3:6]
