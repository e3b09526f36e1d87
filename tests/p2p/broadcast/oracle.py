"""libp2p's own pubsub messages and keys, as the judge of ours; and structs of ours as hypothesis makes them."""

from __future__ import annotations

import warnings
from typing import Any

from hypothesis import strategies as st

from p2p.broadcast import wire

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from libp2p.crypto.secp256k1 import create_new_key_pair
    from libp2p.peer.id import ID
    from libp2p.pubsub.pb import rpc_pb2
    from libp2p.pubsub.validators import signature_validator

__all__ = ["ID", "create_new_key_pair", "from_libp2p", "rpc_pb2", "rpcs", "signature_validator", "to_libp2p"]

_ids = st.binary(min_size=1, max_size=50)
_topics = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
_messages = st.builds(
    wire.Message,
    author=st.binary(min_size=1, max_size=50),
    data=st.binary(min_size=1, max_size=300),
    seqno=st.binary(min_size=8, max_size=8),
    topic=_topics,
    signature=st.binary(max_size=72),
    key=st.binary(max_size=40),
)
_peers = st.builds(wire.PeerRecord, peer_id=_ids, signed_record=st.binary(max_size=200))
rpcs = st.builds(
    wire.Rpc,
    subscriptions=st.lists(
        st.builds(wire.Subscription, topic=_topics, subscribe=st.booleans()), max_size=4
    ).map(tuple),
    publish=st.lists(_messages, max_size=3).map(tuple),
    ihave=st.lists(
        st.builds(wire.IHave, topic=_topics, ids=st.lists(_ids, max_size=5).map(tuple)), max_size=3
    ).map(tuple),
    iwant=st.lists(_ids, max_size=5).map(tuple),
    graft=st.lists(_topics, max_size=3).map(tuple),
    prune=st.lists(
        st.builds(
            wire.Prune,
            topic=_topics,
            backoff=st.integers(0, 2**64 - 1),
            peers=st.lists(_peers, max_size=3).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
    idontwant=st.lists(_ids, max_size=5).map(tuple),
)


def to_libp2p(rpc: wire.Rpc) -> Any:
    """Return what libp2p would send to say the same."""
    out = rpc_pb2.RPC()
    for entry in rpc.subscriptions:
        out.subscriptions.add(subscribe=entry.subscribe, topicid=entry.topic)
    for message in rpc.publish:
        given = {"signature": message.signature, "key": message.key}
        out.publish.add(
            from_id=message.author,
            data=message.data,
            seqno=message.seqno,
            topicIDs=[message.topic],
            **{name: value for name, value in given.items() if value},
        )
    for have in rpc.ihave:
        out.control.ihave.add(topicID=have.topic, messageIDs=have.ids)
    if rpc.iwant:
        out.control.iwant.add(messageIDs=rpc.iwant)
    for topic in rpc.graft:
        out.control.graft.add(topicID=topic)
    for prune in rpc.prune:
        entry = out.control.prune.add(topicID=prune.topic)
        for peer in prune.peers:
            entry.peers.add(
                peerID=peer.peer_id,
                **({"signedPeerRecord": peer.signed_record} if peer.signed_record else {}),
            )
        if prune.backoff:
            entry.backoff = prune.backoff
    if rpc.idontwant:
        out.control.idontwant.add(messageIDs=rpc.idontwant)
    return out


def from_libp2p(rpc: Any) -> wire.Rpc:
    """Return in our structs what libp2p understood."""
    return wire.Rpc(
        subscriptions=tuple(wire.Subscription(e.topicid, e.subscribe) for e in rpc.subscriptions),
        publish=tuple(
            wire.Message(m.from_id, m.data, m.seqno, m.topicIDs[0] if m.topicIDs else "", m.signature, m.key)
            for m in rpc.publish
        ),
        ihave=tuple(wire.IHave(e.topicID, tuple(e.messageIDs)) for e in rpc.control.ihave),
        iwant=tuple(i for e in rpc.control.iwant for i in e.messageIDs),
        graft=tuple(e.topicID for e in rpc.control.graft),
        prune=tuple(
            wire.Prune(
                e.topicID, e.backoff, tuple(wire.PeerRecord(p.peerID, p.signedPeerRecord) for p in e.peers)
            )
            for e in rpc.control.prune
        ),
        idontwant=tuple(i for e in rpc.control.idontwant for i in e.messageIDs),
    )
