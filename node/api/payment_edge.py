"""What payment's REST handlers share: reading what clients send, and wording errors as clients know them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from node.api import payment_json as shape
from node.api.web import ApiError, ApiRequest, error, problem, text
from protocols.ground.money import MoneyError
from protocols.ground.times import TimeFormatError, parse_time
from protocols.payment.errors import (
    AccountUnusable,
    AllocationProblem,
    AllocationReleased,
    BadRequest,
    NotFound,
    NotYours,
    PeerRefused,
    PeerSilent,
    Unavailable,
    WrongState,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

PREFIX: Final = "/payment-api/v1"
PROBLEMS: Final = PREFIX + "/allocations/"
"""Begins the `type` of every problem document."""
_MAX_TIMEOUT: Final = 3600.0
_U32: Final = 2**32 - 1
_EVENTS: Final = frozenset(
    {"RECEIVED", "ACCEPTED", "REJECTED", "CANCELLED", "SETTLED", "PAYMENT_EVENT", "PAYMENT_OK"}
)
_MISSING: Final = object()


# --- what clients send --------------------------------------------------------------------------------------


async def read_object(request: ApiRequest) -> dict[str, Any]:
    """Read a body that must be a JSON object."""
    body = await request.body()
    if not isinstance(body, dict):
        raise request.bad_body("Json deserialize error: expected an object")
    return body


def optional_text(request: ApiRequest, body: Mapping[str, Any], name: str) -> str | None:
    """Read a member that is text, or absent, or null."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise request.bad_body(f"Json deserialize error: {name}: expected a string")
    return value


def required_text(request: ApiRequest, body: Mapping[str, Any], name: str) -> str:
    """Read a member that must be text."""
    value = optional_text(request, body, name)
    if value is None:
        raise request.bad_body(f"Json deserialize error: missing field `{name}`")
    return value


def optional_time(request: ApiRequest, body: Mapping[str, Any], name: str) -> int | None:
    """Read a member that is an RFC 3339 time, or absent; return UTC nanoseconds."""
    value = optional_text(request, body, name)
    if value is None:
        return None
    try:
        return parse_time(value)
    except TimeFormatError as problem_:
        raise request.bad_body(f"Json deserialize error: {name}: {problem_}") from problem_


def required_amount(request: ApiRequest, body: Mapping[str, Any], name: str) -> int:
    """Read an amount, and return wei."""
    value = body.get(name, _MISSING)
    if value is _MISSING:
        raise request.bad_body(f"Json deserialize error: missing field `{name}`")
    try:
        return shape.read_amount(value)
    except MoneyError as problem_:
        raise request.bad_body(f"Json deserialize error: {name}: {problem_}") from problem_


def required_budget(request: ApiRequest, body: Mapping[str, Any]) -> int:
    """Read an allocation's total, and return wei."""
    value = body.get("totalAmount", _MISSING)
    if value is _MISSING:
        raise request.bad_body("Json deserialize error: missing field `totalAmount`")
    try:
        return shape.read_budget(value)
    except MoneyError as problem_:
        raise request.bad_body(f"Json deserialize error: totalAmount: {problem_}") from problem_


def optional_seconds(request: ApiRequest, body: Mapping[str, Any], name: str) -> float | None:
    """Read a member that is a number of seconds, or absent."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise request.bad_body(f"Json deserialize error: {name}: expected a number of seconds")
    return float(value)


def read_timeout(request: ApiRequest, default: float) -> float:
    """Read how long the client would wait, in seconds."""
    value = request.query_float("timeout", default)
    if value < 0:
        raise ApiError(text(400, "Query deserialize error: timeout: must not be negative"))
    return min(value, _MAX_TIMEOUT)


def read_count(request: ApiRequest, name: str) -> int | None:
    """Read a query parameter that bounds a list; None when absent."""
    value = request.query_int(name)
    if value is not None and not 0 <= value <= _U32:
        raise ApiError(text(400, f"Query deserialize error: {name}: invalid digit found in string"))
    return value


def wanted_events(request: ApiRequest, header: str, default: frozenset[str]) -> Collection[str]:
    """Read a header that lists kinds of events."""
    raw = request.raw.headers.get(header)
    # Elements are not trimmed: clients have come to rely on what the Golem daemon makes of theirs.
    return default if raw is None else _EVENTS & set(raw.split(","))


# --- what clients are told ----------------------------------------------------------------------------------


@contextlib.contextmanager
def worded(echo: dict[str, Any] | None = None, *, wrong_state: int = 400) -> Iterator[None]:
    """Word the service's errors as clients of the Golem daemon know them."""
    try:
        yield
    except AllocationProblem as found:
        raise problem_of(found, echo) from found
    except AllocationReleased as found:
        raise error(410, str(found)) from found
    except NotFound as found:
        raise error(404, None) from found
    except NotYours as found:
        raise error(401, None) from found
    except WrongState as found:
        raise error(wrong_state, str(found)) from found
    except (BadRequest, PeerRefused) as found:
        raise error(400, str(found)) from found
    except PeerSilent as found:
        raise error(504, str(found)) from found
    except (Unavailable, AccountUnusable) as found:
        raise error(500, str(found)) from found


def problem_of(found: AllocationProblem, echo: dict[str, Any] | None) -> ApiError:
    """Return a refused allocation as an RFC 7807 document, to be raised."""
    document: dict[str, Any] = {
        "type": PROBLEMS + found.kind,
        "detail": found.detail,
        "message": found.detail,
    }
    if found.instance:
        document["instance"] = f"{PROBLEMS}{found.kind}/{found.instance}"
    return problem(found.status, document | found.members | {"requestBody": echo})


def echo_of(body: Mapping[str, Any], total: str | None) -> dict[str, Any]:
    """Return the request as the problem documents repeat it: every member there, null where absent."""
    return {
        "address": body.get("address"),
        "deposit": _members(body.get("deposit"), "contract", "id", "validate"),
        "extendTimeout": body.get("extendTimeout"),
        "makeDeposit": bool(body.get("makeDeposit")),
        "paymentPlatform": platform_echo(body),
        "timeout": body.get("timeout"),
        "totalAmount": total,
    }


def platform_echo(body: Mapping[str, Any]) -> Any:
    """Return the platform that a request asks for, as the problem documents repeat it."""
    return _members(body.get("paymentPlatform"), "driver", "network", "token")


def _members(value: Any, *names: str) -> Any:
    return {name: value.get(name) for name in names} if isinstance(value, dict) else value
