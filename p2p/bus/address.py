"""Addresses of the bus: their form, and what lies below what. Pure.

An address is `/local/...`, `/public/...` or `/net/<node id>/...`, its last segment the method. Segments are
printable ASCII without `/`. Used by the router, the door and the client; nothing is looked up here.
"""

from __future__ import annotations

import functools
import re

from p2p.bus.api import BusError, NoEndpoint

MAX_ADDRESS_CHARS = 512
"""Longest address."""
MAX_SEGMENTS = 16
"""Most segments of an address; a lookup tries each of them."""

_ADDRESS = re.compile(rf"(?:/[!-.0-~]+){{1,{MAX_SEGMENTS}}}\Z")
_NODE_ID = re.compile(r"0x[0-9a-f]{40}\Z")


def well_formed(address: str) -> bool:
    """Return whether `address` is a list of segments, each after a `/`, within the bounds."""
    return len(address) <= MAX_ADDRESS_CHARS and _ADDRESS.match(address) is not None


@functools.lru_cache(maxsize=4096)
def canonical(address: str, own_id: str) -> str:
    """Return the one form of `address` that is looked up and judged by.

    `/net/<own id>/x/M` becomes `/public/x/M`, and a node id is in lower case, so that a rule about an
    address cannot be walked round by another spelling of it.

    Raises:
        NoEndpoint: malformed, or of none of the three kinds.
    """
    if not well_formed(address):
        raise NoEndpoint(address[:MAX_ADDRESS_CHARS], "not an address")
    kind, _, rest = address[1:].partition("/")
    if kind in ("local", "public"):
        if "/" not in rest:
            raise NoEndpoint(address, f"expected /{kind}/<service>/<method>")
        return address
    if kind != "net":
        raise NoEndpoint(address, "addresses begin with /local, /public or /net")
    node_id, _, service = rest.partition("/")
    node_id = node_id.lower()
    if not _NODE_ID.match(node_id) or "/" not in service:
        raise NoEndpoint(address, "expected /net/<node id>/<service>/<method>")
    return f"/public/{service}" if node_id == own_id else f"/net/{node_id}/{service}"


def split_net(address: str) -> tuple[str, str]:
    """Return the node id of a canonical `/net/...` address, and the address as that node serves it."""
    _, _, node_id, service = address.split("/", 3)
    return node_id, f"/public/{service}"


def below(address: str, prefix: str) -> bool:
    """Return whether `address` is `prefix` or lies below it, by whole segments."""
    return address == prefix or address.startswith(prefix + "/")


def check_prefix(prefix: str) -> None:
    """Refuse a prefix that cannot be registered.

    Raises:
        BusError: not `/local/<service>...` or `/public/<service>...`.
    """
    if not well_formed(prefix) or prefix.split("/", 2)[1] not in ("local", "public") or prefix.count("/") < 2:
        raise BusError(
            f"cannot serve {prefix[:MAX_ADDRESS_CHARS]!r}: a service is registered under /local/<service> "
            f"or /public/<service>, with at most {MAX_SEGMENTS} segments of printable ASCII"
        )
