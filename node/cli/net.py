"""Verbs about the network: peers, ping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.common import (
    TIMEOUT,
    DataDir,
    Json,
    NodeClient,
    complain,
    config_of,
    emit,
    make_app,
    printable,
    run_app,
    say,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

NET = "/golem-p2p/v1/net"
PATIENCE = 45.0
"""Seconds that the node has for making a session, over those that its answer takes anyway."""


# --- peers --------------------------------------------------------------------------------------------------


def peers(argv: Sequence[str]) -> int:
    """Run `golem-p2p peers`."""
    app = make_app("Show with whom this node is connected.")
    app.info.no_args_is_help = False

    @app.command()
    def show(data_dir: DataDir = "", as_json: Json = False) -> None:
        """List the peers that this node has a session with, longest first.

        Example: golem-p2p peers --json | jq -r '.peers[].nodeId'
        """
        document = NodeClient(config_of(data_dir)).get(f"{NET}/peers")
        emit(document, as_json, lambda: _show_peers(document))
        if not document["peers"] and not as_json:
            complain("no peers yet. `golem-p2p netcheck` says why")

    return run_app(app, argv, "golem-p2p peers")


def _show_peers(document: dict[str, Any]) -> None:
    rows = [
        (p["nodeId"], p["address"], p["direction"], p["since"], p["agent"])
        for p in document["peers"]
    ]  # fmt: skip
    table(("peer", "address", "dialled", "since", "software"), rows)


# --- ping ---------------------------------------------------------------------------------------------------


def ping(argv: Sequence[str]) -> int:
    """Run `golem-p2p ping`."""
    app = make_app("Measure the way to a peer.")

    @app.command()
    def show(
        peer: Annotated[str, typer.Argument(help="Node id, or an address such as /ip4/192.0.2.1/tcp/4001.")],
        data_dir: DataDir = "",
        as_json: Json = False,
        count: Annotated[int, typer.Option("--count", "-c", min=1, max=100, help="How many.")] = 4,
        interval: Annotated[
            float, typer.Option("--interval", "-i", min=0, max=10, help="Seconds between two.")
        ] = 1.0,
    ) -> int:
        """Send a few bytes to a peer and back, over a stream like those of calls; a session is made if there is none.

        Exit code 6 when the peer cannot be reached, or nothing comes back.

        Example: golem-p2p ping 0xe9c7cdb14a5bc7be46c97be0ee1ef3e2d3b0bb1e -c 10
        """
        body = {"peer": peer, "count": count, "interval": interval}
        timeout = PATIENCE + count * (interval + 5)
        document = NodeClient(config_of(data_dir)).post(f"{NET}/ping", body, timeout=timeout)
        emit(document, as_json, lambda: _show_ping(document))
        return 0 if document["answered"] else TIMEOUT

    return run_app(app, argv, "golem-p2p ping")


def _show_ping(document: dict[str, Any]) -> None:
    say(printable(f"{document['peer']} at {document['address'] or 'an unknown address'}"))
    for number, rtt in enumerate(document["rttMs"], 1):
        say(f"{number:>3}  {'no answer' if rtt is None else f'{rtt:.3f} ms'}")
    line = f"{document['sent']} sent, {document['answered']} answered ({document['lossPercent']:g} % lost)"
    if document["answered"]:
        line += f"; min/avg/max {document['minMs']:.3f}/{document['avgMs']:.3f}/{document['maxMs']:.3f} ms"
    say(line)
    if document["problem"]:
        say(f"! {printable(document['problem'])}")
