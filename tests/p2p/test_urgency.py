"""Which streams go first, and that both ends of the bus and of files find the class that is meant."""

from __future__ import annotations

import pytest

from p2p.bus.peer import LONE_PROTOCOL, PROTOCOL
from p2p.overlay import protocol_id
from p2p.ping import PROTOCOL as PING
from p2p.urgency import StreamClass, class_of
from protocols.files.messages import PROTOCOL as FILES


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (protocol_id("devnet", PROTOCOL, 1), StreamClass.CONTROL),
        (protocol_id("main", PROTOCOL, 12), StreamClass.CONTROL),
        (protocol_id("devnet", LONE_PROTOCOL, 1), StreamClass.BULK),
        (protocol_id("devnet", FILES, 1), StreamClass.BULK),
        (protocol_id("devnet", "hello", 1), StreamClass.CONTROL),
        ("/golem-p2p/devnet/kad/1.0.0", StreamClass.CONTROL),
        (protocol_id("devnet", "vpn", 1), StreamClass.PACKETS),
        (protocol_id("devnet", "somebody/else", 1), StreamClass.BULK),
        (PING, StreamClass.CONTROL),
        ("/libp2p/circuit/relay/0.2.0/hop", StreamClass.BULK),
        ("/meshsub/1.2.0", StreamClass.BULK),
        ("/golem-p2p/devnet/bus", StreamClass.BULK),
        ("/other/devnet/bus/1", StreamClass.BULK),
        ("", StreamClass.BULK),
    ],
)
def test_class_of(protocol: str, expected: StreamClass) -> None:
    assert class_of(protocol) is expected
    assert expected.urgent == (expected is not StreamClass.BULK)
