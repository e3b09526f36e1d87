"""Where things are on the embedded chain: fixed, and the same on every machine.

The contracts' addresses follow from the deployer's address and its nonces 0, 1, 2, 3 alone, not from their
code. The registry (`protocols.payment.networks`) holds them for everybody; here are the secrets that go with
them, which only the chain's own process and tests use. They are published on purpose: coin of this chain is
worth nothing.
"""

from __future__ import annotations

from typing import Final

from protocols.payment.networks import (
    DEVNET_CHAIN_ID,
    DEVNET_CHANNEL,
    DEVNET_DEPLOYER,
    DEVNET_LOCK,
    DEVNET_MULTI_TRANSFER,
    DEVNET_TOKEN,
)

CHAIN_ID: Final = DEVNET_CHAIN_ID
DEPLOYER: Final = DEVNET_DEPLOYER
TOKEN: Final = DEVNET_TOKEN
MULTI_TRANSFER: Final = DEVNET_MULTI_TRANSFER
LOCK: Final = DEVNET_LOCK
CHANNEL: Final = DEVNET_CHANNEL

DEPLOYER_KEY: Final = bytes.fromhex("4b3f08f7483e6a14bfd733e7ecda648b01959374a45e9c1f25e073fa93b3eac7")
"""Keccak-256 of `golem-p2p devnet deployer`."""
FAUCET_KEY: Final = bytes.fromhex("f0651279bd538ecdfe8c5364e61363a4c965c8236c9ba36aff9646aaf6ab2165")
"""Keccak-256 of `golem-p2p devnet faucet`; the genesis block gives this account all coin."""
FAUCET: Final = "0x0b23c94f2ac4ef40ab75847382d909727fb53121"
