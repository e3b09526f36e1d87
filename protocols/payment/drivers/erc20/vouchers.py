"""Vouchers of the payment channel contract: what a channel's id is, and what its signers sign.

Pure; the contract `node/devnet/contracts/channel.vy` computes the same. A voucher says how much of a channel
the payee may have in all so far; the largest one counts, so repeating one is harmless. Digests are EIP-712,
bound to the chain and the contract, so a voucher is worth nothing anywhere else.
"""

from __future__ import annotations

from typing import Final

import msgspec

from p2p.identity.node_id import keccak256
from protocols.payment.drivers.erc20 import abi

CONFIG_TYPE: Final = "(address,address,address,uint64,bytes32)"
"""A channel's settings as the contract takes them."""
MOST_WEI: Final = (1 << 96) - 1
"""Deposits and cumulative amounts have 96 bits."""

_DOMAIN: Final = keccak256(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
_NAME: Final = keccak256(b"golem-p2p channel")
_VERSION: Final = keccak256(b"1")
_VOUCHER: Final = keccak256(b"Voucher(bytes32 channelId,uint96 cumulative)")
_CLOSE: Final = keccak256(b"Close(bytes32 channelId,uint96 cumulative)")


class ChannelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's settings, which never change; they and the contract make its id."""

    payer: str
    payee: str
    signer: str
    """Whose vouchers count: the payer, or a key that it keeps at hand."""
    challenge_s: int
    """How long the payee has to claim after the payer asked to close; at most 30 days."""
    salt: bytes
    """32 bytes that make several channels of one pair differ."""

    @property
    def values(self) -> tuple[str, str, str, int, bytes]:
        """Give the settings in the order of `CONFIG_TYPE`."""
        return self.payer, self.payee, self.signer, self.challenge_s, self.salt


def channel_id(config: ChannelConfig, chain_id: int, contract: str) -> bytes:
    """Give a channel's id on one chain and contract."""
    return keccak256(abi.encode(("uint256", "address", CONFIG_TYPE), (chain_id, contract, config.values)))


def voucher_digest(channel: bytes, cumulative_wei: int, chain_id: int, contract: str) -> bytes:
    """Give what the channel's signer signs to let the payee have `cumulative_wei` in all.

    Raises:
        abi.AbiError: the amount has more than 96 bits.
    """
    return _digest(_VOUCHER, channel, cumulative_wei, chain_id, contract)


def close_digest(channel: bytes, cumulative_wei: int, chain_id: int, contract: str) -> bytes:
    """Give what the payee signs to agree to a close at `cumulative_wei`, without the challenge time.

    Raises:
        abi.AbiError: the amount has more than 96 bits.
    """
    return _digest(_CLOSE, channel, cumulative_wei, chain_id, contract)


def _digest(kind: bytes, channel: bytes, cumulative_wei: int, chain_id: int, contract: str) -> bytes:
    types = ("bytes32", "bytes32", "bytes32", "uint256", "address")
    domain = keccak256(abi.encode(types, (_DOMAIN, _NAME, _VERSION, chain_id, contract)))
    message = keccak256(abi.encode(("bytes32", "bytes32", "uint96"), (kind, channel, cumulative_wei)))
    return keccak256(b"\x19\x01" + domain + message)
