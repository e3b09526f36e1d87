"""The REST edge's ground: routes, requests, answers, as existing Golem clients expect them.

A family module (`market.py`, `payment.py`, ...) makes a `Routes` table of its handlers; `server.py` puts the
tables behind one listener. Handlers translate and do nothing else. The rules here are those of every family:
authentication before routing, 404 with an empty body for unknown paths and methods alike, a 2 MiB bound on
bodies, unknown query parameters ignored and repeated known ones refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote

import msgspec
from starlette.responses import Response

from p2p.identity import NodeId
from protocols.ground.times import TimeFormatError, parse_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from starlette.requests import Request


T = TypeVar("T")

MAX_BODY_BYTES = 2 * 1024 * 1024
"""Largest JSON body, as the Golem daemon has it."""

_JSON = "application/json"
_JSON_TYPE = re.compile(r"(application/json|[\w.*+-]+/[\w.*+-]+\+json)\s*(;.*)?\Z", re.IGNORECASE)

_FLOAT = re.compile(r"[+-]?(nan|inf|infinity|[0-9.]+(e[+-]?[0-9]+)?)\Z", re.IGNORECASE | re.ASCII)
_TIME_RANGE = (-(2**63), 2**63 - 1)
"""Nanoseconds that storage can compare: 1677 to 2262."""

Family = Literal["market", "activity", "payment", "net", "gsb", "identity"]


class Session(msgspec.Struct, frozen=True):
    """Who makes a request: an app-key, and the identity that it acts for."""

    identity: NodeId
    name: str
    """The app-key's name."""
    role: str = "manager"


