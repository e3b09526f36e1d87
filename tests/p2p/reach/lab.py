"""An internet in network namespaces: a core, hosts in networks of their own, and NATs made by nftables.

Needs root, and Debian's `iproute2` and `nftables`. Everything is removed at the end, also after a failure: names
carry the process's id, so that labs do not meet.

What the NATs do (RFC 4787's words): a cone maps the port to itself whoever the other end is (Linux keeps the source
port where it is free: endpoint-independent mapping) and lets in only who was sent to before; a symmetric one draws a
fresh port for each connection (`fully-random`: endpoint-dependent mapping). Both drop what is unasked for, silently,
as routers at home do.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["public", "cone", "symmetric", "dual"]
"""`dual`: behind a symmetric NAT in IPv4, and with an IPv6 address of its own."""

_CLONE_NEWNET = 0x40000000
_NAT = """
table ip nat {{
    chain out {{
        type nat hook postrouting priority srcnat
        oifname "wan" masquerade {how}
    }}
}}
table inet guard {{
    chain through {{
        type filter hook forward priority filter; policy accept
        meta nfproto ipv4 iifname "wan" ct state new drop
        meta nfproto ipv4 iifname "wan" ct state invalid drop
    }}
    chain inwards {{
        type filter hook input priority filter; policy accept
        meta nfproto ipv4 iifname "wan" ct state new drop
    }}
}}
"""


def missing() -> str:
    """Return what is missing to make a lab; empty if nothing is."""
    if os.geteuid() != 0:
        return "root"
    tools = [name for name in ("ip", "nft") if shutil.which(name) is None]
    if tools:
        return f"{' and '.join(tools)} (Debian: apt-get install iproute2 nftables)"
    tried = subprocess.run(
        [
            "unshare",
            "--net",
            "nft",
            "add table ip x; add chain ip x y { type nat hook postrouting priority 100; }",
        ],
        capture_output=True,
        check=False,
    )
    return "" if tried.returncode == 0 else "the right to make network namespaces with NATs"


def enter(namespace: str) -> None:
    """Move this process into a network namespace."""
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns failed")
    finally:
        os.close(descriptor)


class Lab:
    """The namespaces of one lab."""

    def __init__(self) -> None:
        self._prefix = f"lab{os.getpid()}"
        self._made: list[str] = []
        self._networks = 0
        self.core = self._namespace("core")

    def host(self, name: str, kind: Kind) -> str:
        """Make a host; return its namespace."""
        self._networks += 1
        number = self._networks
        namespace = self._namespace(name)
        wan, gateway, six = f"11.0.{number}.2", f"11.0.{number}.1", f"2a00:1:{number}"
        if kind == "public":
            self._cable(self.core, f"c{number}", namespace, "wan")
            self._address(self.core, f"c{number}", f"{gateway}/24")
            self._address(namespace, "wan", f"{wan}/24")
            self._run(namespace, f"ip route add default via {gateway}")
            return namespace
        router = self._namespace(f"{name}-nat")
        self._cable(self.core, f"c{number}", router, "wan")
        self._cable(router, "lan", namespace, "eth0")
        self._address(self.core, f"c{number}", f"{gateway}/24")
        self._address(router, "wan", f"{wan}/24")
        self._address(router, "lan", "192.168.7.1/24")
        self._address(namespace, "eth0", "192.168.7.2/24")
        self._run(router, f"ip route add default via {gateway}")
        self._run(namespace, "ip route add default via 192.168.7.1")
        rules = _NAT.format(how="" if kind == "cone" else "fully-random")
        self._run(router, "nft -f -", rules)
        if kind == "dual":
            self._six(number, six, router, namespace)
        return namespace

    def remove(self) -> None:
        """Remove everything."""
        for namespace in reversed(self._made):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)

    def _six(self, number: int, six: str, router: str, namespace: str) -> None:
        self._address(self.core, f"c{number}", f"{six}:1::1/64", nodad=True)
        self._address(router, "wan", f"{six}:1::2/64", nodad=True)
        self._address(router, "lan", f"{six}:2::1/64", nodad=True)
        self._address(namespace, "eth0", f"{six}:2::2/64", nodad=True)
        self._run(router, f"ip -6 route add default via {six}:1::1")
        self._run(namespace, f"ip -6 route add default via {six}:2::1")
        self._run(self.core, f"ip -6 route add {six}:2::/64 via {six}:1::2")

    def _namespace(self, name: str) -> str:
        full = f"{self._prefix}-{name}"
        subprocess.run(["ip", "netns", "add", full], check=True, capture_output=True)
        self._made.append(full)
        self._run(full, "ip link set lo up")
        self._run(full, "sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'")
        self._run(full, "sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'")
        return full

    def _cable(self, one: str, one_end: str, other: str, other_end: str) -> None:
        self._run(one, f"ip link add {one_end} type veth peer name {other_end} netns {other}")
        self._run(one, f"ip link set {one_end} up")
        self._run(other, f"ip link set {other_end} up")

    def _address(self, namespace: str, device: str, address: str, *, nodad: bool = False) -> None:
        self._run(namespace, f"ip address add {address} dev {device}{' nodad' if nodad else ''}")

    def _run(self, namespace: str, command: str, text: str = "") -> None:
        done = subprocess.run(
            f"ip netns exec {namespace} {command}",
            shell=True,
            input=text,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise OSError(f"{command!r} failed in {namespace}: {done.stderr.strip()}")


@contextmanager
def lab() -> Iterator[Lab]:
    """Make a lab; remove it at exit."""
    made = Lab()
    try:
        yield made
    finally:
        made.remove()
