"""The node's configuration: flags before environment before `config.toml` before defaults.

Every value is one `Option` with a dotted name. Environment names are the Golem daemon's where it has one.
`load` returns a `Config`: the values, and where each came from (`golem-p2p config` prints that).

Errors: ConfigError, one line that names the option, its source and what was expected.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

FILE_NAME = "config.toml"
DEVNET_FILE = "devnet.json"
"""Written by `golem-p2p devnet up`: how to join the network on this machine."""


class ConfigError(Exception):
    """A value that cannot be used, or a file that cannot be read."""


class Option(msgspec.Struct, frozen=True):
    """One configurable value."""

    name: str
    """Dotted: `api.url` is `url` in section `[api]` of the file."""
    default: Any
    parse: Callable[[str], Any]
    """Reads the text of a flag or of the environment; raises ValueError."""
    help: str
    env: tuple[str, ...] = ()
    """Environment names, the first that is set wins."""
    secret: bool = False
    """Whether `golem-p2p config` hides the value."""


def _flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("expected true or false")


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 10**9:
        raise ValueError("expected a number of seconds above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 < value < 10**6:
        raise ValueError("expected a number above 0")
    return value


def _deny(text: str) -> tuple[str, ...]:
    from p2p.host.limits import Gate, HostLimits

    deny = _list(text)
    Gate(HostLimits(deny=deny), trust_loopback=False)
    return deny


def _volunteer(text: str) -> str:
    lowered = text.strip().lower()
    if lowered == "auto":
        return lowered
    try:
        return "on" if _flag(lowered) else "off"
    except ValueError:
        raise ValueError("expected auto, true or false") from None


def _word(text: str) -> str:
    if not text or len(text) > 64 or not all(c.isalnum() or c in "-_." for c in text):
        raise ValueError("expected a short word of letters, digits, '-', '_' and '.'")
    return text


OPTIONS = (
    Option(
        "api.url",
        "http://127.0.0.1:7465",
        str,
        "Where the REST API listens; port 0 takes a free one.",
        ("YAGNA_API_URL",),
    ),
    Option(
        "api.allow-origin",
        (),
        _list,
        "Web origins that may call the API, comma-separated; * for any.",
        ("YAGNA_API_ALLOW_ORIGIN",),
    ),
    Option(
        "bus.url",
        "",
        str,
        "Unix socket of the local bus, unix:PATH; empty for bus.sock in the data folder.",
        ("GSB_URL",),
    ),
    Option(
        "overlay.network",
        "devnet",
        _word,
        "Which overlay to be part of: devnet, test or main.",
        ("GOLEM_P2P_NETWORK",),
    ),
    Option(
        "overlay.listen",
        ("/ip4/127.0.0.1/tcp/0",),
        _list,
        "Multiaddrs to listen on, comma-separated.",
        ("GOLEM_P2P_LISTEN",),
    ),
    Option(
        "overlay.bootstrap",
        (),
        _list,
        "Multiaddrs of first peers, each ending in /p2p/ID, comma-separated.",
        ("GOLEM_P2P_BOOTSTRAP",),
    ),
    Option(
        "overlay.connections",
        1536,
        _count,
        "Peers that the node has at most; those worth little go before anybody is refused.",
        ("GOLEM_P2P_CONNECTIONS",),
    ),
    Option(
        "overlay.deny",
        (),
        _deny,
        "NodeIds, PeerIds, IP addresses and networks to have nothing to do with, comma-separated.",
        ("GOLEM_P2P_DENY",),
    ),
    Option(
        "overlay.reuse-port",
        True,
        _flag,
        "Dial from the port that is listened on where possible; hole punching needs it.",
        ("GOLEM_P2P_REUSE_PORT",),
    ),
    Option(
        "overlay.dht",
        True,
        _flag,
        "Find nodes by their NodeId, and be found, through the directory that all nodes keep together.",
        ("GOLEM_P2P_DHT",),
    ),
    Option(
        "overlay.relay-client",
        True,
        _flag,
        "Keep places at relays while others cannot dial this node.",
        ("GOLEM_P2P_RELAY_CLIENT",),
    ),
    Option(
        "overlay.relay-server",
        "auto",
        _volunteer,
        "Relay for others: true, false, or auto for while others can dial this node.",
        ("GOLEM_P2P_RELAY_SERVER",),
    ),
    Option(
        "overlay.hole-punching",
        True,
        _flag,
        "Make relayed sessions direct where the NATs allow it.",
        ("GOLEM_P2P_HOLE_PUNCHING",),
    ),
    Option(
        "overlay.port-mapping",
        False,
        _flag,
        "Ask the router to forward the port, by NAT-PMP, PCP or UPnP.",
        ("GOLEM_P2P_PORT_MAPPING",),
    ),
    Option(
        "overlay.mdns",
        False,
        _flag,
        "Find peers on the local network by mDNS; never on devnet.",
        ("GOLEM_P2P_MDNS",),
    ),
    Option(
        "payment.network",
        "devnet",
        _word,
        "Network that money settles on: devnet, hoodi, polygon, ...",
        ("YAGNA_PAYMENT_NETWORK", "YA_PAYMENT_NETWORK"),
    ),
    Option(
        "payment.rpc",
        (),
        _list,
        "JSON-RPC URLs of the payment network, before the built-in ones.",
        ("GOLEM_P2P_PAYMENT_RPC",),
    ),
    Option(
        "payment.cycle",
        0.0,
        float,
        "Longest wait before accepted debts are paid, in seconds; 0 for the network's own.",
        ("PAYMENT_CYCLE_DEFAULT_INTERVAL",),
    ),
    Option(
        "market.ttl",
        3600.0,
        _seconds,
        "Life of an offer or demand, in seconds.",
        ("DEFAULT_SUBSCRIPTION_TTL",),
    ),
    Option(
        "identity.app-key",
        "",
        str,
        "Application key that always exists, named autoconfigured.",
        ("YAGNA_AUTOCONF_APPKEY",),
        secret=True,
    ),
    Option(
        "identity.secret",
        "",
        str,
        "Private key (hex) that becomes the identity at first start.",
        ("YAGNA_AUTOCONF_ID_SECRET",),
        secret=True,
    ),
    Option("identity.password", "", str, "Password of the keystore.", ("GOLEM_P2P_PASSWORD",), secret=True),
    Option(
        "identity.password-file",
        "",
        str,
        "File with the password; empty for `password` in the data folder.",
        ("GOLEM_P2P_PASSWORD_FILE",),
    ),
    Option("provider.enabled", False, _flag, "Offer this machine.", ("GOLEM_P2P_PROVIDER",)),
    Option("provider.name", "", str, "Name shown to others; empty for a made-up one.", ("NODE_NAME",)),
    Option("provider.subnet", "public", _word, "Part of the market to be in.", ("SUBNET", "YAGNA_SUBNET")),
    Option(
        "provider.price-hour",
        "0.025",
        str,
        "GLM for one hour of one CPU in use.",
        ("GOLEM_P2P_PRICE_HOUR",),
    ),
    Option(
        "provider.price-start",
        "0",
        str,
        "GLM for each activity, whatever it does.",
        ("GOLEM_P2P_PRICE_START",),
    ),
    Option("provider.threads", 0, int, "CPU threads to offer; 0 for all but one.", ("YA_RT_CORES",)),
    Option("provider.mem-gib", 0.0, float, "Memory to offer; 0 for 70 % of it.", ("YA_RT_MEM",)),
    Option(
        "provider.storage-gib", 0.0, float, "Disk to offer; 0 for 80 % of what is free.", ("YA_RT_STORAGE",)
    ),
    Option(
        "provider.debit-note-interval",
        120.0,
        _seconds,
        "Seconds between debit notes.",
        ("DEBIT_NOTE_INTERVAL",),
    ),
    Option("log.level", "info", str, "debug, info, warning or error.", ("GOLEM_P2P_LOG",)),
)

_BY_NAME = {option.name: option for option in OPTIONS}


class Value(msgspec.Struct, frozen=True):
    """A value and where it came from."""

    value: Any
    source: str
    """`default`, `flag`, `environment NAME` or the file's path."""


