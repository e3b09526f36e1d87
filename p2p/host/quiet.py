"""What libp2p says and warns of, kept away from the node's own output.

Its loggers report every lost connection as a warning or an error, one module logs on the root logger (which
installs a handler there), and its dependencies warn of deprecations at import. Nothing of it tells a user what
to do; what matters of it is reported by this package in its own words.
"""

from __future__ import annotations

import logging
import warnings

_NAMES = ("libp2p", "multiaddr", "zeroconf")
_WARNS = r"(libp2p|multiaddr|aioquic|zeroconf|base58|multihash|multibase|google|websockets|httpx)(\.|$)"


def hush() -> None:
    """Silence libp2p's loggers and warnings. To be called before its import, and after, which undoes part of it."""
    for name in _NAMES:
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
        logger.setLevel(logging.CRITICAL)
        logger.propagate = False
    warnings.filterwarnings("ignore", module=_WARNS)


def hush_module(module: object) -> None:
    """Give a module that logs on the root logger one of its own."""
    module.logging = logging.getLogger(f"libp2p.{getattr(module, '__name__', 'module')}")  # type: ignore[attr-defined]
