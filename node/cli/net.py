"""Verbs about the network: peers, ping, netcheck, net."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.common import (
    FAILURE,
    NOT_FOUND,
    TIMEOUT,
    DataDir,
    Json,
    NodeClient,
    NotRunning,
    complain,
    config_of,
    emit,
    make_app,
    printable,
    run_app,
    say,
    table,
)
from p2p.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.config import Config

NET = "/golem-p2p/v1/net"
PATIENCE = 45.0
"""Seconds that the node has for making a session, over those that its answer takes anyway."""
CHECK_PATIENCE = 180.0
"""Seconds that the node has for a netcheck: many first peers that are silent take their time."""


# --- peers --------------------------------------------------------------------------------------------------


def peers(argv: Sequence[str]) -> int:
    """Run `golem-p2p peers`."""
    app = make_app("Show with whom this node is connected.")
    app.info.no_args_is_help = False

    @app.command()
    def show(data_dir: DataDir = "", as_json: Json = False) -> None:
        """List the peers that this node has a session with: nodes, longest first, then guests.

        Guests are programs of other kinds that speak libp2p. `in` means that the peer dialled.

        Example: golem-p2p peers --json | jq -r '.peers[].nodeId'
        """
        document = NodeClient(config_of(data_dir)).get(f"{NET}/peers")
        emit(document, as_json, lambda: _show_peers(document))
        if not document["peers"] and not as_json:
            complain("no peers yet. `golem-p2p netcheck` says why")

    return run_app(app, argv, "golem-p2p peers")


def _show_peers(document: dict[str, Any]) -> None:
    named = [(p["nodeId"], p) for p in document["peers"]] + [(g["peerId"], g) for g in document["guests"]]
    now_ns = SystemClock().utc_ns()
    rows = [
        (
            name,
            p["address"],
            p["direction"],
            p["path"],
            _milliseconds(p["rttMs"]),
            _age(p["since"], now_ns),
            p["agent"],
        )
        for name, p in named
    ]
    table(("peer", "address", "dialled", "path", "rtt", "for", "software"), rows)


def _age(since: str, now_ns: int) -> str:
    """Return for how long something has lasted, to two digits or so."""
    began = dt.datetime.fromisoformat(since[:19]).replace(tzinfo=dt.UTC)
    seconds = max(0, now_ns // 10**9 - round(began.timestamp()))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _second(time: str) -> str:
    """Return a time without the fractions of its second, which people do not read."""
    return time.partition(".")[0].removesuffix("Z") + "Z"


def _milliseconds(rtt: float | None) -> str:
    return "" if rtt is None else f"{rtt:.1f} ms"


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
    way = f", {document['path']}" if document["path"] else ""
    say(printable(f"{document['peer']} at {document['address'] or 'an unknown address'}{way}"))
    for number, rtt in enumerate(document["rttMs"], 1):
        say(f"{number:>3}  {'no answer' if rtt is None else f'{rtt:.3f} ms'}")
    line = f"{document['sent']} sent, {document['answered']} answered ({document['lossPercent']:g} % lost)"
    if document["answered"]:
        line += f"; min/avg/max {document['minMs']:.3f}/{document['avgMs']:.3f}/{document['maxMs']:.3f} ms"
    say(line)
    if document["problem"]:
        say(f"! {printable(document['problem'])}")


# --- net ----------------------------------------------------------------------------------------------------


def net(argv: Sequence[str]) -> int:
    """Run `golem-p2p net`."""
    app = make_app("The network underneath: where nodes are, and what happens.")

    @app.command()
    def find(
        node_id: Annotated[str, typer.Argument(help="0x and 40 hexadecimal digits.")],
        data_dir: DataDir = "",
        as_json: Json = False,
        connect: Annotated[
            bool, typer.Option("--connect", "-c", help="Try to reach it, if there is no session.")
        ] = False,
    ) -> int:
        """Show where a node may be reached, and who says so: a session, the address book, the directory.

        Exit code 4 when nobody knows, 6 when it was to be reached and could not be.

        Example: golem-p2p net find 0xe9c7cdb14a5bc7be46c97be0ee1ef3e2d3b0bb1e --connect
        """
        body = {"peer": node_id, "connect": connect}
        document = NodeClient(config_of(data_dir)).post(f"{NET}/find", body, timeout=PATIENCE + 60)
        emit(document, as_json, lambda: _show_found(document))
        if connect:
            return TIMEOUT if document["attempt"]["problem"] else 0
        return 0 if document["addresses"] else NOT_FOUND

    @app.command()
    def events(
        data_dir: DataDir = "",
        as_json: Json = False,
        follow: Annotated[
            bool, typer.Option("--follow", "-f", help="Go on with new ones until Ctrl-C.")
        ] = False,
        limit: Annotated[
            int, typer.Option("--limit", "-n", min=0, max=1000, help="How many of the newest.")
        ] = 50,
    ) -> None:
        """Show what happened on the network lately: peers that came, went or were dropped, and why; dials that failed.

        With --follow, --json prints a line of JSON for each event. docs/observability.md lists them.

        Example: golem-p2p net events --follow --json | jq -r 'select(.event == "peer-dropped") | .reason'
        """
        client = NodeClient(config_of(data_dir))
        document = client.get(f"{NET}/events", limit=limit)
        if not follow:
            emit(document, as_json, lambda: _show_events(document["events"]))
            return
        show = _print_line if as_json else _show_event
        for event in document["events"]:
            show(event)
        for event in client.follow(f"{NET}/events/stream", after=document["last"]):
            show(event)
        complain("the node has stopped")

    return run_app(app, argv, "golem-p2p net")


def _show_found(document: dict[str, Any]) -> None:
    say(f"{document['nodeId']} is {'connected' if document['connected'] else 'not connected'}")
    rows = [(a["source"], a["address"], _about(a)) for a in document["addresses"]]
    if rows:
        table(("from", "address", "what is known"), rows)
    else:
        asked = ", nor does the directory" if document["directory"] else ""
        complain(f"this node knows no address of it{asked}: it was never dialled, and no peer told of it")
    attempt = document["attempt"]
    if attempt and attempt["problem"]:
        complain(printable(f"it cannot be reached: {attempt['problem']}"))
    elif attempt:
        place = f" at {attempt['address']}, {attempt['path']}" if "address" in attempt else ""
        say(printable(f"reached{place}, in {attempt['seconds']:.3f} s"))


def _about(address: dict[str, Any]) -> str:
    if address["source"] == "session":
        return f"{'dialled by it' if address['direction'] == 'in' else 'dialled by us'}, {address['path']}"
    if address["source"] == "directory":
        return "signed by the node"
    proven = f"it was there at {_second(address['provenAt'])}" if address["provenAt"] else "not proven"
    failed = f", failed {address['failures']} times since" if address["failures"] else ""
    teller = f", told by {address['toldBy']}" if address["toldBy"] else ""
    return proven + failed + teller


def _show_events(events: Sequence[dict[str, Any]]) -> None:
    for event in events:
        _show_event(event)
    if not events:
        complain("nothing has happened on the network yet")


def _show_event(event: dict[str, Any]) -> None:
    shown = {k: v for k, v in event.items() if k not in ("seq", "at", "event", "reason")}
    words = " ".join(f"{name}={value}" for name, value in shown.items())
    reason = f"  {event['reason']}" if event.get("reason") else ""
    say(printable(f"{_second(event['at'])}  {event['event']:<17}  {words}{reason}"))
    sys.stdout.flush()


def _print_line(event: dict[str, Any]) -> None:
    say(json.dumps(event))
    sys.stdout.flush()


# --- netcheck -----------------------------------------------------------------------------------------------

_COLOURS = {"ok": "32", "warn": "33", "fail": "31"}


def netcheck(argv: Sequence[str]) -> int:
    """Run `golem-p2p netcheck`."""
    app = make_app("Find out what is the matter with the network.")
    app.info.no_args_is_help = False

    @app.command()
    def show(data_dir: DataDir = "", as_json: Json = False) -> int:
        """Look at everything that connects this node with others, and say what to do about what is wrong.

        Also without a running node: then it looks whether the port is free and the first peers answer.
        OK is well, WARN works worse than it could or may be wanted so, FAIL keeps the node from its work.
        Exit code 1 when anything fails.

        Example: golem-p2p netcheck --json | jq '.checks[] | select(.level != "ok")'
        """
        config = config_of(data_dir)
        try:
            document = NodeClient(config).post(f"{NET}/check", timeout=CHECK_PATIENCE)
        except NotRunning:
            document = _offline(config)
        emit(document, as_json, lambda: _show_checks(document))
        return FAILURE if document["level"] == "fail" else 0

    return run_app(app, argv, "golem-p2p netcheck")


def _offline(config: Config) -> dict[str, Any]:
    import msgspec
    import structlog
    import trio

    from node.netcheck.judge import judge, worst
    from node.netcheck.offline import examine_offline

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # what is wrong is said below
    complain("no node is running; dialling the first peers without one ...")
    facts = trio.run(examine_offline, config)
    checks = judge(facts)
    return {
        "schema": "golem-p2p/netcheck/1",
        "level": worst(checks),
        "facts": msgspec.to_builtins(facts),
        "checks": msgspec.to_builtins(checks),
    }


def _show_checks(document: dict[str, Any]) -> None:
    colourful = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    for check in document["checks"]:
        word = f"{check['level'].upper():<4}"
        if colourful:
            word = f"\x1b[{_COLOURS[check['level']]}m{word}\x1b[0m"
        say(f"{word}  {check['name']:<10} {printable(check['says'])}")
        for line in check["details"]:
            say(f"{'':<17}{printable(line)}")
        for line in check["do"]:
            say(f"{'':<14}-> {printable(line)}")
    counts = [check["level"] for check in document["checks"]]
    fail, warn = counts.count("fail"), counts.count("warn")
    say("all is well" if not fail + warn else f"{fail} failed, {warn} to look at")
