"""The embedded chain's faucet: coin and test tokens for whoever asks over HTTP.

`/donate/<address>` gives coin, and with `?token=1` test tokens as well. An address that holds enough gets nothing
more, and no address gets more than 100 grants, so that a loop gone wild cannot fill the chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from node.devnet.addresses import CHAIN_ID, FAUCET, FAUCET_KEY, TOKEN
from node.devnet.evm import Request
from p2p.identity.keys import PrivateKey
from protocols.payment.drivers.erc20 import abi
from protocols.payment.drivers.erc20.transaction import Call, address_bytes, sign

if TYPE_CHECKING:
    from node.devnet.chain import Chain

COIN_GRANT_WEI: Final = 10**19
COIN_ENOUGH_WEI: Final = 10**18
TOKEN_GRANT_WEI: Final = 1000 * 10**18
TOKEN_ENOUGH_WEI: Final = 400 * 10**18
GRANTS: Final = 100
_MAX_FEE_WEI: Final = 10**11


class TooMany(Exception):
    """The address has had all its grants."""


class Grant(msgspec.Struct, frozen=True, rename="camel"):
    """What an address was given; no hash where it had enough."""

    address: str
    coin_tx: str | None = None
    token_tx: str | None = None


class Faucet:
    """Gives from the account that the genesis block made rich."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._key = PrivateKey(FAUCET_KEY)
        self._account = address_bytes(FAUCET)

    def donate(self, address: str, *, token: bool) -> Grant:
        """Give an address what it lacks.

        Raises:
            ValueError: no address.
            TooMany: it has had its grants.
            Refused: the chain does not take the transaction.
        """
        receiver = address_bytes(address)
        coin_tx = token_tx = None
        if self._chain.evm.balance(receiver, self._chain.head) < COIN_ENOUGH_WEI:
            coin_tx = self._send(receiver, address, COIN_GRANT_WEI, b"")
        if token and self._tokens(receiver) < TOKEN_ENOUGH_WEI:
            data = abi.call("transfer(address,uint256)", address, TOKEN_GRANT_WEI)
            token_tx = self._send(receiver, TOKEN, 0, data)
        return Grant(address.lower(), coin_tx, token_tx)

    def _tokens(self, address: bytes) -> int:
        data = abi.call("balanceOf(address)", "0x" + address.hex())
        request = Request(
            sender=self._account, to=address_bytes(TOKEN), data=data, value_wei=0, gas_limit=100_000
        )
        return int.from_bytes(self._chain.call(request, self._chain.head), "big")

    def _send(self, receiver: bytes, to: str, value_wei: int, data: bytes) -> str:
        if self._chain.storage.grants(receiver) >= GRANTS:
            raise TooMany(f"0x{receiver.hex()} has had its {GRANTS} grants on this chain")
        call = Call(
            chain_id=CHAIN_ID,
            nonce=self._chain.pending_nonce(self._account),
            priority_fee_wei=1,
            max_fee_wei=_MAX_FEE_WEI,
            gas_limit=100_000 if data else 50_000,
            to=to,
            value_wei=value_wei,
            data=data,
        )
        hash_ = self._chain.submit(sign(call, self._key, "transfer").raw)
        self._chain.storage.add_grant(receiver)
        return "0x" + hash_.hex()
