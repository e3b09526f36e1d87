"""Verbs that ask the running node: status, id, app-key, offers, agreements, payment, config."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from node.cli.common import (
    CliError,
    DataDir,
    Json,
    NodeClient,
    NotRunning,
    complain,
    config_of,
    emit,
    make_app,
    moment,
    run_app,
    say,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

OWN = "/golem-p2p/v1"
Network = Annotated[str, typer.Option(help="Payment network; the configured one if not given.")]


# --- status -------------------------------------------------------------------------------------------------


def status(argv: Sequence[str]) -> int:
    """Run `golem-p2p status`."""
    app = make_app("Show how the node is doing.")
    app.info.no_args_is_help = False

    @app.command()
    def show(data_dir: DataDir = "", as_json: Json = False) -> None:
        """Show how the node is doing. Exit code 3 when it is not running.

        Example: golem-p2p status --json | jq .overlay.peers
        """
        document = NodeClient(config_of(data_dir)).get(f"{OWN}/status")
        document["yagna"] = shutil.which("yagna")
        emit(document, as_json, lambda: _show_status(document))

    return run_app(app, argv, "golem-p2p status")


def _show_status(s: dict[str, Any]) -> None:
    overlay, market, payment = s["overlay"], s["market"], s["payment"]
    network = overlay["netcheck"]["summary"] if overlay["joined"] else "joining ..."
    if overlay["joined"] and overlay["netcheck"]["level"] != "ok":
        network += " (see golem-p2p netcheck)"
    say(f"{s['nodeId']}  {s['name']}")
    say(f"running    since {s['since']}, version {s['version']}, pid {s['pid']}")
    say(f"roles      {', '.join(s['roles'])}")
    say(f"overlay    {overlay['network']}: {network}")
    say(f"listening  {', '.join(overlay['listen']) or 'nowhere yet'}")
    say(f"REST       {s['api']}")
    say(
        f"market     {market['ownOffers']} own offers, {market['offers']} known,"
        f" {market['demands']} demands, {market['agreements']} agreements active"
    )
    say(f"activities {s['activities']} running")
    if payment.get("error"):
        say(f"money      ! {payment['error']}")
    else:
        say(
            f"money      {payment['amount']} {payment['token']} on {payment['network']}, {payment['reserved']} reserved"
        )
    say(f"yagna      {s['yagna'] or 'not on the PATH'}")
    for problem in s["problems"]:
        say(f"! {problem}")


# --- id -----------------------------------------------------------------------------------------------------


def identity(argv: Sequence[str]) -> int:
    """Run `golem-p2p id`."""
    app = make_app("Show who this node is.")
    app.info.no_args_is_help = False

    @app.command()
    def show(data_dir: DataDir = "", as_json: Json = False) -> None:
        """Print the node's identity: its NodeId, which is its Ethereum address, and its peer id."""
        document = NodeClient(config_of(data_dir)).get(f"{OWN}/id")

        def people() -> None:
            say(f"node id    {document['nodeId']}")
            say(f"peer id    {document['peerId']}")
            say(f"public key {document['publicKey']}")
            for address in document["addresses"]:
                say(f"address    {address}")

        emit(document, as_json, people)

    return run_app(app, argv, "golem-p2p id")


# --- app-key ------------------------------------------------------------------------------------------------


def app_key(argv: Sequence[str]) -> int:
    """Run `golem-p2p app-key`."""
    app = make_app("Application keys: what a program shows to the node's REST API (YAGNA_APPKEY).")

    @app.command()
    def create(
        name: str,
        data_dir: DataDir = "",
        as_json: Json = False,
        allow_origin: Annotated[list[str] | None, typer.Option(help="Web origin that may use it.")] = None,
    ) -> None:
        """Make a key; an existing name gives its key again. Example: golem-p2p app-key create my-script"""
        body = {"name": name, "origins": allow_origin or []}
        made = NodeClient(config_of(data_dir)).post(f"{OWN}/app-keys", body)
        emit({"schema": "golem-p2p/app-key/1", **made}, as_json, lambda: say(made["key"]))

    @app.command("list")
    def list_keys(data_dir: DataDir = "", as_json: Json = False) -> None:
        """List the keys."""
        keys = NodeClient(config_of(data_dir)).get(f"{OWN}/app-keys")
        rows = [(key["name"], key["key"], key["identity"], moment(key["created"])) for key in keys]
        emit(
            {"schema": "golem-p2p/app-keys/1", "keys": keys},
            as_json,
            lambda: table(("name", "key", "identity", "created"), rows),
        )

    @app.command()
    def drop(name: str, data_dir: DataDir = "", as_json: Json = False) -> None:
        """Remove a key; programs that use it are refused from now on."""
        NodeClient(config_of(data_dir)).delete(f"{OWN}/app-keys/{quote(name, safe='')}")
        emit({"schema": "golem-p2p/app-key-drop/1", "name": name}, as_json, lambda: None)

    return run_app(app, argv, "golem-p2p app-key")


# --- offers, agreements -------------------------------------------------------------------------------------


