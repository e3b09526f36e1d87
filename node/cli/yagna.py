"""`yagna`: what users of the Golem daemon type, answered by this node in the daemon's own forms.

Only the words that programs and guides for requestors use; anything else says so. Shapes are those of yagna
0.17.6 as recorded; results on stdout, logs on stderr, parse errors exit 1.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from node.cli.common import CliError, NodeClient, config_of, exit_codes

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = "yagna 0.17.6 (golem-p2p)"
OWN = "/golem-p2p/v1"

_VALUED = {
    "-d", "--datadir", "-g", "--gsb-url", "--network", "--driver", "--account", "--api-url", "--id",
    "--allow-origins", "--api-allow-origin", "--metrics-push-url", "--metrics-job-name", "--group",
    "--max-rest-timeout", "--log-dir", "--max-age", "--page", "--per-page", "--last",
}  # fmt: skip


class Arguments:
    """The words and the options of a command line, wherever the options stand."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.words: list[str] = []
        self.options: dict[str, str] = {}
        rest = list(argv)
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition("=")
            if not word.startswith("-"):
                self.words.append(word)
            elif name in _VALUED:
                if not equals and not rest:
                    raise CliError(f"the option {name} needs a value")
                self.options[name] = value if equals else rest.pop(0)
            else:
                self.options[name] = "true"

    def option(self, *names: str) -> str:
        """Return an option's value, or nothing."""
        return next((self.options[name] for name in names if name in self.options), "")

    @property
    def as_json(self) -> bool:
        """Whether JSON is asked for."""
        return "--json" in self.options


def main(argv: Sequence[str] | None = None) -> int:
    """Run `yagna`; returns the exit code."""
    try:
        with exit_codes():
            return _run(Arguments(sys.argv[1:] if argv is None else argv))
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1


def _run(arguments: Arguments) -> int:
    if "--version" in arguments.options or "-V" in arguments.options:
        return _print(VERSION)
    words = arguments.words
    if arguments.option("--help", "-h") or not words:
        sys.stdout.write(_USAGE)
        return 0 if words or arguments.options else 1
    if words[:2] == ["service", "run"]:
        return _service_run(arguments)
    client = NodeClient(config_of(arguments.option("--datadir", "-d")))
    match words:
        case ["service", "shutdown"]:
            client.post(f"{OWN}/shutdown")
            return _json({"Ok": None}) if arguments.as_json else 0
        case ["app-key", "create", name]:
            return _app_key_create(client, arguments, name)
        case ["app-key", "list"]:
            return _app_key_list(client, arguments)
        case ["app-key", "drop", name]:
            client.delete(f"{OWN}/app-keys/{name}")
            return _json(None) if arguments.as_json else 0
        case ["payment", "init"]:
            return _payment_init(client, arguments)
        case ["payment", "fund"]:
            body = _network(arguments)
            document = client.post(f"{OWN}/payment/fund", body, timeout=300)
            return (
                _json(document) if arguments.as_json else _print(f"{document['amount']} {document['token']}")
            )
        case ["payment", "status"]:
            return _payment_status(client, arguments)
        case ["id", "show"] | ["id", "list"]:
            return _id(client, arguments, words[1])
        case ["version", "show"]:
            return _json(client.get("/version/get"))
        case _:
            raise CliError(
                f"`yagna {' '.join(words)}` is not among what golem-p2p answers; see `golem-p2p --help`"
            )


def _service_run(arguments: Arguments) -> int:
    from node.cli.node import main as run_node

    argv = ["run"]
    for option, names in (("--data-dir", ("--datadir", "-d")), ("--api-url", ("--api-url",))):
        value = arguments.option(*names)
        if value:
            argv += [option, value]
    for setting, names in (
        ("bus.url", ("--gsb-url", "-g")),
        ("api.allow-origin", ("--api-allow-origin",)),
    ):
        value = arguments.option(*names)
        if value:
            argv += ["--set", f"{setting}={value}"]
    code: int = run_node(argv)
    return code


def _app_key_create(client: NodeClient, arguments: Arguments, name: str) -> int:
    origins = arguments.option("--allow-origins")
    body = {"name": name, "origins": [origins] if origins else []}
    made = client.post(f"{OWN}/app-keys", body)
    return _json(made["key"]) if arguments.as_json else _print(made["key"])


def _app_key_list(client: NodeClient, arguments: Arguments) -> int:
    keys = [
        {
            "name": key["name"],
            "key": key["key"],
            "id": key["identity"],
            "role": key["role"],
            "created": key["created"].removesuffix("Z"),
        }
        for key in client.get(f"{OWN}/app-keys")
    ]
    if arguments.as_json:
        return _json(keys)
    return _print("\n".join(f"{key['name']}  {key['key']}  {key['id']}  {key['role']}" for key in keys))


def _payment_init(client: NodeClient, arguments: Arguments) -> int:
    sender, receiver = "--sender" in arguments.options, "--receiver" in arguments.options
    body = {**_network(arguments), "send": sender or not receiver, "receive": receiver or not sender}
    client.post(f"{OWN}/payment/init", body)
    return _json(None) if arguments.as_json else 0


def _payment_status(client: NodeClient, arguments: Arguments) -> int:
    document = client.get(f"{OWN}/payment/status", network=arguments.option("--network") or None)
    fields = (
        "amount", "reserved", "token", "driver", "network", "block_datetime", "block_number", "gas",
        "incoming", "outgoing",
    )  # fmt: skip
    if arguments.as_json:
        return _json({field: document[field] for field in fields})
    return _print(
        f"{document['platform']}  {document['amount']} {document['token']}  reserved {document['reserved']}"
        f"  gas {document['gas']['balance']} {document['gas']['currency_short_name']}"
    )


def _id(client: NodeClient, arguments: Arguments, verb: str) -> int:
    node_id = client.get(f"{OWN}/id")["nodeId"]
    if verb == "list":
        entry = {"address": node_id, "alias": None, "default": "X", "locked": "", "delete in progress": ""}
        return _json([entry]) if arguments.as_json else _print(f"{node_id}  default")
    shown = {"alias": None, "deleted": False, "isDefault": True, "isLocked": False, "nodeId": node_id}
    return _json({"Ok": shown}) if arguments.as_json else _print(f"nodeId: {node_id}\nisDefault: true")


def _network(arguments: Arguments) -> dict[str, Any]:
    network = arguments.option("--network")
    return {"network": network} if network else {}


def _json(value: Any) -> int:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    return 0


def _print(text: str) -> int:
    sys.stdout.write(text + "\n")
    return 0


_USAGE = """\
yagna, as golem-p2p answers it:
  yagna service run [--api-url URL] [-d DIR]        start the node
  yagna service shutdown                            stop it
  yagna app-key create NAME | list | drop NAME
  yagna payment init [--sender] [--receiver] [--network N]
  yagna payment fund | status [--network N]
  yagna id show | list
  yagna version show
Options anywhere: --json, -d DIR, -g GSB_URL. All else: `golem-p2p --help`.
"""
