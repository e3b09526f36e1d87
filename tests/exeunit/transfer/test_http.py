"""http transfers against a server on loopback (socket tests)."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING

import pytest

from exeunit.transfer.errors import Forbidden, RemoteFailure, Transient
from exeunit.transfer.file import FileScheme
from exeunit.transfer.http import HttpScheme, is_public
from exeunit.transfer.location import parse_location
from exeunit.transfer.transfer import Transfers
from tests.exeunit.transfer.webserver import Request, response, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTENT = bytes(range(256)) * 100
numbers = itertools.count()


def always(data: bytes) -> Callable[[Request], bytes]:
    return lambda request: data


class World:
    def __init__(self, directory: Path, *, private: bool = True) -> None:
        self.target = directory / "target"
        self.source = directory / "source"
        self.source.write_bytes(CONTENT)
        self.slept: list[float] = []
        http = HttpScheme(private=private)
        self.transfers = Transfers(
            {"http": http, "https": http, "file": FileScheme(lambda: str(next(numbers)))}, sleep=self._sleep
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def get(self, url: str) -> bytes:
        target = parse_location(f"file:{self.target}", "file")
        await self.transfers.transfer(parse_location(url, "file"), target)
        return self.target.read_bytes()

    async def put(self, url: str) -> None:
        await self.transfers.transfer(
            parse_location(f"file:{self.source}", "file"), parse_location(url, "file")
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_get(world: World) -> None:
    async with serving(always(response(200, CONTENT))) as server:
        assert await world.get(f"{server.url}/x") == CONTENT
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/x")
    assert request.headers["accept-encoding"] == "identity"
    assert "range" not in request.headers


async def test_the_status_is_checked(world: World) -> None:
    async with serving(always(response(404, b"<h1>not found</h1>"))) as server:
        with pytest.raises(RemoteFailure, match=r"127.0.0.1 answered 404 Said"):
            await world.get(f"{server.url}/x")
    assert not world.target.exists()
    assert world.slept == []


async def test_a_cut_download_is_continued_with_the_etag(world: World) -> None:
    def second(request: Request) -> bytes:
        assert request.headers["range"] == "bytes=5000-"
        assert request.headers["if-range"] == '"v1"'
        extent = f"bytes 5000-{len(CONTENT) - 1}/{len(CONTENT)}"
        return response(206, CONTENT[5000:], Content_Range=extent, ETag='"v1"')

    cut = response(200, CONTENT[:5000], length=len(CONTENT), ETag='"v1"')
    async with serving(always(cut), second) as server:
        url = f"hash:sha3:{hashlib.sha3_256(CONTENT).hexdigest()}:{server.url}/x"
        assert await world.get(url) == CONTENT
    assert world.slept == [2.0]


async def test_a_file_that_changed_is_read_anew(world: World) -> None:
    cut = response(200, bytes(5000), length=len(CONTENT), ETag='"v1"')
    async with serving(always(cut), always(response(200, CONTENT, ETag='"v2"'))) as server:
        assert await world.get(f"{server.url}/x") == CONTENT


async def test_a_server_that_sends_the_wrong_part_is_refused(world: World) -> None:
    cut = response(200, bytes(5000), length=len(CONTENT), ETag='"v1"')
    wrong = response(206, CONTENT, Content_Range=f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")
    async with serving(always(cut), always(wrong)) as server:
        with pytest.raises(RemoteFailure, match="another part"):
            await world.get(f"{server.url}/x")


async def test_server_errors_are_retried_twice(world: World) -> None:
    async with serving(always(response(503)), always(response(500)), always(response(200, b"ok"))) as server:
        assert await world.get(f"{server.url}/x") == b"ok"
    assert world.slept == [2.0, 4.0]
    async with serving(always(response(503))) as server:
        with pytest.raises(Transient, match="answered 503"):
            await world.get(f"{server.url}/x")
    assert len(server.requests) == 3


async def test_redirects_are_followed_and_bounded(world: World) -> None:
    async with serving(always(response(302, Location="/next")), always(response(200, b"there"))) as server:
        assert await world.get(f"{server.url}/x") == b"there"
    assert [request.path for request in server.requests] == ["/x", "/next"]
    async with serving(always(response(302, Location="/again"))) as server:
        with pytest.raises(RemoteFailure, match="more than 10 redirects"):
            await world.get(f"{server.url}/x")
    assert len(server.requests) == 11
    async with serving(always(response(302, Location="file:///etc/passwd"))) as server:
        with pytest.raises(RemoteFailure, match="not a usable URL"):
            await world.get(f"{server.url}/x")


async def test_basic_authentication_from_the_url(world: World) -> None:
    async with serving(always(response(200, b"in"))) as server:
        await world.get(server.url.replace("http://", "http://user:word@"))
    assert server.requests[0].headers["authorization"] == "Basic dXNlcjp3b3Jk"


async def test_put(world: World) -> None:
    async with serving(always(response(201))) as server:
        await world.put(f"{server.url}/up")
    (request,) = server.requests
    assert (request.method, request.body) == ("PUT", CONTENT)
    assert request.headers["content-length"] == str(len(CONTENT))
    async with serving(always(response(403))) as server:
        with pytest.raises(RemoteFailure, match="403"):
            await world.put(f"{server.url}/up")


async def test_nobody_there(world: World) -> None:
    async with serving(always(b"")) as server:
        pass
    with pytest.raises(Transient, match="connection failed"):
        await world.get(f"{server.url}/x")


async def test_garbage_for_an_answer(world: World) -> None:
    async with serving(always(b"this is not HTTP\r\n\r\n")) as server:
        with pytest.raises(Transient):
            await world.get(f"{server.url}/x")


async def test_private_addresses_are_out_of_bounds(tmp_path: Path) -> None:
    world = World(tmp_path, private=False)
    async with serving(always(response(200, b"internal"))) as server:
        port = server.url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"):
            with pytest.raises(Forbidden, match="own network"):
                await world.get(f"http://{host}:{port}/x")
    assert server.requests == []


@pytest.mark.parametrize(
    ("address", "public"),
    [("8.8.8.8", True), ("2606:4700::1111", True), ("10.1.2.3", False), ("192.168.1.1", False), ("100.64.0.1", False),
     ("169.254.169.254", False), ("224.0.0.1", False), ("::1", False), ("fe80::1", False), ("fd00::1", False),
     ("::ffff:10.0.0.1", False), ("2002:0a00:0001::", False), ("0.0.0.0", False)],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public
