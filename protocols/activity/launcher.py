"""`ExeUnitLauncher`: how a provider's node starts supervisors, without knowing what they are.

In production a supervisor is a process (`node.provider.exeunits`); in simulations a model. Either way it
talks to the node by the bus: it serves `/public/exeunit/<id>` and reports to `/local/activity`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from protocols.market.messages import AgreementView


class LaunchError(Exception):
    """The supervisor could not be started; the message says why."""


class ExeUnit(Protocol):
    """A started supervisor."""

    async def wait(self) -> str:
        """Wait until it is gone, with all that it owned, and return how it ended, in words."""
        ...

    async def stop(self) -> None:
        """End it: in good order first, by force after some seconds. Returns when it is gone."""
        ...


class ExeUnitLauncher(Protocol):
    """Starts supervisors."""

    async def launch(self, activity_id: str, agreement: AgreementView) -> ExeUnit:
        """Start a supervisor for an activity under `agreement`. Raises LaunchError."""
        ...

    async def sweep(self) -> None:
        """Remove what supervisors of an earlier run of this node left behind."""
        ...
