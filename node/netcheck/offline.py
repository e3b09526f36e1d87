"""A netcheck without a running node: is the port free, and do the first peers answer?

A short-lived overlay with a key of its own dials them, so the node's key is not asked for, nothing is served, and
nobody can take this visit for the node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.netcheck.facts import Facts, Listening
from node.netcheck.probe import dial
from p2p.clock import SystemClock
from p2p.discovery import DiscoverySettings
from p2p.entropy import SystemEntropy
from p2p.identity import PrivateKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.config import Config
    from node.netcheck.facts import Bootstrap


async def examine_offline(config: Config) -> Facts:
    """Return what can be found out about a node that does not run."""
    from p2p import host

    await host.prepare()
    network = config.text("overlay.network")
    return Facts(
        network=network,
        listen=config["overlay.listen"],
        running=False,
        listening=tuple([await _free(address) for address in config["overlay.listen"]]),
        bootstrap=tuple(await _dial(network, config["overlay.bootstrap"])),
    )


async def _free(address: str) -> Listening:
    from p2p.host.addresses import InvalidAddress, parse_address
    from p2p.host.listening import check_free

    try:
        await check_free(parse_address(address))
    except InvalidAddress as error:
        return Listening(address, str(error))
    except OSError as error:
        return Listening(address, error.strerror or str(error))
    return Listening(address)


async def _dial(network: str, bootstrap: Sequence[str]) -> list[Bootstrap]:
    from p2p import host

    if not bootstrap:
        return []
    entropy = SystemEntropy()
    overlay = host.LibP2POverlay(
        PrivateKey.generate(entropy),
        network,
        listen=(),
        clock=SystemClock(),
        entropy=entropy,
        agent="golem-p2p netcheck",
        settings=DiscoverySettings(target_peers=0),
    )
    async with overlay.running():
        return await dial(overlay, bootstrap)
