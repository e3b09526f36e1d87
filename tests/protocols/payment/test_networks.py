"""The registry agrees with itself, platform names parse strictly, and the environment overrides it."""

from __future__ import annotations

import re

import pytest

from protocols.payment.drivers.erc20.transaction import created_address
from protocols.payment.networks import (
    DEFAULT_NETWORK,
    DEVNET_CHANNEL,
    DEVNET_DEPLOYER,
    DEVNET_LOCK,
    DEVNET_MULTI_TRANSFER,
    DEVNET_TOKEN,
    GWEI,
    NETWORKS,
    Network,
    Platform,
    UnknownPlatform,
    configured,
    live_networks,
    network_of,
    parse_platform,
    resolve_platform,
)

ADDRESS = re.compile(r"0x[0-9a-f]{40}\Z")
EACH = pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)


@EACH
def test_entry_is_consistent(network: Network) -> None:
    assert network.token_symbol == ("glm" if network.production else "tglm")
    for address in (network.token, network.mint, network.multi_transfer, network.lock, network.channel):
        assert address is None or ADDRESS.match(address), address
    assert (network.max_batch == 1) == (network.multi_transfer is None)
    assert network.confirmations >= (5 if network.production else 1)
    assert 0 < network.gas.priority_fee_wei < network.gas.max_fee_wei
    assert bool(network.rpc_urls) != network.dead
    assert not (network.production and (network.mint or network.faucet_url))
    assert parse_platform(network.platform) == Platform("erc20", network.name, network.token_symbol)
    assert str(parse_platform(network.platform)) == network.platform


def test_chain_ids_are_unique() -> None:
    assert len({network.chain_id for network in NETWORKS.values()}) == len(NETWORKS)


def test_devnet_addresses_follow_from_its_deployer() -> None:
    fixed = [DEVNET_TOKEN, DEVNET_MULTI_TRANSFER, DEVNET_LOCK, DEVNET_CHANNEL]
    assert fixed == [created_address(DEVNET_DEPLOYER, nonce) for nonce in range(4)]


def test_live_networks_start_with_the_default_and_leave_out_the_dead() -> None:
    names = [network.name for network in live_networks()]
    assert names[0] == DEFAULT_NETWORK
    assert set(names) == set(NETWORKS) - {"goerli", "mumbai", "rinkeby"}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "erc20",
        "erc20-hoodi",
        "erc20-hoodi-tglm-x",
        "erc20-hoodi-glm",
        "erc20-polygon-tglm",
        "erc20-hoodi-tGLM",
        "ERC20-hoodi-tglm",
        "erc20-nowhere-tglm",
        "-hoodi-tglm",
        "erc 20-hoodi-tglm",
        "érc-hoodi-tglm",
        "a" * 33 + "-hoodi-tglm",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UnknownPlatform):
        parse_platform(name)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, "erc20-hoodi-tglm"),
        ({"token": "tglm"}, "erc20-hoodi-tglm"),
        ({"token": "glm"}, "erc20-polygon-glm"),
        ({"network": "mainnet"}, "erc20-mainnet-glm"),
        ({"network": "devnet"}, "erc20-devnet-tglm"),
        ({"driver": "dummy", "network": "amoy", "token": "tglm"}, "dummy-amoy-tglm"),
    ],
)
def test_missing_parts_are_completed(parts: dict[str, str], expected: str) -> None:
    assert str(resolve_platform(**parts)) == expected


@pytest.mark.parametrize("parts", [{"network": "x"}, {"network": "hoodi", "token": "glm"}, {"token": "GLM"}])
def test_contradictions_are_refused(parts: dict[str, str]) -> None:
    with pytest.raises(UnknownPlatform):
        resolve_platform(**parts)


def test_nothing_set_changes_nothing() -> None:
    for network in NETWORKS.values():
        assert configured(network, {}) == network


def test_environment_overrides() -> None:
    hoodi = configured(
        network_of("erc20-hoodi-tglm"),
        {
            "HOODI_GETH_ADDR": "http://a:1, http://b:2 ,",
            "HOODI_PRIORITY_FEE": "1.5",
            "HOODI_MAX_FEE_PER_GAS": "7",
            "HOODI_TGLM_CONTRACT_ADDRESS": "0x" + "AB" * 20,
            "HOODI_TGLM_FAUCET_ADDRESS": "0x" + "01" * 20,
            "HOODI_MULTI_PAYMENT_CONTRACT_ADDRESS": "0x" + "02" * 20,
            "HOODI_LOCK_PAYMENT_CONTRACT_ADDRESS": "0x" + "03" * 20,
            "ERC20_HOODI_REQUIRED_CONFIRMATIONS": "9",
            "HOODI_FAUCET_URL": "http://f/donate/",
            "POLYGON_GETH_ADDR": "http://elsewhere",
        },
    )
    assert hoodi.rpc_urls == ("http://a:1", "http://b:2")
    assert (hoodi.gas.priority_fee_wei, hoodi.gas.max_fee_wei) == (GWEI * 3 // 2, 7 * GWEI)
    assert hoodi.token == "0x" + "ab" * 20
    assert (hoodi.mint, hoodi.multi_transfer, hoodi.lock) == tuple(
        f"0x{i:02}" * 1 + f"{i:02}" * 19 for i in (1, 2, 3)
    )
    assert (hoodi.confirmations, hoodi.faucet_url) == (9, "http://f/donate")


def test_devnet_faucet_follows_its_rpc_url() -> None:
    devnet = configured(NETWORKS["devnet"], {"DEVNET_GETH_ADDR": "http://127.0.0.1:5"})
    assert devnet.faucet_url == "http://127.0.0.1:5/donate"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HOODI_PRIORITY_FEE", "much"),
        ("HOODI_PRIORITY_FEE", "-1"),
        ("HOODI_MAX_FEE_PER_GAS", "1.0000000001"),
        ("HOODI_TGLM_CONTRACT_ADDRESS", "0x12"),
        ("ERC20_HOODI_REQUIRED_CONFIRMATIONS", "0"),
        ("ERC20_HOODI_REQUIRED_CONFIRMATIONS", "all"),
    ],
)
def test_unusable_setting_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable):
        configured(NETWORKS["hoodi"], {variable: value})
