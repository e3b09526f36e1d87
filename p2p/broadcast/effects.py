"""What the router wants done, as data. The driver does it; a simulation may do it in its own way."""

from __future__ import annotations

import msgspec

from p2p.broadcast.score import Fault
from p2p.broadcast.wire import IHave, Prune, Rpc, Subscription


class Send(msgspec.Struct, frozen=True):
    """Give `rpc` to `peer`. Sends of one forwarded message follow each other and share one `rpc` object."""

    peer: str
    rpc: Rpc


class Deliver(msgspec.Struct, frozen=True):
    """Have `data` judged by the topic's owner, then call `Router.validated`, whatever happens."""

    peer: str
    """Who sent or forwarded it first."""
    topic: str
    msg_id: bytes
    data: bytes


class Reset(msgspec.Struct, frozen=True):
    """Break off what `peer` is sending to us."""

    peer: str
    reason: str


class Blamed(msgspec.Struct, frozen=True):
    """Nothing to be done: `peer` did something wrong."""

    peer: str
    fault: Fault


Effect = Send | Deliver | Reset | Blamed


class Draft:
    """What one peer is told at the end of an input, gathered into one RPC."""

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []
        self.ihave: list[IHave] = []
        self.iwant: list[bytes] = []
        self.graft: list[str] = []
        self.prune: list[Prune] = []
        self.idontwant: list[bytes] = []

    def rpc(self) -> Rpc:
        """Return the RPC."""
        return Rpc(
            subscriptions=tuple(self.subscriptions),
            ihave=tuple(self.ihave),
            iwant=tuple(self.iwant),
            graft=tuple(self.graft),
            prune=tuple(self.prune),
            idontwant=tuple(self.idontwant),
        )


class Effects:
    """Collects the effects of one input."""

    def __init__(self) -> None:
        self._done: list[Effect] = []
        self._drafts: dict[str, Draft] = {}

    def add(self, effect: Effect) -> None:
        """Add an effect that stands for itself."""
        self._done.append(effect)

    def to(self, peer: str) -> Draft:
        """Return the draft of what `peer` is told."""
        draft = self._drafts.get(peer)
        if draft is None:
            draft = self._drafts[peer] = Draft()
        return draft

    def take(self) -> list[Effect]:
        """Return all effects, drafts last."""
        return self._done + [Send(peer, draft.rpc()) for peer, draft in self._drafts.items()]
