"""The handler on virtual time: two nodes in memory, found by its entry point, no golem-p2p code changed."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

import golem_hello
import pytest

from p2p.bus import RemoteError
from p2p.protocol import ENTRY_POINT_GROUP
from p2p.testing.nodes import memory_nodes

if TYPE_CHECKING:
    import trio


@pytest.fixture
def handler() -> object:
    (entry,) = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name="hello")
    assert entry.load() is golem_hello.create
    return entry.load()


async def test_greets_over_the_overlay(handler: object, autojump_clock: trio.abc.Clock) -> None:
    async with (
        memory_nodes(2, seed=1) as (a, b),
        golem_hello.create({}).running(a),
        golem_hello.create({"word": "Salut"}).running(b),
    ):
        first = await golem_hello.greet(a.bus, b.node_id, "Ada")
        second = await golem_hello.greet(a.bus, b.node_id, "Ada")
        back = await golem_hello.greet(b.bus, a.node_id, "Bob")
        with pytest.raises(RemoteError, match="1 to 64"):
            await golem_hello.greet(a.bus, b.node_id, "")
    assert (first.text, first.count, second.count) == ("Salut, Ada!", 1, 2)
    assert (back.text, back.count) == ("Hello, Bob!", 1)
    assert second.time_ns > first.time_ns
