"""`SimulatedNode`: the node's own services and agents on a virtual overlay, as `node.app` has them on a real one.

Real are market, payment, activity, files, the provider agent and everything below them but the network, the
clock, chance, the chain and the exe-units. A node has no REST, no door and no disk of its own: its database
is in memory, and only files that a job names are on disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from typing import TYPE_CHECKING

import trio

from node.provider.agent import ProviderAgent
from node.provider.presets import CPU, DURATION
from node.provider.resources import Machine, Resources
from node.provider.runtimes import RuntimeDescriptor
from p2p.entropy import SeededEntropy
from p2p.testing.nodes import memory_node
from protocols.activity.handler import ActivityProtocol
from protocols.files.handler import FilesProtocol
from protocols.market.handler import MarketProtocol
from protocols.payment.handler import PaymentProtocol
from simulations.models.chain import ModelDrivers
from simulations.models.exe_units import ModelLauncher
from simulations.trace import following

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from node.config import Config
    from p2p.identity import NodeId
    from p2p.protocol import NodeContext
    from p2p.storage import Connection
    from p2p.testing.overlay import MemoryNetwork
    from protocols.payment.testing import ModelChain

MACHINE = Machine(
    Resources(threads=4, mem_gib=8.0, storage_gib=50.0), {"golem.inf.cpu.architecture": "model"}
)
RUNTIMES = {
    "wasmtime": RuntimeDescriptor(
        name="wasmtime",
        version="1.0.0",
        supervisor_program=(),
        supervisor_arguments=(),
        counters=(DURATION, CPU),
        properties={"golem.activity.caps.transfer.protocol": ["gftp"]},
    )
}


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What the nodes of one simulation share."""

    seed: int
    network: MemoryNetwork
    chain: ModelChain
    folder: Path
    """Files of exe-units; its path enters neither messages nor trace."""


class SimulatedNode:
    """A node of a simulation; `node.parts.NodeParts`."""

    def __init__(
        self,
        context: NodeContext,
        config: Config,
        *,
        payment: PaymentProtocol,
        activity: ActivityProtocol,
        files: FilesProtocol,
    ) -> None:
        self.database = context.database
        self.config = config
        self.key = context.signer
        self.clock = context.clock
        self.entropy = context.entropy
        self.overlay = context.overlay
        self.bus = context.bus
        self.market = MarketProtocol()
        self.payment = payment
        self.activity = activity
        self.files = files

    def __repr__(self) -> str:
        return f"<SimulatedNode {self.name} {self.node_id}>"

    @property
    def node_id(self) -> NodeId:
        """Return who it is."""
        return self.key.node_id

    @property
    def name(self) -> str:
        """Return the name shown to others."""
        return self.config.text("provider.name")

    async def database_digest(self) -> str:
        """Return a SHA-256 of every row of every table."""
        return await self.database.read(_digest)


def _digest(connection: Connection) -> str:
    digest = hashlib.sha256()
    tables = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
    ).fetchall()
    for (table,) in tables:
        rows = sorted(repr(row) for row in connection.execute(f'SELECT * FROM "{table}"'))  # noqa: S608
        digest.update(repr((table, rows)).encode())
    return digest.hexdigest()


@contextlib.asynccontextmanager
async def simulated_node(world: World, index: int, config: Config) -> AsyncIterator[SimulatedNode]:
    """Run node number `index` of a world, connected with nobody yet; a provider if its configuration says so."""
    async with (
        memory_node(world.network, index, seed=world.seed) as context,
        trio.open_nursery() as nursery,
        contextlib.AsyncExitStack() as stack,
    ):
        stack.callback(nursery.cancel_scope.cancel)
        note = functools.partial(world.network.trace, context.node_id)
        files = FilesProtocol()
        launcher = ModelLauncher(
            context.bus,
            files,
            world.folder / config.text("provider.name"),
            clock=context.clock,
            entropy=SeededEntropy(world.seed, f"exe-units/{index}"),
            nursery=nursery,
            note=note,
        )
        node = SimulatedNode(
            context,
            config,
            payment=PaymentProtocol(drivers=(ModelDrivers(world.chain),)),
            activity=ActivityProtocol(launcher if config["provider.enabled"] else None),
            files=files,
        )
        await stack.enter_async_context(following(context.bus, note))
        for protocol in (node.market, node.payment, node.activity, node.files):
            await stack.enter_async_context(protocol.running(context))
        if config["provider.enabled"]:
            await stack.enter_async_context(ProviderAgent.running(node, RUNTIMES, MACHINE))
        yield node
