"""Classes of streams: what goes first when streams of one session have more to send than the link takes. Pure.

    class      streams                                        goes
    CONTROL    calls, hello, directory, ping, identify,       first; both ends keep little queued on them
               reachability, hole punching
    PACKETS    packets of virtual networks                    with CONTROL, a frame each in turn: late ones are useless
    BULK       files, streaming calls and large bodies,       in what the others leave, and an eighth at least
               gossip, relayed connections, all else

Each protocol has streams of its own, so that its id says the class and both ends agree without telling each other. A
class matters to the session that carries it alone: a peer that claims CONTROL for bulk delays nobody's calls but its
own. Applied by `p2p.session.yamux`.
"""

from __future__ import annotations

import enum
from typing import Final


class StreamClass(enum.Enum):
    """What a stream is for."""

    CONTROL = "control"
    PACKETS = "packets"
    BULK = "bulk"

    @property
    def urgent(self) -> bool:
        """Return whether its frames go before those that are not."""
        return self is not StreamClass.BULK


_OURS: Final = {
    "bus": StreamClass.CONTROL,
    "hello": StreamClass.CONTROL,
    "kad": StreamClass.CONTROL,
    "vpn": StreamClass.PACKETS,
}
"""By the protocol's name: `/golem-p2p/<network>/<name>/<major>`."""
_FOREIGN: Final = ("/ipfs/ping/", "/ipfs/id/", "/libp2p/autonat/", "/libp2p/dcutr")


def class_of(protocol: str) -> StreamClass:
    """Return the class of the streams that speak `protocol`; what is not known is bulk."""
    if protocol.startswith(_FOREIGN):
        return StreamClass.CONTROL
    parts = protocol.split("/", 3)
    if len(parts) < 4 or parts[1] != "golem-p2p":
        return StreamClass.BULK
    return _OURS.get(parts[3].rpartition("/")[0], StreamClass.BULK)
