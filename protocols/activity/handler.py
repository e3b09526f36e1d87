"""Activities as a protocol of the node: both sides behind one name.

`requestor` is what REST and the requestor helper call; `provider` serves peers and supervisors. A node without
an `ExeUnitLauncher` runs nothing for others.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from p2p import codec
from p2p.bus import Caller, Service, ServiceError
from protocols.activity.messages import (
    Activities,
    ActivityAgreement,
    ActivityView,
    GetActivityAgreement,
    ListActivities,
)
from protocols.activity.provider import ProviderSide
from protocols.activity.requestor import RequestorSide
from protocols.activity.store import ActivityStore
from protocols.market.events import AgreementChanged
from protocols.market.messages import AGREEMENT_TOPIC, AgreementState, Role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.identity import NodeId
    from p2p.protocol import NodeContext
    from protocols.activity.launcher import ExeUnitLauncher


class ActivityProtocol:
    """The activity protocol's handler; the two sides exist while it is running."""

    name = "activity"

    def __init__(self, launcher: ExeUnitLauncher | None = None) -> None:
        self._launcher = launcher
        self.requestor: RequestorSide
        self.provider: ProviderSide | None = None

    @contextlib.asynccontextmanager
    async def running(self, ctx: NodeContext) -> AsyncIterator[None]:
        """Serve peers, supervisors and the node's own parts."""
        self._store = ActivityStore(ctx.database)
        await self._store.migrate()
        self.requestor = RequestorSide(ctx, self._store)
        public, local = Service(), Service()
        local.method(GetActivityAgreement, self._on_get_agreement)
        local.method(ListActivities, self._on_list)
        async with trio.open_nursery() as nursery:
            if self._launcher is not None:
                self.provider = ProviderSide(ctx, self._store, self._launcher, nursery)
                self.provider.serve(public, local)
                nursery.start_soon(self.provider.watch)
                nursery.start_soon(self._follow_agreements, ctx, self.provider)
            registrations = [ctx.bus.register("/local/activity", local)]
            if self.provider is not None:
                await self.provider.recover()
                registrations.append(ctx.bus.register("/public/activity", public))
            try:
                yield
            finally:
                for registration in registrations[1:]:
                    registration.close()
                if self.provider is not None:
                    with trio.CancelScope(shield=True):
                        await self.provider.stop_all("the provider's node is stopping")
                registrations[0].close()
                nursery.cancel_scope.cancel()

    async def count_alive(self) -> int:
        """Return how many activities run here for others."""
        return len(await self._store.alive("P"))

    async def ids_of(self, actor: NodeId, agreement_id: str) -> list[str]:
        """Return the ids of the actor's activities under an agreement, on either side."""
        rows = await self._store.of_agreement(agreement_id, "R")
        rows += await self._store.of_agreement(agreement_id, "P")
        return [row.id for row in rows if row.owner == actor]

    async def _follow_agreements(self, ctx: NodeContext, provider: ProviderSide) -> None:
        async with ctx.bus.subscribe(AGREEMENT_TOPIC) as items:
            async for item in items:
                change = codec.decode(item, AgreementChanged)
                if change.role is not Role.PROVIDER:
                    continue
                provider.agreement_changed()
                if change.state is AgreementState.TERMINATED:
                    provider.end_agreement(change.agreement_id, "the agreement was terminated")

    async def _on_get_agreement(self, caller: Caller, request: GetActivityAgreement) -> ActivityAgreement:
        row = await self._store.get(request.activity_id)
        if row is None:
            raise ServiceError("notFound", f"no activity {request.activity_id}")
        return ActivityAgreement(row.agreement_id)

    async def _on_list(self, caller: Caller, request: ListActivities) -> Activities:
        rows = await self._store.of_agreement(request.agreement_id, "P")
        rows += await self._store.of_agreement(request.agreement_id, "R")
        return Activities(tuple(ActivityView(row.id, row.state.alive, row.usage) for row in rows))
