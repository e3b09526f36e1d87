"""`gftp`: the file command that Golem's SDKs start, as `gftp server` or verb by verb.

`gftp server` speaks JSON-RPC 2.0 on stdin and stdout, one object a line. It finds its node by GSB_URL, else by
the data folder, and holds one session there: what it published is taken back when it ends, however it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from node.cli.node import leaves
from node.config import ConfigError, load
from p2p import codec
from p2p.bus import BusError, ask
from p2p.bus.client import connect_env
from protocols.files.messages import (
    Close,
    Closed,
    Download,
    Moved,
    OpenSession,
    Publish,
    Published,
    Receive,
    Session,
    Upload,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    import msgspec

    from p2p.bus import Bus

SERVICE = "/local/files"
MAX_LINE_BYTES = 4 * 1024 * 1024
_FOREVER = 365 * 24 * 3600.0

Reply = TypeVar("Reply")

PARSE, BAD_REQUEST, FAILED = -32700, -32600, -32000


class _RpcError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Dialogue:
    """Answers requests on behalf of one session at a node."""

    def __init__(self, bus: Bus, session: str) -> None:
        self._bus = bus
        self._session = session
        self.ended = False
        self._methods: dict[str, Callable[[Mapping[str, Any]], Awaitable[Any]]] = {
            "version": self._version,
            "publish": self._publish,
            "receive": self._receive,
            "download": self._download,
            "upload": self._upload,
            "close": self._close,
            "shutdown": self._shutdown,
        }

    async def answer(self, line: bytes) -> dict[str, Any]:
        """Return the response to one line."""
        request_id: Any = None
        try:
            request = _parse(line)
            request_id = request.get("id")
            name, params = request.get("method"), request.get("params", {})
            method = self._methods.get(name) if isinstance(name, str) else None
            if method is None or not isinstance(params, dict):
                raise _RpcError(
                    BAD_REQUEST,
                    f"unknown method {str(name)[:80]!r}, or params not an object",
                )
            result = await method(params)
        except _RpcError as error:
            return {"jsonrpc": "2.0", "id": request_id, "error": {"code": error.code, "message": str(error)}}
        except (BusError, UnicodeEncodeError) as error:  # the latter: a name that is no text
            return {"jsonrpc": "2.0", "id": request_id, "error": {"code": FAILED, "message": str(error)}}
        return {"jsonrpc": "2.0", "id": request_id, "result": result}

    async def _version(self, _params: Mapping[str, Any]) -> str:
        # SDKs ask for 0.7.3 or later before they use `close`; ours speaks the dialogue of the daemon's 0.17.
        return f"0.17.6 (golem-p2p {version('golem-p2p')})"

    async def _publish(self, params: Mapping[str, Any]) -> list[dict[str, str]]:
        files = params.get("files")
        if not isinstance(files, list) or not files or not all(isinstance(f, str) for f in files):
            raise _RpcError(BAD_REQUEST, "publish needs `files`, a list of at least one path")
        return [
            {"file": file, "url": await self._open(Publish(_absolute(file), self._session))} for file in files
        ]

    async def _receive(self, params: Mapping[str, Any]) -> dict[str, str]:
        path = _text(params, "output_file")
        return {"file": path, "url": await self._open(Receive(_absolute(path), self._session))}

    async def _download(self, params: Mapping[str, Any]) -> dict[str, str]:
        url, path = _text(params, "url"), _text(params, "output_file")
        await self._ask(Download(url, _absolute(path)), Moved, _FOREVER)
        return {"file": path, "url": url}

    async def _upload(self, params: Mapping[str, Any]) -> dict[str, str]:
        url, path = _text(params, "url"), _text(params, "file")
        await self._ask(Upload(url, _absolute(path)), Moved, _FOREVER)
        return {"file": path, "url": url}

    async def _close(self, params: Mapping[str, Any]) -> list[str]:
        urls = params.get("urls")
        if not isinstance(urls, list):
            raise _RpcError(BAD_REQUEST, "close needs `urls`, a list")
        return [await self._close_one(url) for url in urls]

    async def _close_one(self, url: Any) -> str:
        try:
            closed = await self._ask(Close(str(url), self._session), Closed)
        except BusError:
            return "error"
        return "ok" if closed.was_open else "error"

    async def _shutdown(self, _params: Mapping[str, Any]) -> str:
        self.ended = True
        return "ok"

    async def _open(self, request: Publish | Receive) -> str:
        return (await self._ask(request, Published, _FOREVER)).url

    async def _ask(self, request: msgspec.Struct, reply: type[Reply], timeout: float = 30.0) -> Reply:
        return await ask(self._bus, SERVICE, request, reply, timeout=timeout)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `gftp`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="gftp", description="Move files between Golem nodes.")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the full JSON-RPC envelope")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("server", help="speak JSON-RPC 2.0 on stdin and stdout")
    verbs.add_parser("version", help="print the version")
    _verb(verbs, "publish", "offer files for download until interrupted", ("files", "+"))
    _verb(verbs, "close", "take URLs back", ("urls", "+"))
    _verb(verbs, "download", "fetch a URL into a file", ("url", None), ("output_file", None))
    _verb(
        verbs,
        "receive",
        "open a slot that a file may be uploaded into, until interrupted",
        ("output_file", None),
    )
    _verb(verbs, "upload", "send a file to a URL", ("file", None), ("url", None))
    arguments = vars(parser.parse_args(argv))
    verb, verbose = arguments.pop("verb"), arguments.pop("verbose")
    code = 1
    try:
        code = trio.run(_serve) if verb == "server" else trio.run(_once, verb, arguments, verbose)
    except* KeyboardInterrupt:
        code = 130
    except* (BusError, ConfigError, OSError) as group:
        for error in leaves(group):
            sys.stderr.write(f"gftp: {error}\n")
    return code


def _verb(verbs: Any, name: str, help_text: str, *arguments: tuple[str, str | None]) -> None:
    parser = verbs.add_parser(name, help=help_text)
    for argument, count in arguments:
        parser.add_argument(argument, nargs=count)


async def _serve() -> int:
    async with _dialogue() as dialogue:
        lines = _lines()
        async for line in lines:
            if line.strip():
                _print(await dialogue.answer(line))
            if dialogue.ended:
                return 0
    return 0


async def _once(verb: str, arguments: dict[str, Any], verbose: bool) -> int:
    async with _dialogue() as dialogue:
        request = {"jsonrpc": "2.0", "id": 1, "method": verb, "params": arguments}
        response = await dialogue.answer(json.dumps(request).encode())
        failed = "error" in response
        _print(response if verbose else response.get("error") or response["result"])
        if verb in ("publish", "receive") and not failed:
            sys.stderr.write("serving until interrupted (Ctrl-C)\n")
            await trio.sleep_forever()
        return int(failed)


@contextlib.asynccontextmanager
async def _dialogue() -> AsyncIterator[Dialogue]:
    environ = dict(os.environ)
    if not environ.get("GSB_URL"):
        environ["GSB_URL"] = f"unix:{load().bus_path}"
    async with connect_env(environ) as bus:
        address = f"{SERVICE}/{OpenSession.__name__}"
        async with bus.stream(address, codec.encode(OpenSession())) as items:
            session = codec.decode(await anext(items), Session)
            yield Dialogue(bus, session.id)


async def _lines() -> AsyncIterator[bytes]:
    """Yield lines of stdin; its end is the end of the dialogue, for some clients never say more."""
    buffer = bytearray()
    stdin = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    async with stdin:
        async for chunk in stdin:
            buffer += chunk
            while (end := buffer.find(b"\n")) >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                yield line
            if len(buffer) > MAX_LINE_BYTES:
                break
    if buffer:
        yield bytes(buffer)  # without its end: the last line, or one that is too long to be a request


def _print(document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\r\n")  # CR LF, as the original ends its lines
    sys.stdout.flush()


def _parse(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _RpcError(PARSE, f"not JSON: {error}") from error
    if not isinstance(request, dict):
        raise _RpcError(BAD_REQUEST, "a request is a JSON object")
    return request


def _text(params: Mapping[str, Any], name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise _RpcError(BAD_REQUEST, f"`{name}` is missing")
    return value


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


if __name__ == "__main__":
    raise SystemExit(main())