class Config:
    """All values of one node."""

    def __init__(self, data_dir: Path, values: Mapping[str, Value], sections: Mapping[str, Any]) -> None:
        self.data_dir = data_dir
        self.values = values
        self._sections = sections

    def __getitem__(self, name: str) -> Any:
        return self.values[name].value

    def with_flags(self, flags: Mapping[str, str]) -> Config:
        """Return the same configuration with some values given as by flags."""
        values = dict(self.values)
        for name, text in flags.items():
            values[name] = Value(_parse(_BY_NAME[name], text, "flag"), "flag")
        return Config(self.data_dir, values, self._sections)

    def text(self, name: str) -> str:
        """Return a value as text."""
        return str(self.values[name].value)

    def section(self, name: str) -> Mapping[str, Any]:
        """Return `[protocols.<name>]` of the file: a plug-in's own settings."""
        section = self._sections.get(name, {})
        return section if isinstance(section, dict) else {}

    @property
    def bus_path(self) -> Path:
        """Return the path of the local bus's socket."""
        url = self.text("bus.url")
        if not url:
            return self.data_dir / "bus.sock"
        if not url.startswith("unix:"):
            raise ConfigError(f"bus.url is {url!r}: only unix:PATH is supported")
        return Path(url.removeprefix("unix:").replace("///", "/", 1))


