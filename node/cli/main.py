"""`golem-p2p`: finds the verb and runs it.

Verbs are entry points of the group `golem_p2p.commands`, each a `main(argv) -> int`, loaded when they are
called, so that a verb lives with what it drives and `--help` loads none of them.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUP = "golem_p2p.commands"

_HELP = {
    "node": "run a node, or stop the one that runs",
    "status": "how the node is doing, in a glance",
    "id": "who this node is",
    "peers": "with whom this node is connected, and how",
    "ping": "how long it takes to a peer and back, and by which path",
    "netcheck": "what is the matter with the network, and what to do",
    "net": "the network underneath: where nodes are, and what happens",
    "app-key": "keys that programs use to reach the node",
    "payment": "balances, test funds, accounts",
    "offers": "what is on offer in the market now",
    "agreements": "deals of this node",
    "run": "run a WASM program on the market, and pay for it",
    "demo": "what `make run` does: a whole market on this machine computes a picture",
    "devnet": "a chain and providers on this machine, to try things on",
    "config": "every setting, its value, and where that comes from",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `golem-p2p`; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        sys.stdout.write(f"golem-p2p {importlib.metadata.version('golem-p2p')}\n")
        return 0
    verbs = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    verb = verbs.get(arguments[0])
    if verb is None:
        sys.stderr.write(f"golem-p2p: there is no command {arguments[0]!r}. `golem-p2p --help` lists them.\n")
        return 2
    result: int = verb.load()(arguments[1:])
    return result


def _usage() -> str:
    verbs = sorted(entry.name for entry in importlib.metadata.entry_points(group=GROUP))
    known = [name for name in _HELP if name in verbs]
    lines = [
        "Usage: golem-p2p COMMAND ...",
        "",
        "A node of a compute market with no centre.",
        "",
        "Commands:",
    ]
    lines += [f"  {name:<12} {_HELP[name]}" for name in known]
    lines += [f"  {name:<12} (a plug-in)" for name in verbs if name not in _HELP]
    lines += [
        "",
        "`golem-p2p COMMAND --help` tells more. First time? `golem-p2p demo`, or `make run`.",
        "Most commands take --json, and --data-dir for another node's folder.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
