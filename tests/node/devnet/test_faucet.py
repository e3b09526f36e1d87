"""The faucet gives what is lacking, not more, and not for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from node.devnet import faucet as faucet_module
from node.devnet.addresses import FAUCET, TOKEN
from node.devnet.faucet import COIN_GRANT_WEI, TOKEN_GRANT_WEI, Faucet, TooMany
from protocols.payment.drivers.erc20.transaction import address_bytes
from tests.node.devnet.bench import new_key

if TYPE_CHECKING:
    from tests.node.devnet.world import World


def coin(world: World, address: str) -> int:
    return world.chain.evm.balance(address_bytes(address), world.chain.head)


def test_coin_alone_or_with_tokens(world: World) -> None:
    faucet, address = Faucet(world.chain), new_key().node_id
    grant = faucet.donate(address, token=False)
    assert (grant.token_tx, coin(world, address), world.tokens(address)) == (None, COIN_GRANT_WEI, 0)
    grant = faucet.donate(address.upper().replace("0X", "0x"), token=True)
    assert (grant.coin_tx, grant.address) == (None, address)
    assert world.tokens(address) == TOKEN_GRANT_WEI
    again = faucet.donate(address, token=True)
    assert (again.coin_tx, again.token_tx) == (None, None)


def test_grants_of_an_address_are_counted_across_restarts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faucet_module, "GRANTS", 3)
    key = new_key()
    for _ in range(3):
        Faucet(world.chain).donate(key.node_id, token=False)
        left = coin(world, key.node_id) - 21_000 * 10**10
        world.chain.submit(world.signed(key, FAUCET, value_wei=left).raw)
        world.reopen()
    with pytest.raises(TooMany, match="3 grants"):
        Faucet(world.chain).donate(key.node_id, token=False)
    Faucet(world.chain).donate(new_key().node_id, token=False)


@pytest.mark.parametrize("address", ["", "0x12", "somebody", "0x" + "zz" * 20, TOKEN + "00"])
def test_no_address(world: World, address: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        Faucet(world.chain).donate(address, token=False)


def test_grants_queue_up_while_blocks_are_held(world: World) -> None:
    world.chain.automine = False
    addresses = [new_key().node_id for _ in range(3)]
    for address in addresses:
        Faucet(world.chain).donate(address, token=True)
    world.chain.mine()
    assert [coin(world, address) for address in addresses] == [COIN_GRANT_WEI] * 3
    assert [world.tokens(address) for address in addresses] == [TOKEN_GRANT_WEI] * 3
