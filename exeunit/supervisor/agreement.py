"""Read of an agreement what its exe-unit must know: counters, limits, task package, and whose activity it is.

The file is written by the node (or the original's agent): JSON with dotted property names, flat or nested. Called by
`cli`.

Errors: `BadAgreement`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES: Final = 4 << 20
_MAX_COUNTERS: Final = 32
_MAX_DEPTH: Final = 64


class BadAgreement(Exception):
    """The agreement file cannot be used; the message says why."""


class Limits(msgspec.Struct, frozen=True):
    """What the activity may use; none means that the agreement does not say."""

    memory_gib: float | None = None
    storage_gib: float | None = None
    cpu_threads: int | None = None
    expires: float | None = None
    """Seconds UTC since the epoch after which the activity has no business to go on."""


class Agreement(msgspec.Struct, frozen=True):
    """What an exe-unit knows of its agreement."""

    id: str
    counters: tuple[str, ...]
    """Names of the usage vector, in order."""
    limits: Limits
    task_package: str | None
    """As the demand has it: `hash:sha3:HEX:URL`."""
    requestor: str | None
    """Node id of the requestor, lower case."""


def read_agreement(path: Path) -> Agreement:
    """Read the file. Raises BadAgreement."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise BadAgreement(f"cannot read the agreement {path}: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise BadAgreement(f"the agreement {path} is longer than {_MAX_BYTES} bytes")
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadAgreement(f"the agreement {path} is not JSON: {error}") from error
    return parse_agreement(document)


def parse_agreement(document: Any) -> Agreement:
    """Understand the JSON of an agreement. Raises BadAgreement."""
    if not isinstance(document, dict):
        raise BadAgreement("the agreement is not a JSON object")
    offer, demand = _properties(document, "offer"), _properties(document, "demand")
    counters = offer.get("golem.com.usage.vector")
    if not isinstance(counters, list) or not all(isinstance(name, str) for name in counters):
        raise BadAgreement("the offer has no usage vector (golem.com.usage.vector, a list of names)")
    if len(counters) > _MAX_COUNTERS:
        raise BadAgreement(
            f"the usage vector has {len(counters)} counters, at most {_MAX_COUNTERS} are known"
        )
    expires = _number(demand, "golem.srv.comp.expiration")
    package = demand.get("golem.srv.comp.task_package")
    threads = _number(offer, "golem.inf.cpu.threads")
    requestor = document["demand"].get("requestorId") if isinstance(document.get("demand"), dict) else None
    return Agreement(
        id=str(document.get("agreementId", "")),
        counters=tuple(counters),
        limits=Limits(
            memory_gib=_number(offer, "golem.inf.mem.gib"),
            storage_gib=_number(offer, "golem.inf.storage.gib"),
            cpu_threads=None if threads is None else int(threads),
            expires=None if expires is None else expires / 1000,
        ),
        task_package=package if isinstance(package, str) and package else None,
        requestor=requestor.lower() if isinstance(requestor, str) else None,
    )


def _properties(document: dict[str, Any], side: str) -> dict[str, Any]:
    part = document.get(side)
    properties = part.get("properties") if isinstance(part, dict) else None
    if properties is None:
        return {}
    flat: dict[str, Any] = {}
    _flatten(properties, "", flat, 0)
    return flat


def _flatten(value: Any, prefix: str, flat: dict[str, Any], depth: int) -> None:
    """Bring flat and nested properties into one form: dotted names."""
    if not isinstance(value, dict):
        flat[prefix] = value
    elif depth < _MAX_DEPTH:
        for name, inner in value.items():
            _flatten(inner, f"{prefix}.{name}" if prefix else name, flat, depth + 1)


def _number(properties: dict[str, Any], name: str) -> float | None:
    value = properties.get(name)
    if value is None:
        return None
    # Offers of the original carry numbers as text here and there.
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadAgreement(f"the property {name} is not a number: {str(value)[:32]!r}") from None
    if not 0 < number < float("inf"):
        raise BadAgreement(f"the property {name} is not a positive number: {number}")
    return number
