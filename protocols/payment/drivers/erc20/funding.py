"""Test coin from a faucet and test tokens from the mint, step by step, with patience.

`Erc20Driver.fund` is its only caller. Every step looks at the chain first, so that a run that was broken off
goes on where it stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import httpx
import trio

from protocols.payment.drivers.base import Funding
from protocols.payment.drivers.errors import BadTransfer, ChainUnavailable, TransactionRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from protocols.payment.drivers.base import Balance, Receipt, SignedTransaction, Signer
    from protocols.payment.networks import Network

COIN_ENOUGH_WEI: Final = 9 * 10**15
"""The faucet is asked below this: 0.009."""
TOKEN_ENOUGH_WEI: Final = 400 * 10**18
"""The mint refuses whoever has this much."""
PATIENCE_S: Final = 120.0
_T = TypeVar("_T")
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 5.0


class _Chain(Protocol):
    @property
    def network(self) -> Network: ...
    async def balance(self, address: str) -> Balance: ...
    async def broadcast(self, raw: bytes) -> None: ...
    async def receipt(self, tx_hash: str) -> Receipt | None: ...
    async def sign_mint(self, nonce: int, signer: Signer) -> SignedTransaction: ...


async def fund(
    chain: _Chain, client: httpx.AsyncClient, signer: Signer, nonce: int, progress: Callable[[str], None]
) -> Funding:
    """Give an address test coin and tokens, as `PaymentDriver.fund` says."""
    network = chain.network
    if network.production:
        raise BadTransfer(
            f"{network.name} is a production network: its {network.token_symbol} is bought, not minted"
        )
    address = signer.node_id
    balance = await chain.balance(address)
    if balance.gas_wei < COIN_ENOUGH_WEI:
        progress(f"asking the {network.name} faucet for {network.coin}")
        await _ask_faucet(client, network, address)
        balance = await _until(
            lambda: chain.balance(address),
            lambda now: now.gas_wei >= COIN_ENOUGH_WEI,
            f"the faucet's {network.coin} did not arrive at {address}",
        )
    minted: SignedTransaction | None = None
    if balance.token_wei < TOKEN_ENOUGH_WEI and network.mint is not None:
        progress(f"minting {network.token_symbol}")
        minted = await chain.sign_mint(nonce, signer)
        await chain.broadcast(minted.raw)
        tx_hash = minted.tx_hash
        receipt = await _until(
            lambda: chain.receipt(tx_hash),
            lambda now: now is not None,
            f"the mint transaction {tx_hash} was not mined",
        )
        if receipt is None or not receipt.succeeded:
            raise TransactionRefused(f"the mint transaction {tx_hash} failed on the chain")
        balance = await chain.balance(address)
    return Funding(balance, minted)


async def _ask_faucet(client: httpx.AsyncClient, network: Network, address: str) -> None:
    if network.faucet_url is None:
        raise TransactionRefused(
            f"{address} has too little {network.coin} and {network.name} has no faucet that we know; "
            f"get some there, or set {network.name.upper()}_FAUCET_URL"
        )
    url = f"{network.faucet_url}/{address}"
    try:
        response = await client.get(url, timeout=30.0)
    except httpx.HTTPError as error:
        raise ChainUnavailable(
            f"the {network.name} faucet at {network.faucet_url} does not answer ({type(error).__name__})"
        ) from error
    if response.status_code >= 500:
        raise ChainUnavailable(f"the {network.name} faucet answered {response.status_code}; try again later")
    if response.status_code >= 400:
        raise TransactionRefused(
            f"the {network.name} faucet refused {address}: {response.status_code} {response.text[:200]}"
        )


async def _until(ask: Callable[[], Awaitable[_T]], good: Callable[[_T], bool], failure: str) -> _T:
    """Ask again and again until the answer is good.

    Raises:
        TransactionRefused: patience ended; says `failure`.
    """
    pause = _FIRST_PAUSE_S
    with trio.move_on_after(PATIENCE_S):
        while True:
            answer = await ask()
            if good(answer):
                return answer
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
    raise TransactionRefused(f"{failure} within {PATIENCE_S:.0f} s; repeat the command to go on")
