"""Ethereum JSON-RPC over HTTP, from several endpoints of one chain.

One endpoint is used as long as it is good. It is left, for a while, when it does not answer, answers
nonsense, serves another chain, or lags behind what was seen before; the next one is then asked the same,
which is safe because every method used here may be repeated. What the chain itself says about a request (a
revert, a refused transaction) is no fault of the endpoint and goes to the caller.

    RpcError                    the chain's own error answer: code, message, data
    errors.ChainUnavailable     no endpoint was usable; lists what each one did
    errors.WrongChain           every endpoint serves another chain
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httpx
import msgspec
import trio

from protocols.payment.drivers.errors import ChainUnavailable, WrongChain

if TYPE_CHECKING:
    from collections.abc import Sequence

_TIMEOUT: Final = httpx.Timeout(15.0, connect=5.0)
_DEADLINE_S: Final = 30.0
"""For one endpoint's answer in all, however slowly it drips."""
_ANSWER_LIMIT: Final = 16 * 1024 * 1024
_REST_S: Final = 30.0
"""How long an endpoint that failed is asked last."""
_LAG_BLOCKS: Final = 16
_ENDPOINT_FAULTS: Final = frozenset({-32700, -32600, -32601, -32603, -32005, -32016, -32097, 429})
"""Error codes that speak of the endpoint (overload, quota, missing method), not of the request."""


class RpcError(Exception):
    """What the chain answered instead of a result."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code
        self.message = message
        self.data = data


class Request(msgspec.Struct, frozen=True):
    """One method call."""

    method: str
    params: tuple[Any, ...] = ()


class _Endpoint:
    def __init__(self, url: str) -> None:
        self.url = url
        self.chain_checked = False
        self.rests_until = 0.0
        self.head = 0


class _EndpointFault(Exception):
    """This endpoint is not usable now."""


class Rpc:
    """A chain's JSON-RPC, whichever endpoint serves it."""

    def __init__(self, client: httpx.AsyncClient, urls: Sequence[str], chain_id: int) -> None:
        """Take the endpoints in order of preference; nothing is sent yet."""
        self._client = client
        self._chain_id = chain_id
        self._endpoints = [_Endpoint(url) for url in urls]
        self._best_head = 0

    def __repr__(self) -> str:
        now = trio.current_time()
        resting = sum(e.rests_until > now for e in self._endpoints)
        return f"<Rpc chain={self._chain_id} endpoints={len(self._endpoints)} resting={resting}>"

    async def call(self, method: str, *params: Any) -> Any:
        """Call one method.

        Raises:
            RpcError: the chain answered with an error.
            ChainUnavailable: no endpoint was usable.
        """
        (answer,) = await self.batch(Request(method, params))
        if isinstance(answer, RpcError):
            raise answer
        return answer

    async def batch(self, *requests: Request) -> list[Any]:
        """Call several methods on one endpoint at one moment.

        Returns:
            For each request its result, or an `RpcError`, which is returned and not raised.

        Raises:
            ChainUnavailable: no endpoint was usable.
        """
        if not self._endpoints:
            raise ChainUnavailable(f"no RPC endpoint is configured for chain {self._chain_id}")
        faults: list[str] = []
        wrong: WrongChain | None = None
        now = trio.current_time()
        for endpoint in sorted(self._endpoints, key=lambda e: max(e.rests_until - now, 0.0)):
            try:
                answers = await self._ask(endpoint, requests)
            except _EndpointFault as error:
                faults.append(f"{endpoint.url}: {error}")
            except WrongChain as error:
                wrong = error
                faults.append(str(error))
            else:
                endpoint.rests_until = 0.0
                return answers
            endpoint.rests_until = trio.current_time() + _REST_S
        if wrong is not None and len(self._endpoints) == 1:
            raise wrong
        # All lag behind: the chain was reset or reorganised deeply, so what was seen before counts no more.
        self._best_head = max(e.head for e in self._endpoints)
        raise ChainUnavailable(f"no RPC endpoint of chain {self._chain_id} is usable: {'; '.join(faults)}")

    async def _ask(self, endpoint: _Endpoint, requests: Sequence[Request]) -> list[Any]:
        extra = [Request("eth_blockNumber")]
        if not endpoint.chain_checked:
            extra.append(Request("eth_chainId"))
        answers = await self._post(endpoint, [*requests, *extra])
        if not endpoint.chain_checked:
            chain_id = _hex_number(answers[-1])
            if chain_id != self._chain_id:
                raise WrongChain(endpoint.url, chain_id, self._chain_id)
            endpoint.chain_checked = True
        endpoint.head = _hex_number(answers[len(requests)])
        if endpoint.head < self._best_head - _LAG_BLOCKS:
            raise _EndpointFault(f"is at block {endpoint.head}, {self._best_head} was seen before")
        self._best_head = max(self._best_head, endpoint.head)
        return answers[: len(requests)]

    async def _post(self, endpoint: _Endpoint, requests: Sequence[Request]) -> list[Any]:
        body = msgspec.json.encode(
            [
                {"jsonrpc": "2.0", "id": i, "method": one.method, "params": one.params}
                for i, one in enumerate(requests)
            ]
        )
        try:
            with trio.fail_after(_DEADLINE_S):
                raw = await self._exchange(endpoint.url, body)
        except (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError) as error:
            endpoint.chain_checked = False  # it may be another server when it comes back
            raise _EndpointFault(f"{type(error).__name__} {error}".strip()) from error
        try:
            answered = msgspec.json.decode(raw, type=list[dict[str, Any]])
        except (msgspec.DecodeError, RecursionError) as error:
            raise _EndpointFault(f"answered no JSON-RPC batch ({raw[:80]!r})") from error
        by_id = {answer.get("id"): answer for answer in answered}
        return [_result(by_id.get(i)) for i in range(len(requests))]

    async def _exchange(self, url: str, body: bytes) -> bytes:
        headers = {"content-type": "application/json"}
        async with self._client.stream(
            "POST", url, content=body, headers=headers, timeout=_TIMEOUT
        ) as response:
            raw = bytearray()
            async for chunk in response.aiter_bytes():
                raw += chunk
                if len(raw) > _ANSWER_LIMIT:
                    raise _EndpointFault(f"its answer is longer than {_ANSWER_LIMIT} bytes")
            if response.status_code != 200:
                raise _EndpointFault(f"answered {response.status_code} {bytes(raw[:80])!r}")
            return bytes(raw)


def _result(answer: dict[str, Any] | None) -> Any:
    if answer is None:
        raise _EndpointFault("left a request of the batch unanswered")
    error = answer.get("error")
    if error is None:
        return answer.get("result")
    code = error.get("code") if isinstance(error, dict) else None
    message = str(error.get("message", "")) if isinstance(error, dict) else str(error)
    if not isinstance(code, int) or code in _ENDPOINT_FAULTS:
        raise _EndpointFault(f"answered an error: {message[:200]} (code {code})")
    return RpcError(code, message[:500], error.get("data"))


def _hex_number(value: object) -> int:
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise _EndpointFault(f"answered {str(value)[:80]!r} where a number is due")