class ApiError(Exception):
    """An answer that is an error; raise it from anywhere in a handler."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def answer(value: Any, status: int = 200) -> Response:
    """Return `value` as JSON; structs, builtins, or None for a literal `null`."""
    return Response(msgspec.json.encode(value), status, media_type=_JSON)


def no_content() -> Response:
    """Return 204 without a body: market mutations."""
    return Response(status_code=204)


def empty(status: int = 200) -> Response:
    """Return a zero-byte body without a content type."""
    return Response(status_code=status)


def text(status: int, message: str) -> Response:
    """Return plain text: what the framework itself refuses."""
    return Response(message, status, media_type="text/plain")


def error(status: int, message: str | None) -> ApiError:
    """Return the usual error, `{"message": ...}`, to be raised."""
    return ApiError(answer({"message": message}, status))


def problem(status: int, document: dict[str, Any]) -> ApiError:
    """Return an RFC 7807 document, to be raised."""
    return ApiError(Response(json.dumps(document), status, media_type="application/problem+json"))


class Taken(Response):
    """A JSON answer whose content was taken from a queue, and must go back if it was not delivered."""

    def __init__(self, value: Any, settle: Callable[[bool], Awaitable[None]]) -> None:
        """Make it.

        Args:
            settle: called once with whether the whole answer was written to a live connection.
        """
        super().__init__(msgspec.json.encode(value), 200, media_type=_JSON)
        self.settle = settle


class EventStream(Response):
    """Server-sent events: frames as they come, `:ping` every 15 s, until the client goes.

    Existing clients take the server's closing of the stream for a failure, so it stays open at the end.
    """

    def __init__(self, frames: AbstractAsyncContextManager[AsyncIterator[bytes]]) -> None:
        """Make it.

        Args:
            frames: entered before the answer begins, and what it raises then is the answer instead; left
                when the client goes; yields whole frames.
        """
        super().__init__(b"", 200, headers={"content-type": "text/event-stream"})
        del self.headers["content-length"]
        self.frames = frames


class ApiRequest:
    """A request after authentication and routing."""

    def __init__(self, request: Request, session: Session, path: dict[str, str], family: Family) -> None:
        self.raw = request
        self.session = session
        self.path = path
        """Path parameters by name, percent-decoded."""
        self.family = family

    @property
    def identity(self) -> NodeId:
        """Return the acting identity."""
        return self.session.identity

    def query_text(self, name: str) -> str | None:
        """Return a query parameter, or None. Raises ApiError (400 text) if it is repeated."""
        values = self.raw.query_params.getlist(name)
        if len(values) > 1:
            raise ApiError(text(400, f"Query deserialize error: duplicate field `{name}`"))
        return values[0] if values else None

    def query_float(self, name: str, default: float | None = None) -> float:
        """Return a number of seconds; NaN counts as 0, as clients of the daemon may send it.

        Raises ApiError (400 text) if it is missing without a default, not a number, or infinite.
        """
        raw = self.query_text(name)
        if raw is None:
            if default is None:
                raise ApiError(text(400, f"Query deserialize error: missing field `{name}`"))
            return default
        try:
            value = float(raw) if _FLOAT.match(raw) else math.inf
        except ValueError:
            value = math.inf
        if math.isinf(value):
            raise ApiError(text(400, f"Query deserialize error: {name}: invalid float literal"))
        return 0.0 if math.isnan(value) else value

    def query_int(self, name: str, default: int | None = None) -> int | None:
        """Return an integer or the default. Raises ApiError (400 text) if it is not one."""
        raw = self.query_text(name)
        if raw is None:
            return default
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", raw):
            raise ApiError(text(400, f"Query deserialize error: {name}: invalid digit found in string"))
        return int(raw)

    def query_time(self, name: str) -> int | None:
        """Return a time in UTC nanoseconds, or None; times beyond 64 bits are cut to them.

        Raises ApiError (400 text) if it is not RFC 3339.
        """
        raw = self.query_text(name)
        if raw is None:
            return None
        try:
            return min(max(parse_time(raw), _TIME_RANGE[0]), _TIME_RANGE[1])
        except TimeFormatError as problem:
            raise ApiError(text(400, f"Query deserialize error: {name}: {problem}")) from problem

    async def body(self) -> Any:
        """Return the JSON body as builtins. Raises ApiError as the family words it."""
        content_type = self.raw.headers.get("content-type", "")
        if not _JSON_TYPE.match(content_type):
            raise self.bad_body("Content type error")
        raw = await self._read()
        try:
            return msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise self.bad_body(f"Json deserialize error: {problem}") from problem

    async def body_as(self, body_type: type[T]) -> T:
        """Return the JSON body as a struct. Raises ApiError as the family words it."""
        tree = await self.body()
        try:
            return msgspec.convert(tree, body_type, strict=True)
        except msgspec.ValidationError as problem:
            raise self.bad_body(f"Json deserialize error: {problem}") from problem

    def bad_body(self, message: str) -> ApiError:
        """Return the family's 400 for a body that does not fit, to be raised."""
        return error(400, message) if self.family == "market" else ApiError(text(400, message))

    async def _read(self) -> bytes:
        data = bytearray()
        async for chunk in self.raw.stream():
            data += chunk
            if len(data) > MAX_BODY_BYTES:
                message = f"JSON payload has exceeded the limit of {MAX_BODY_BYTES} bytes"
                raise error(400, message) if self.family == "market" else ApiError(text(413, message))
        return bytes(data)


Handler = Callable[[ApiRequest], Awaitable[Response]]


class Routes:
    """One family's table of (method, path template) → handler."""

    def __init__(self, family: Family, prefix: str) -> None:
        self.family: Family = family
        self.prefix = prefix
        self._table: list[tuple[str, tuple[str, ...], Handler]] = []

    def add(self, method: str, template: str, handler: Handler) -> None:
        """Serve `template`, such as `/demands/{id}/events`, below the family's prefix.

        A parameter is one whole segment.
        """
        self._table.append((method, tuple((self.prefix + template).split("/")), handler))

    def find(self, method: str, path: str) -> tuple[Handler, dict[str, str]] | None:
        """Return the handler and the path parameters, or None.

        Args:
            path: as it was sent: an encoded slash is part of its segment.
        """
        segments = [unquote(segment) for segment in path.split("/")]
        for verb, template, handler in self._table:
            if verb == method and len(template) == len(segments):
                found = _match(template, segments)
                if found is not None:
                    return handler, found
        return None


def _match(template: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    found = {}
    for expected, given in zip(template, segments, strict=True):
        if expected.startswith("{"):
            if not given:
                return None
            found[expected[1:-1]] = given
        elif expected != given:
            return None
    return found
