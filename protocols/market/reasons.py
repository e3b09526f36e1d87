"""Reasons: why something was refused or ended, as a JSON object with a `message` and whatever else is said."""

from __future__ import annotations

import json
from typing import Any

from protocols.market.errors import BadRequest
from protocols.market.messages import MAX_REASON_BYTES


def check_reason(reason: Any) -> str | None:
    """Return an agent's reason as compact JSON text, or None for null.

    Raises:
        BadRequest: not null and not an object with a text `message`, or too long.
    """
    if reason is None:
        return None
    if not isinstance(reason, dict) or not isinstance(reason.get("message"), str):
        raise BadRequest("a reason is null or an object with a `message`")
    try:
        text = json.dumps(reason, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        size = len(text.encode())
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the reason cannot be kept: {error}") from error
    if size > MAX_REASON_BYTES:
        raise BadRequest(f"a reason has {MAX_REASON_BYTES} bytes at most, not {size}")
    return text


def read_reason(text: str | None) -> str | None:
    """Return a peer's reason, checked. Raises BadRequest."""
    if text is None:
        return None
    try:
        reason = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the reason is not JSON: {error}") from error
    return check_reason(reason)


def reason_of(message: str, **extra: Any) -> str:
    """Return the reason that this node itself gives, with whatever else there is to say."""
    return json.dumps({"message": message, **extra})


def is_final(text: str | None) -> bool:
    """Return whether a checked reason says that trying again is of no use."""
    return text is not None and json.loads(text).get("golem.proposal.rejection.is-final") is True
