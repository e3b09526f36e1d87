"""The one registry of payment networks: chains, tokens, contracts, fees and depth, as data.

Every map of the payment protocol that is keyed by network derives from here, so that no network can be
payable but not verifiable. It opens no connection and reads no environment by itself: `configured` is given
the environment. Drivers, the payment core, the CLI and the embedded chain read it.

Addresses are lower case `0x` text throughout; amounts are wei.

Errors: `UnknownPlatform` (a ValueError): a name that is no payment platform of ours.
"""

# ruff: noqa: S105, S106  (a token is a currency here, not a secret)
from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

GWEI: Final = 10**9

DEFAULT_DRIVER: Final = "erc20"
DEFAULT_NETWORK: Final = "hoodi"
"""What a request that names nothing, or only the token `tglm`, means."""
DEFAULT_PRODUCTION_NETWORK: Final = "polygon"
"""What a request that names only the token `glm` means."""

DEVNET_CHAIN_ID: Final = 0x474C4D
"""The letters GLM. Not 1337 or 31337, so that no other tool's chain is taken for ours."""
DEVNET_DEPLOYER: Final = "0x9e2605af281d82e43bec155ef84aa1a8eb48f511"
DEVNET_TOKEN: Final = "0xbd11dcbe6c37f97040a7ee81d6314373bbaa1485"
DEVNET_MULTI_TRANSFER: Final = "0xc70cf0edf8634a11713e72745431616cf50e0eab"
DEVNET_LOCK: Final = "0x9f093e5600201b17ae79a8a3d73c5f7fe3506930"
DEVNET_CHANNEL: Final = "0xa721d7d5759a47db9f7cb9d102c7db1d7f3eec87"
DEVNET_PORT: Final = 19545


class UnknownPlatform(ValueError):
    """The text names no payment platform of the registry."""


class Gas(msgspec.Struct, frozen=True):
    """What a network's transactions may cost."""

    priority_fee_wei: int
    """Tip per gas."""
    max_fee_wei: int
    """Ceiling of base fee and tip together, per gas; above it a transaction waits."""


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """One chain as the payment protocol sees it."""

    name: str
    """As in platform names and as the prefix of environment variables, there in upper case."""
    chain_id: int
    production: bool
    """Whether its token is worth money."""
    token_symbol: str
    """Token part of the platform name: `glm` on production networks, `tglm` elsewhere."""
    token: str
    """The ERC-20 contract."""
    decimals: int = 18
    coin: str
    """The coin that pays for gas, as shown to people."""
    coin_name: str
    confirmations: int
    """Depth at which a payment is settled; 1 means: in the newest block."""
    gas: Gas
    mint: str | None = None
    """Contract whose `create()` grants test tokens."""
    multi_transfer: str | None = None
    lock: str | None = None
    channel: str | None = None
    faucet_url: str | None = None
    """`GET <faucet_url>/<address>` grants coin."""
    rpc_urls: tuple[str, ...] = ()
    rpc_dns: str | None = None
    """A TXT record that lists further RPC endpoints."""
    max_batch: int = 50
    """Payees of one transaction; 1 where there is no multi-transfer contract."""
    transaction_timeout_s: float = 100.0
    """How long a transaction may stay unmined before its fee is raised."""
    dead: bool = False
    """The chain was switched off by its makers; the name still parses, so that old documents can be read."""

    @property
    def platform(self) -> str:
        """Name the platform of the network's token under the default driver."""
        return f"{DEFAULT_DRIVER}-{self.name}-{self.token_symbol}"

    @property
    def rpc_variable(self) -> str:
        """Name the environment variable that holds RPC URLs, separated by commas."""
        return f"{self.name.upper()}_GETH_ADDR"


class Platform(msgspec.Struct, frozen=True):
    """A payment platform's three parts; `str()` gives its name."""

    driver: str
    network: str
    token: str

    def __str__(self) -> str:
        return f"{self.driver}-{self.network}-{self.token}"


