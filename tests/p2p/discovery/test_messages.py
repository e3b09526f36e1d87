"""Hello on the wire, and why two nodes cannot talk."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from p2p.codec import CodecError, decode, encode
from p2p.discovery.exchange import greet
from p2p.discovery.messages import MAX_FRAME_BYTES, Hello, KnownPeer, explain_refusal, is_of_a_node, mismatch
from p2p.identity.alias import AliasRecord

if TYPE_CHECKING:
    from p2p.overlay import Stream

HELLO = Hello(network="devnet", agent="test/1", version=3, oldest=2, addresses=("/memory/x",))
NODE = "0x" + "ab" * 20


def test_hello_survives_the_wire() -> None:
    hello = msgspec.structs.replace(HELLO, peers=(KnownPeer(node_id=NODE, addresses=("/a", "/b")),))
    assert decode(encode(hello), Hello) == hello


def test_the_largest_hello_fits_its_frame() -> None:
    peers = tuple(KnownPeer(node_id=NODE, addresses=("/" * 200,) * 8) for _ in range(32))
    aliases = (AliasRecord(claim=bytes(512), signature=bytes(65)),) * 8
    assert len(encode(msgspec.structs.replace(HELLO, peers=peers, aliases=aliases))) < MAX_FRAME_BYTES


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": "1"},
        {"network": "x" * 65},
        {"agent": "x" * 129},
        {"addresses": ["/a"] * 9},
        {"addresses": ["/" * 257]},
        {"addresses": [""]},
        {"peers": [{"node_id": NODE, "addresses": []}] * 33},
        {"peers": [{"node_id": "0xAB", "addresses": []}]},
        {"peers": [{"node_id": NODE + "\n", "addresses": []}]},
        {"peers": [{"addresses": []}]},
        {"oldest": None},
        {"aliases": [{"claim": b"x", "signature": bytes(65)}] * 9},
        {"aliases": [{"claim": b"x", "signature": bytes(64)}]},
        {"aliases": [{"claim": bytes(513), "signature": bytes(65)}]},
    ],
)
def test_what_is_out_of_bounds_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(CodecError):
        decode(encode(msgspec.to_builtins(HELLO) | change), Hello)


def test_fields_of_a_later_version_are_ignored() -> None:
    assert decode(encode(msgspec.to_builtins(HELLO) | {"mood": "good"}), Hello) == HELLO


def test_mismatch_names_what_differs_and_who_needs_an_update() -> None:
    def other(**changes: object) -> Hello:
        return msgspec.structs.replace(HELLO, **changes)

    assert mismatch(HELLO, other(version=9, oldest=3)) is None
    for changes, why, words in (
        ({"network": "test"}, "network", "'test'"),
        ({"version": 1, "oldest": 1}, "version", "the peer needs an update"),
        ({"version": 9, "oldest": 4}, "version", "this node needs an update"),
    ):
        unfit = mismatch(HELLO, other(**changes))
        assert unfit is not None
        assert unfit.why == why
        assert words in unfit.words


@pytest.mark.parametrize(
    ("protocols", "why", "expected"),
    [
        (("/ipfs/id/1.0.0", "/golem-p2p/test/hello/1"), "network", "on network 'test'"),
        (("/golem-p2p/devnet/hello/2",), "version", "hello/2"),
        (("/ipfs/id/1.0.0",), "stranger", "no golem-p2p node"),
        ((), "stranger", "no golem-p2p node"),
        (("/golem-p2p/" + "x" * 500 + "/hello/1",), "network", "x" * 64 + "'"),
    ],
)
def test_a_refusal_is_explained_by_what_the_peer_serves(
    protocols: tuple[str, ...], why: str, expected: str
) -> None:
    unfit = explain_refusal("devnet", protocols)
    assert unfit.why == why
    assert expected in unfit.words


@pytest.mark.parametrize(
    ("protocol", "node"),
    [
        ("/golem-p2p/devnet/kad/1.0.0", False),
        ("/golem-p2p/test/kad/1.0.0", True),
        ("/golem-p2p/devnet/bus/1", True),
        ("/golem-p2p/devnet/kadx/1", True),
        ("/ipfs/kad/1.0.0", False),
        ("/meshsub/1.2.0", False),
    ],
)
def test_foreign_programs_may_take_part_in_kademlia_and_are_guests_all_the_same(
    protocol: str, node: bool
) -> None:
    assert is_of_a_node(protocol, "devnet") == node


class _Answered:
    """A stream whose other end answers at once, and breaks off when this end finishes before it has read that."""

    peer = "0x" + "1" * 40

    def __init__(self, theirs: Hello) -> None:
        body = encode(theirs)
        self.left = len(body).to_bytes(4, "big") + body
        self.said = b""

    async def send_all(self, data: bytes) -> None:
        self.said += data

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        data, self.left = self.left[:max_bytes], self.left[max_bytes:]
        return data

    async def send_eof(self) -> None:
        raise AssertionError("finished before the answer")


async def test_who_says_hello_does_not_finish_before_the_answer() -> None:
    ours, theirs = HELLO, msgspec.structs.replace(HELLO, agent="they")
    stream = _Answered(theirs)
    assert await greet(cast("Stream", stream), ours) == theirs
    assert decode(stream.said[4:], Hello) == ours