def default_data_dir() -> Path:
    """Return the platform's data folder for golem-p2p."""
    return Path(platformdirs.user_data_dir("golem-p2p"))


def load(
    data_dir: Path | None = None,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Gather the configuration.

    Args:
        data_dir: the data folder; None for `YAGNA_DATADIR`, else the platform's.
        flags: dotted name → text, from the command line.
        environ: the environment; None for the process's.

    Raises:
        ConfigError: an unknown name, or a value that does not parse.
    """
    environ = os.environ if environ is None else environ
    folder = data_dir or Path(environ.get("YAGNA_DATADIR") or default_data_dir())
    file = folder / FILE_NAME
    document = _read(file)
    values = {option.name: _value(option, flags or {}, environ, document, file) for option in OPTIONS}
    _join_local(values, devnet_dir(folder, environ) / DEVNET_FILE)
    for name in flags or {}:
        if name not in _BY_NAME:
            raise ConfigError(f"there is no option {name!r}; `golem-p2p config` lists them")
    protocols = document.pop("protocols", {})
    for section, content in document.items():
        keys = [f"{section}.{key}" for key in content] if isinstance(content, dict) else [section]
        for key in keys:
            if key not in _BY_NAME:
                raise ConfigError(f"{file}: there is no option {key!r}; `golem-p2p config` lists them")
    return Config(folder.absolute(), values, protocols)


def devnet_dir(data_dir: Path, environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of the network on this machine: GOLEM_P2P_DEVNET, else `devnet` in the data folder."""
    environ = os.environ if environ is None else environ
    named = environ.get("GOLEM_P2P_DEVNET")
    return Path(named) if named else data_dir / "devnet"


def _join_local(values: dict[str, Value], file: Path) -> None:
    """Where the overlay is devnet and nothing else was said, join the network that runs on this machine."""
    if values["overlay.network"].value != "devnet" or values["overlay.bootstrap"].source != "default":
        return
    try:
        state = json.loads(file.read_bytes())
        bootstrap, rpc = tuple(map(str, state["bootstrap"])), str(state["rpc"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    values["overlay.bootstrap"] = Value(bootstrap, str(file))
    if values["payment.network"].value == "devnet" and values["payment.rpc"].source == "default":
        values["payment.rpc"] = Value((rpc,), str(file))


def _value(
    option: Option,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    document: Mapping[str, Any],
    file: Path,
) -> Value:
    if option.name in flags:
        return Value(_parse(option, flags[option.name], "flag"), "flag")
    for name in option.env:
        if name in environ:
            return Value(_parse(option, environ[name], f"environment {name}"), f"environment {name}")
    section, _, key = option.name.partition(".")
    content = document.get(section, {})
    if isinstance(content, dict) and key in content:
        raw = content[key]
        text = ",".join(map(str, raw)) if isinstance(raw, list) else str(raw)
        return Value(_parse(option, text, str(file)), str(file))
    return Value(option.default, "default")


def _parse(option: Option, text: str, source: str) -> Any:
    try:
        return option.parse(text)
    except ValueError as error:
        shown = "(hidden)" if option.secret else repr(text[:80])
        raise ConfigError(f"{option.name} = {shown} (from {source}): {error}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error