_TEST_GAS: Final = Gas(priority_fee_wei=GWEI // 1_000_000, max_fee_wei=20 * GWEI)

# Chain ids, contracts and fees are those that the Golem daemon uses, because both ends of a payment must
# agree on them. Depths are ours: one block (or none) is too shallow for money that a reorganisation can take
# back.
_NETWORKS: Final[tuple[Network, ...]] = (
    Network(
        name="mainnet", chain_id=1, production=True, token_symbol="glm", coin="ETH", coin_name="Ether",
        token="0x7dd9c5cba05e151c895fde1cf355c9a1d5da6429",
        multi_transfer="0xcfd497f7d111f14c3ef7ebeee63771d1506f0af8",
        confirmations=5, gas=Gas(1_010_000_000, 40 * GWEI), max_batch=10,
        rpc_urls=("https://ethereum-rpc.publicnode.com",),
        rpc_dns="mainnet.rpc-node.dev.golem.network",
    ),
    Network(
        name="polygon", chain_id=137, production=True, token_symbol="glm", coin="POL", coin_name="Polygon",
        token="0x0b220b82f3ea3b7f6d9a1d8ab58930c064a2b5bf",
        multi_transfer="0x50100d4faf5f3b09987dea36dc2eddd57a3e561b",
        confirmations=10, gas=Gas(25_011_000_000, 500 * GWEI), max_batch=10,
        rpc_urls=("https://polygon-bor-rpc.publicnode.com",),
        rpc_dns="polygon.rpc-node.dev.golem.network",
    ),
    Network(
        name="hoodi", chain_id=560048, production=False, token_symbol="tglm", coin="tETH",
        coin_name="Hoodi Ether",
        token="0x55555555555556acff9c332ed151758858bd7a26",
        mint="0x500f965199c63865a3e666ca3ff55b64f1c8bc8b",
        multi_transfer="0x222222222220c9269cfb43ed434888f604d1dc21",
        lock="0x472ef33b51f65fb2ada50ffeb0e4a72e9ac22f52",
        confirmations=3, gas=_TEST_GAS, max_batch=10, faucet_url="http://faucet.testnet.golem.network:4004/donate",
        rpc_urls=("https://ethereum-hoodi-rpc.publicnode.com",),
        rpc_dns="hoodi.rpc-node.dev.golem.network",
    ),
    Network(
        name="holesky", chain_id=17000, production=False, token_symbol="tglm", coin="tETH",
        coin_name="Holesky Ether",
        token="0x8888888815bf4db87e57b609a50f938311eed068",
        mint="0xface100969ff47eb58d2cf603321b581a84bceac",
        multi_transfer="0xaaaaaaa00e1841a63342db7188aba84bdee236c7",
        lock="0xfe1b27bac0e3ad39d55c9459ae59894de847dcbf",
        confirmations=3, gas=_TEST_GAS, max_batch=10, faucet_url="http://faucet.testnet.golem.network:4002/donate",
        rpc_urls=("https://ethereum-holesky-rpc.publicnode.com",),
        rpc_dns="holesky.rpc-node.dev.golem.network",
    ),
    Network(
        name="sepolia", chain_id=11155111, production=False, token_symbol="tglm", coin="tETH",
        coin_name="Sepolia Ether", token="0x167b15ada84c63427c6c813b915a42efc72e7175",
        mint="0x31a2a20956a40c2f358fa5cec59d55a9c5d6ff9a",
        confirmations=3, gas=_TEST_GAS, max_batch=1,
        rpc_urls=("https://ethereum-sepolia-rpc.publicnode.com",),
        rpc_dns="sepolia.rpc-node.dev.golem.network",
    ),
    Network(
        name="amoy", chain_id=80002, production=False, token_symbol="tglm", coin="POL",
        coin_name="Amoy Polygon",
        token="0x2b60e60d3fb0b36a7ccb388f9e71570da4c4594f",
        mint="0xf29ff8a13211ac33861986e407190ae5c773d53c",
        multi_transfer="0xa0a51642a594763d78091bf03ee6bf8e8d663bba",
        confirmations=3, gas=Gas(30_111_000_000, 500 * GWEI), max_batch=10,
        rpc_urls=("https://polygon-amoy-bor-rpc.publicnode.com",),
        rpc_dns="amoy.rpc-node.dev.golem.network",
    ),
    Network(
        name="devnet", chain_id=DEVNET_CHAIN_ID, production=False, token_symbol="tglm", coin="dETH",
        coin_name="Devnet Ether", token=DEVNET_TOKEN, mint=DEVNET_TOKEN, multi_transfer=DEVNET_MULTI_TRANSFER,
        lock=DEVNET_LOCK, channel=DEVNET_CHANNEL,
        confirmations=1, gas=Gas(GWEI // 1_000, 20 * GWEI), transaction_timeout_s=5.0,
        faucet_url=f"http://127.0.0.1:{DEVNET_PORT}/donate", rpc_urls=(f"http://127.0.0.1:{DEVNET_PORT}",),
    ),
    Network(
        name="goerli", chain_id=5, production=False, token_symbol="tglm", coin="tETH",
        coin_name="Goerli Ether",
        token="0x33af15c79d64b85ba14aaffaa4577949104b22e8",
        mint="0xcca41b09c1f50320bfb41bd6822bd0cdbdc7d85c",
        multi_transfer="0x7777784f803a7bf1d7f115f849d29ce5706da64a",
        confirmations=3, gas=_TEST_GAS, max_batch=10, dead=True,
    ),
    Network(
        name="mumbai", chain_id=80001, production=False, token_symbol="tglm", coin="POL",
        coin_name="Mumbai Polygon",
        token="0x2036807b0b3aaf5b1858ee822d0e111fddac7018",
        multi_transfer="0x800010d7d0d315dca795110eccf0127cbd76b89f",
        confirmations=3, gas=_TEST_GAS, max_batch=10, dead=True,
    ),
    Network(
        name="rinkeby", chain_id=4, production=False, token_symbol="tglm", coin="tETH",
        coin_name="Rinkeby Ether",
        token="0xd94e3dc39d4cad1dad634e7eb585a57a19dc7efe",
        mint="0x59259943616265a03d775145a2ec371732e2b06c",
        confirmations=3, gas=_TEST_GAS, max_batch=1, dead=True,
    ),
)  # fmt: skip

NETWORKS: Final[Mapping[str, Network]] = {network.name: network for network in _NETWORKS}


def live_networks() -> tuple[Network, ...]:
    """List the networks on which one can pay, the default first."""
    return tuple(
        sorted((n for n in _NETWORKS if not n.dead), key=lambda n: (n.name != DEFAULT_NETWORK, n.name))
    )


def parse_platform(name: str) -> Platform:
    """Read a platform name such as `erc20-hoodi-tglm`.

    The name is lower case and its token is the one of its network (`glm` in production, `tglm` elsewhere).

    Raises:
        UnknownPlatform: anything else, with what would have been right.
    """
    parts = name.split("-")
    if len(parts) != 3:
        raise UnknownPlatform(
            f"platform {name[:80]!r} is not <driver>-<network>-<token>, e.g. erc20-hoodi-tglm"
        )
    return _checked(*parts)


def resolve_platform(
    driver: str | None = None, network: str | None = None, token: str | None = None
) -> Platform:
    """Complete a platform of which some parts are given, as allocation requests do.

    Nothing given, or only `tglm`, means the default test network; only `glm` means polygon.

    Raises:
        UnknownPlatform: the parts contradict each other or name nothing known.
    """
    if network is None:
        network = DEFAULT_PRODUCTION_NETWORK if token == "glm" else DEFAULT_NETWORK
    if token is None and network in NETWORKS:
        token = NETWORKS[network].token_symbol
    return _checked(driver or DEFAULT_DRIVER, network, token or "")


def network_of(platform: str | Platform) -> Network:
    """Look up a platform's network.

    Raises:
        UnknownPlatform: as `parse_platform`.
    """
    parsed = parse_platform(platform) if isinstance(platform, str) else platform
    return NETWORKS[parsed.network]


def configured(network: Network, environment: Mapping[str, str]) -> Network:
    """Apply what an operator set for a network in the environment.

    Variables, as the Golem daemon names them: `<NET>_GETH_ADDR` (RPC URLs, comma list), `<NET>_PRIORITY_FEE`
    and `<NET>_MAX_FEE_PER_GAS` (gwei), `<NET>_GLM_CONTRACT_ADDRESS` or `<NET>_TGLM_CONTRACT_ADDRESS`,
    `<NET>_TGLM_FAUCET_ADDRESS`, `<NET>_MULTI_PAYMENT_CONTRACT_ADDRESS`,
    `<NET>_LOCK_PAYMENT_CONTRACT_ADDRESS`, `ERC20_<NET>_REQUIRED_CONFIRMATIONS`; and ours: `<NET>_FAUCET_URL`.

    Raises:
        ValueError: a variable holds something unusable; the text names it.
    """
    upper = network.name.upper()
    changes: dict[str, object] = {}
    urls = tuple(u.strip() for u in environment.get(network.rpc_variable, "").split(",") if u.strip())
    if urls:
        changes["rpc_urls"] = urls
        if network.name == "devnet":  # one process serves both there
            changes["faucet_url"] = f"{urls[0].rstrip('/')}/donate"
    for variable, field in (
        (f"{upper}_{network.token_symbol.upper()}_CONTRACT_ADDRESS", "token"),
        (f"{upper}_TGLM_FAUCET_ADDRESS", "mint"),
        (f"{upper}_MULTI_PAYMENT_CONTRACT_ADDRESS", "multi_transfer"),
        (f"{upper}_LOCK_PAYMENT_CONTRACT_ADDRESS", "lock"),
    ):
        if value := environment.get(variable):
            changes[field] = _address(variable, value)
    if value := environment.get(f"{upper}_FAUCET_URL"):
        changes["faucet_url"] = value.rstrip("/")
    if value := environment.get(f"ERC20_{upper}_REQUIRED_CONFIRMATIONS"):
        changes["confirmations"] = _number(f"ERC20_{upper}_REQUIRED_CONFIRMATIONS", value, 1, 10_000)
    changes["gas"] = Gas(
        priority_fee_wei=_gwei(environment, f"{upper}_PRIORITY_FEE", network.gas.priority_fee_wei),
        max_fee_wei=_gwei(environment, f"{upper}_MAX_FEE_PER_GAS", network.gas.max_fee_wei),
    )
    return msgspec.structs.replace(network, **changes)


def _checked(driver: str, network: str, token: str) -> Platform:
    if network not in NETWORKS:
        raise UnknownPlatform(
            f"payment network {network[:40]!r} is not known; known are {', '.join(NETWORKS)}"
        )
    wanted = NETWORKS[network].token_symbol
    if token != wanted:
        raise UnknownPlatform(
            f"token {token[:40]!r} does not belong to network {network}; its token is {wanted!r}"
        )
    if not (driver.isascii() and driver.isalnum() and driver == driver.lower()) or len(driver) > 32:
        raise UnknownPlatform(f"payment driver {driver[:40]!r} is not a lower-case name")
    return Platform(driver, network, token)


def _address(variable: str, text: str) -> str:
    lower = text.strip().lower()
    if len(lower) != 42 or not lower.startswith("0x") or any(c not in "0123456789abcdef" for c in lower[2:]):
        raise ValueError(f"{variable} is {text!r}, which is not an address (0x and 40 hex digits)")
    return lower


def _number(variable: str, text: str, least: int, most: int) -> int:
    if not text.strip().isdecimal() or not least <= int(text) <= most:
        raise ValueError(f"{variable} is {text!r}; it must be a whole number from {least} to {most}")
    return int(text)


def _gwei(environment: Mapping[str, str], variable: str, fallback: int) -> int:
    text = environment.get(variable)
    if not text:
        return fallback
    whole, _, part = text.strip().partition(".")
    if not (whole + part).isdecimal() or len(part) > 9:
        raise ValueError(f"{variable} is {text!r}; it must be gwei per gas, such as 25 or 0.5")
    return int(whole or "0") * GWEI + int(part.ljust(9, "0"))
