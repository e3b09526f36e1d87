"""`yagna`: what users of the Golem daemon type, answered by this node in the daemon's own forms.

Only the words that programs and guides for requestors use; anything else says so. Shapes are those of yagna
0.17.6 as recorded; results on stdout, logs on stderr, parse errors exit 1.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from node.cli.common import FAILURE, INTERRUPTED, CliError, NodeClient, config_of, exit_codes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERSION = "yagna 0.17.6 (golem-p2p)"
OWN = "/golem-p2p/v1"

_VALUED = {
    "-d", "--datadir", "-g", "--gsb-url", "--network", "--driver", "--account", "--api-url", "--id",
    "--api-allow-origin", "--metrics-push-url", "--metrics-job-name", "--group",
    "--max-rest-timeout", "--log-dir", "--max-age", "--page", "--per-page", "--last",
}  # fmt: skip
_MANY_VALUED = {"--allow-origins"}
_FLAGS = {
    "-h", "--help", "-V", "--version", "--json", "--sender", "--receiver", "--precise", "--disable-metrics-push",
    "--debug", "--gracefully",
}  # fmt: skip
_GROUPS = ("service", "app-key", "payment", "id", "version")


class Arguments:
    """The words and the options of a command line, wherever the options stand.

    Raises:
        CliError: an option that is none of ours.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.words: list[str] = []
        self.options: dict[str, list[str]] = {}
        rest = list(argv)
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition("=")
            if not word.startswith("-"):
                self.words.append(word)
                continue
            values = self.options.setdefault(name, [])
            if name in _MANY_VALUED or name in _VALUED:
                if not equals and (not rest or rest[0].startswith("-")):
                    raise CliError(f"the option {name} needs a value")
                values.append(value if equals else rest.pop(0))
                while name in _MANY_VALUED and rest and not rest[0].startswith("-"):
                    values.append(rest.pop(0))
            elif word not in _FLAGS:
                raise CliError(f"Found argument '{word}' which wasn't expected; see `yagna --help`")

    def option(self, *names: str) -> str:
        """Return an option's last value, or nothing."""
        return next((self.options[name][-1] for name in names if self.options.get(name)), "")

    def has(self, *names: str) -> bool:
        """Return whether an option was given."""
        return any(name in self.options for name in names)

    @property
    def as_json(self) -> bool:
        """Whether JSON is asked for."""
        return self.has("--json")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `yagna`; returns the exit code, which is 1 for whatever went wrong, as the daemon's."""
    try:
        with exit_codes():
            return _run(Arguments(sys.argv[1:] if argv is None else argv))
    except SystemExit as ended:
        return INTERRUPTED if ended.code == INTERRUPTED else FAILURE


def _run(arguments: Arguments) -> int:
    if arguments.has("--version", "-V"):
        return _print(VERSION)
    words = arguments.words
    if arguments.has("--help", "-h"):
        return _print(_USAGE, end="")
    if not words or words[0] not in _GROUPS:
        _print(_USAGE, end="")
        return FAILURE
    if len(words) == 1:
        sys.stderr.write(_USAGE)
        return FAILURE
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
        case ["app-key", "show", name]:
            return _app_key_show(client, arguments, name)
        case ["app-key", "drop", name]:
            client.delete(f"{OWN}/app-keys/{quote(name, safe='')}")
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
        case ["id", "list"]:
            return _id_list(client, arguments)
        case ["id", "show"]:
            return _id_show(client, arguments, "")
        case ["id", "show", who]:
            return _id_show(client, arguments, who)
        case ["version", "show"]:
            return _version_show(client, arguments)
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
    origins = ",".join(arguments.options.get("--api-allow-origin", []))
    settings = {"bus.url": arguments.option("--gsb-url", "-g"), "api.allow-origin": origins}
    for setting, value in settings.items():
        if value:
            argv += ["--set", f"{setting}={value}"]
    code: int = run_node(argv)
    return code


def _app_key_create(client: NodeClient, arguments: Arguments, name: str) -> int:
    body = {"name": name, "origins": arguments.options.get("--allow-origins", [])}
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


def _app_key_show(client: NodeClient, arguments: Arguments, name: str) -> int:
    for key in client.get(f"{OWN}/app-keys"):
        if key["name"] == name:
            shown = {
                "allowOrigins": key["allowOrigins"],
                "createdDate": key["created"].removesuffix("Z"),
                "identity": key["identity"],
                "key": key["key"],
                "name": key["name"],
                "role": key["role"],
            }
            return _json(shown) if arguments.as_json else _print(_lines(shown))
    raise CliError(f"there is no application key named {name!r}")


def _payment_init(client: NodeClient, arguments: Arguments) -> int:
    sender, receiver = arguments.has("--sender"), arguments.has("--receiver")
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


def _id_list(client: NodeClient, arguments: Arguments) -> int:
    node_id = client.get(f"{OWN}/id")["nodeId"]
    entry = {"address": node_id, "alias": None, "default": "X", "delete in progress": "", "locked": ""}
    return _json([entry]) if arguments.as_json else _print(f"{node_id}  default")


def _id_show(client: NodeClient, arguments: Arguments, who: str) -> int:
    node_id = client.get(f"{OWN}/id")["nodeId"]
    shown = None
    if who.lower() in ("", "default", node_id):
        shown = {"alias": None, "deleted": False, "isDefault": True, "isLocked": False, "nodeId": node_id}
    return _json({"Ok": shown}) if arguments.as_json else _print(_lines(shown or {"Ok": None}))


def _version_show(client: NodeClient, arguments: Arguments) -> int:
    document = client.get("/version/get")
    current = document["current"]
    words = f"Your Yagna is up to date: Version {current['version']} '({current['name']})'"
    return _json(document) if arguments.as_json else _print(words)


def _network(arguments: Arguments) -> dict[str, Any]:
    network = arguments.option("--network")
    return {"network": network} if network else {}


def _json(value: Any) -> int:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    return 0


def _print(text: str, *, end: str = "\n") -> int:
    sys.stdout.write(text + end)
    return 0


def _lines(shown: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in shown.items())


_USAGE = """\
yagna, as golem-p2p answers it:
  yagna service run [--api-url URL] [-d DIR]        start the node
  yagna service shutdown                            stop it
  yagna app-key create NAME [--allow-origins O...] | list | show NAME | drop NAME
  yagna payment init [--sender] [--receiver] [--network N]
  yagna payment fund | status [--network N]
  yagna id show [ID] | list
  yagna version show
Options anywhere: --json, -d DIR, -g GSB_URL. All else: `golem-p2p --help`.
"""


if __name__ == "__main__":
    raise SystemExit(main())
