"""Endpoints that fail, lie, lag, hang or flood are left for others; the chain's own errors are not their fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from protocols.payment.drivers.erc20.rpc import Request, Rpc, RpcError
from protocols.payment.drivers.errors import ChainUnavailable, WrongChain
from tests.protocols.payment.drivers.erc20.endpoints import CHAIN_ID, Endpoint, Refusal, client

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock


def rpc(**endpoints: Endpoint) -> Rpc:
    return Rpc(client(**endpoints), [f"http://{name}/" for name in endpoints], CHAIN_ID)


def answering(value: object) -> Endpoint:
    endpoint = Endpoint()
    endpoint["eth_getBalance"] = value
    return endpoint


def failing(fault: Callable[[httpx.Request], httpx.Response]) -> Endpoint:
    endpoint = Endpoint()
    endpoint.fault = fault
    return endpoint


def refusing_connection(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def saying(status: int, body: bytes) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(status, content=body)


FAULTS = {
    "no connection": refusing_connection,
    "server error": saying(500, b"oops"),
    "rate limit": saying(429, b"slow down"),
    "no JSON": saying(200, b"<html>"),
    "no batch": saying(200, b"{}"),
    "nothing in the batch": saying(200, b"[]"),
    "numbers in the batch": saying(200, b"[1,2]"),
    "deep JSON": saying(200, b"[" * 100_000),
    "odd error": saying(200, b'[{"id":0,"error":"bad"}]'),
    "flood": saying(200, b" " * (17 * 1024 * 1024)),
}


async def test_first_endpoint_is_kept_while_it_is_good() -> None:
    first, second = answering("0x1"), answering("0x2")
    chain = rpc(a=first, b=second)
    assert [await chain.call("eth_getBalance") for _ in range(3)] == ["0x1"] * 3
    assert second.asked == []
    assert first.asked.count("eth_chainId") == 1


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_faulty_endpoint_is_left_for_another(fault: Callable[[httpx.Request], httpx.Response]) -> None:
    chain = rpc(a=failing(fault), b=answering("0x2"))
    assert await chain.call("eth_getBalance") == "0x2"


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_all_faulty_is_unavailable_and_names_each(
    fault: Callable[[httpx.Request], httpx.Response],
) -> None:
    with pytest.raises(ChainUnavailable, match=r"http://a/.*http://b/"):
        await rpc(a=failing(fault), b=failing(fault)).call("eth_getBalance")


@pytest.mark.parametrize("code", [-32005, -32601, -32603, 429])
async def test_errors_about_the_endpoint_are_its_fault(code: int) -> None:
    chain = rpc(a=answering(Refusal(code, "limit")), b=answering("0x2"))
    assert await chain.call("eth_getBalance") == "0x2"


async def test_errors_about_the_request_are_the_answer() -> None:
    second = answering("0x2")
    chain = rpc(a=answering(Refusal(3, "execution reverted", "0x08")), b=second)
    with pytest.raises(RpcError) as caught:
        await chain.call("eth_getBalance")
    assert (caught.value.code, caught.value.data) == (3, "0x08")
    assert second.asked == []


async def test_one_error_in_a_batch_spoils_no_other_answer() -> None:
    endpoint = answering("0x1")
    endpoint["eth_call"] = Refusal(3, "reverted")
    good, bad = await rpc(a=endpoint).batch(Request("eth_getBalance"), Request("eth_call"))
    assert good == "0x1"
    assert isinstance(bad, RpcError)


async def test_endpoint_of_another_chain_is_not_believed() -> None:
    wrong = answering("0x1")
    wrong["eth_chainId"] = "0x1"
    assert await rpc(a=wrong, b=answering("0x2")).call("eth_getBalance") == "0x2"
    with pytest.raises(WrongChain) as caught:
        await rpc(a=wrong).call("eth_getBalance")
    assert (caught.value.chain_id, caught.value.expected) == (1, CHAIN_ID)


async def test_chain_is_checked_again_after_a_fault() -> None:
    endpoint = answering("0x1")
    chain = rpc(a=endpoint)
    await chain.call("eth_getBalance")
    endpoint.fault = refusing_connection
    with pytest.raises(ChainUnavailable):
        await chain.call("eth_getBalance")
    endpoint.fault = None
    endpoint["eth_chainId"] = "0x5"
    with pytest.raises(WrongChain):
        await chain.call("eth_getBalance")


async def test_lagging_endpoint_is_left() -> None:
    good, lagging = answering("0x1"), answering("0x2")
    chain = rpc(a=good, b=lagging)
    assert await chain.call("eth_getBalance") == "0x1"
    good["eth_blockNumber"] = "0x10"  # fell back: restored from an old copy
    assert await chain.call("eth_getBalance") == "0x2"


async def test_chain_that_went_back_as_a_whole_is_believed_at_the_second_look() -> None:
    endpoint = answering("0x1")
    chain = rpc(a=endpoint)
    await chain.call("eth_getBalance")
    endpoint["eth_blockNumber"] = "0x2"
    with pytest.raises(ChainUnavailable, match="is at block 2, 100 was seen"):
        await chain.call("eth_getBalance")
    assert await chain.call("eth_getBalance") == "0x1"


async def test_failed_endpoint_rests_and_is_tried_again(autojump_clock: MockClock) -> None:
    first, second = failing(refusing_connection), answering("0x2")
    chain = rpc(a=first, b=second)
    await chain.call("eth_getBalance")
    first.fault = None
    first["eth_getBalance"] = "0x1"
    assert await chain.call("eth_getBalance") == "0x2"
    await trio.sleep(31)
    assert await chain.call("eth_getBalance") == "0x1"


async def test_hanging_endpoint_is_left_in_bounded_time(autojump_clock: MockClock) -> None:
    async def hang_at_a(request: httpx.Request) -> httpx.Response:
        if request.url.host == "a":
            await trio.sleep_forever()
        return answering("0x2").handle(request)

    http = httpx.AsyncClient(transport=httpx.MockTransport(hang_at_a))
    chain = Rpc(http, ["http://a/", "http://b/"], CHAIN_ID)
    start = trio.current_time()
    assert await chain.call("eth_getBalance") == "0x2"
    assert trio.current_time() - start <= 30.0


async def test_no_endpoint_at_all() -> None:
    with pytest.raises(ChainUnavailable, match="no RPC endpoint is configured"):
        await rpc().call("eth_chainId")


async def test_url_that_is_none() -> None:
    chain: Any = Rpc(httpx.AsyncClient(), ["not a url"], CHAIN_ID)
    with pytest.raises(ChainUnavailable):
        await chain.call("eth_chainId")
