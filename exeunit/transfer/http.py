"""`http:` and `https:` URLs.

The status is checked, a download resumes by Range guarded by the ETag, redirects are bounded. Addresses are checked at
the moment of connecting, after the name was resolved: a provider's own network and machine are out of bounds unless it
says otherwise, whatever a name or a redirect points to.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import TYPE_CHECKING, Any, Final

import httpcore
import httpx
import trio

from exeunit.transfer.errors import Forbidden, RemoteFailure, TransferError, Transient
from exeunit.transfer.scheme import Download

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

_CONNECT_TIMEOUT_S: Final = 10.0
_IDLE_TIMEOUT_S: Final = 60.0
_MAX_REDIRECTS: Final = 10
_WORTH_A_RETRY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the internet at large."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        mapped = ip.ipv4_mapped or ip.sixtofour
        if mapped is not None:
            ip = mapped
    return ip.is_global and not ip.is_multicast


class _GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Resolves names itself, and connects to an address only when it may."""

    def __init__(self, private: bool) -> None:
        self._private = private
        self._network: httpcore.AsyncNetworkBackend = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"cannot resolve {host}: {error.strerror}") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = [address for address in addresses if self._private or is_public(address)]
        if not allowed:
            raise Forbidden(f"{host} is in this provider's own network, which transfers may not reach")
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in allowed[:4]:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise Forbidden("transfers do not reach unix sockets")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class _Transport(httpx.AsyncBaseTransport):
    """httpx over a pool of httpcore with the guarded network: httpx's own transport has no place for one."""

    def __init__(self, private: bool) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            network_backend=_GuardedNetwork(private),
            max_connections=4,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        response = await self._pool.handle_async_request(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response.stream),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class HttpScheme:
    """Source and destination on web servers."""

    def __init__(self, *, private: bool) -> None:
        """Make it.

        Args:
            private: whether addresses of this machine and of private networks may be reached.
        """
        self._private = private

    @contextlib.asynccontextmanager
    async def download(self, url: str, offset: int, validator: str | None) -> AsyncIterator[Download]:
        headers = {"Accept-Encoding": "identity"}
        if offset > 0 and validator is not None:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        with _mapped(url):
            async with self._client() as client, client.stream("GET", url, headers=headers) as response:
                _check(response)
                begin, size = _extent(response, offset)
                yield Download(
                    _chunks(response, url), size=size, offset=begin, validator=response.headers.get("ETag")
                )

    async def upload(self, url: str, size: int | None, chunks: AsyncIterator[bytes]) -> None:
        headers = {} if size is None else {"Content-Length": str(size)}
        with _mapped(url):
            async with self._client() as client:
                _check(await client.put(url, content=chunks, headers=headers))

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=_Transport(self._private),
            timeout=httpx.Timeout(_IDLE_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            follow_redirects=True,
            max_redirects=_MAX_REDIRECTS,
            trust_env=False,
        )


def _check(response: httpx.Response) -> None:
    status = response.status_code
    if response.is_success:
        return
    reason = f"{response.url.host} answered {status} {response.reason_phrase[:64]}".rstrip()
    raise Transient(reason) if status in _WORTH_A_RETRY else RemoteFailure(reason)


def _extent(response: httpx.Response, offset: int) -> tuple[int, int | None]:
    """Return where the body begins, and how long the whole is if that is known."""
    length = response.headers.get("Content-Length", "")
    size = int(length) if length.isascii() and length.isdigit() else None
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        return 0, size
    unit, _, extent = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = extent.partition("/")
    if unit != "bytes" or span.partition("-")[0] != str(offset):
        raise RemoteFailure("the server sent another part of the file than was asked for")
    return offset, int(total) if total.isascii() and total.isdigit() else None


async def _chunks(response: httpx.Response, url: str) -> AsyncIterator[bytes]:
    # The server's word on what the bytes are encoded as is not taken: what is hashed is what was sent.
    with _mapped(url):
        async for chunk in response.aiter_raw():
            yield chunk


@contextlib.contextmanager
def _mapped(url: str) -> Any:
    try:
        yield
    except TransferError:
        raise
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpcore.UnsupportedProtocol) as error:
        raise RemoteFailure(f"not a usable URL: {error}") from error
    except httpx.TooManyRedirects as error:
        raise RemoteFailure(f"more than {_MAX_REDIRECTS} redirects") from error
    except (httpx.HTTPError, httpcore.NetworkError, httpcore.TimeoutException) as error:
        raise Transient(f"the connection failed: {str(error) or type(error).__name__}") from error
    except httpcore.ProtocolError as error:
        raise Transient(f"the server broke the protocol: {error}") from error
