"""The network on this machine: what is written down for those who join, without real nodes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest

from node.devnet import control
from node.devnet.local import LocalNetwork, LocalState, NodeProcess

if TYPE_CHECKING:
    from pathlib import Path


class Scripted(LocalNetwork):
    """Nodes that are this very process, and an address each."""

    spawned: list[tuple[str, tuple[str, ...]]]
    """What was started, and whom it was told to ask first."""

    def _chain_up(self) -> control.ChainInfo:
        return control.ChainInfo(rpc_url="http://127.0.0.1:1", pid=1, chain_id=1)

    def _spawn(self, state: LocalState, name: str) -> NodeProcess:
        self.spawned.append((name, state.bootstrap))
        return NodeProcess(name, str(self.folder / name), os.getpid(), control.start_time(os.getpid()) or 0)

    def _await_join(self, node: NodeProcess) -> NodeProcess:
        return msgspec.structs.replace(node, address=f"/address/of/{node.name}")


@pytest.fixture
def network(tmp_path: Path) -> Scripted:
    made = Scripted(tmp_path / "net")
    made.spawned = []
    return made


def test_up_again_keeps_how_to_join(network: Scripted) -> None:
    first = network.up(1, lambda line: None)
    again = network.up(1, lambda line: None)
    assert again.bootstrap == first.bootstrap == ("/address/of/provider-1",)
    assert network.state() == again
    assert len(network.spawned) == 1


def test_one_that_is_started_again_is_told_of_those_that_run(network: Scripted) -> None:
    state = network.up(2, lambda line: None)
    survivor = next(node for node in state.nodes if node.name == "provider-2")
    network._save(LocalState(state.rpc, state.bootstrap, (survivor,)))
    state = network.up(2, lambda line: None)
    assert network.spawned[-1] == ("provider-1", ("/address/of/provider-2",))
    assert sorted(state.bootstrap) == ["/address/of/provider-1", "/address/of/provider-2"]


def test_up_after_a_killed_up_finds_out_the_addresses(network: Scripted) -> None:
    started = control.start_time(os.getpid()) or 0
    network.folder.mkdir()
    network._save(LocalState("", (), (NodeProcess("provider-1", "", os.getpid(), started),)))
    state = network.up(1, lambda line: None)
    assert state.bootstrap == ("/address/of/provider-1",)
    assert not network.spawned