def offers(argv: Sequence[str]) -> int:
    """Run `golem-p2p offers`."""
    app = make_app("Show what is on offer.")
    app.info.no_args_is_help = False

    @app.command()
    def show(
        data_dir: DataDir = "",
        as_json: Json = False,
        constraints: Annotated[
            str, typer.Option("--filter", help="Only offers that match, such as '(golem.inf.mem.gib>=4)'.")
        ] = "",
    ) -> None:
        """List the offers that this node knows, its own included."""
        found = NodeClient(config_of(data_dir)).get(f"{OWN}/offers", filter=constraints or None)
        rows = [
            (
                o["provider"], o["name"], o["runtime"], o["threads"], o["memGib"], o["price"], moment(o["expires"])
            )
            for o in found
        ]  # fmt: skip
        headers = ("provider", "name", "runtime", "threads", "GiB", "price", "lease until")
        emit({"schema": "golem-p2p/offers/1", "offers": found}, as_json, lambda: table(headers, rows))
        if not found and not as_json:
            nothing = "no offer matches." if constraints else "no offers yet. On devnet: golem-p2p devnet up"
            complain(nothing)

    return run_app(app, argv, "golem-p2p offers")


def agreements(argv: Sequence[str]) -> int:
    """Run `golem-p2p agreements`."""
    app = make_app("Show the node's deals.")
    app.info.no_args_is_help = False

    @app.command()
    def show(
        data_dir: DataDir = "",
        as_json: Json = False,
        state: Annotated[str, typer.Option(help="Only those in this state, such as Approved.")] = "",
    ) -> None:
        """List agreements, newest last."""
        found = NodeClient(config_of(data_dir)).get(f"{OWN}/agreements", state=state or None)
        rows = [
            (a["id"][:16] + "…", a["role"], a["state"], a["peer"], moment(a["created"]), a["paid"])
            for a in found
        ]
        headers = ("agreement", "we are", "state", "with", "created", "paid")
        emit({"schema": "golem-p2p/agreements/1", "agreements": found}, as_json, lambda: table(headers, rows))

    return run_app(app, argv, "golem-p2p agreements")


# --- payment ------------------------------------------------------------------------------------------------


def payment(argv: Sequence[str]) -> int:
    """Run `golem-p2p payment`."""
    app = make_app("Money: balances, test funds, accounts.")

    @app.command()
    def status(data_dir: DataDir = "", as_json: Json = False, network: Network = "") -> None:
        """Show the wallet: balance, reserved, what is owed and what came in."""
        document = NodeClient(config_of(data_dir)).get(f"{OWN}/payment/status", network=network or None)

        def people() -> None:
            say(f"{document['address']} on {document['network']} ({document['platform']})")
            say(f"balance   {document['amount']} {document['token']}, {document['reserved']} reserved")
            say(f"gas       {document['gas']['balance']} {document['gas']['currency_short_name']}")
            for way in ("incoming", "outgoing"):
                figures = document[way]
                say(
                    f"{way:<9} accepted {figures['accepted']['totalAmount']}, confirmed"
                    f" {figures['confirmed']['totalAmount']}, requested {figures['requested']['totalAmount']}"
                )

        emit({"schema": "golem-p2p/payment-status/1", **document}, as_json, people)

    @app.command()
    def fund(data_dir: DataDir = "", as_json: Json = False, network: Network = "") -> None:
        """Get test tokens and gas from the network's faucet, and wait for them."""
        complain("asking the faucet ...")
        body = {"network": network} if network else {}
        document = NodeClient(config_of(data_dir)).post(f"{OWN}/payment/fund", body, timeout=300)
        emit(
            {"schema": "golem-p2p/payment-fund/1", **document},
            as_json,
            lambda: say(f"{document['address']} now has {document['amount']} {document['token']}"),
        )

    @app.command()
    def init(
        data_dir: DataDir = "",
        network: Network = "",
        sender: Annotated[bool, typer.Option(help="Make it usable for paying.")] = True,
        receiver: Annotated[bool, typer.Option(help="Make it usable for being paid.")] = True,
        as_json: Json = False,
    ) -> None:
        """Make the node's account usable on a network."""
        body = {"network": network or None, "send": sender, "receive": receiver}
        made = NodeClient(config_of(data_dir)).post(f"{OWN}/payment/init", body)
        emit(
            {"schema": "golem-p2p/payment-init/1", **made},
            as_json,
            lambda: say(f"{made['address']} can be used on {made['platform']}"),
        )

    return run_app(app, argv, "golem-p2p payment")


# --- config -------------------------------------------------------------------------------------------------


def config(argv: Sequence[str]) -> int:
    """Run `golem-p2p config`."""
    from node.config import OPTIONS

    app = make_app("Show the settings.")
    app.info.no_args_is_help = False

    @app.command()
    def show(data_dir: DataDir = "", as_json: Json = False) -> None:
        """Print every setting with its value and where that comes from.

        Order: flags, environment, config.toml in the data folder, defaults.
        """
        loaded = config_of(data_dir)
        listed = []
        for option in OPTIONS:
            value = loaded.values[option.name]
            hidden = option.secret and value.value
            listed.append(
                {
                    "name": option.name,
                    "value": "(hidden)" if hidden else value.value,
                    "source": value.source,
                    "environment": list(option.env),
                    "help": option.help,
                }
            )
        document = {"schema": "golem-p2p/config/1", "dataDir": str(loaded.data_dir), "settings": listed}

        def people() -> None:
            say(f"data folder: {loaded.data_dir}")
            table(
                ("setting", "value", "from", "environment"),
                [(s["name"], _plain(s["value"]), s["source"], " ".join(s["environment"])) for s in listed],
            )

        emit(document, as_json, people)

    return run_app(app, argv, "golem-p2p config")


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


__all__ = [
    "CliError",
    "NotRunning",
    "agreements",
    "app_key",
    "config",
    "identity",
    "offers",
    "payment",
    "status",
]
