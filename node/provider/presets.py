"""What is offered: presets, and the offer that each makes (properties of reference §2.1 and §8.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from node.config import ConfigError
from node.provider.negotiators import ACCEPT_TIMEOUT, COEFFICIENTS, EXPIRATION, NOTE_INTERVAL, PAYMENT_TIMEOUT
from protocols.ground.money import WEI, MoneyError, parse_amount

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from node.config import Config
    from node.provider.resources import Resources
    from node.provider.runtimes import RuntimeDescriptor

DURATION, CPU = "golem.usage.duration_sec", "golem.usage.cpu_sec"
USAGE_VECTOR = "golem.com.usage.vector"
DEFAULT_ACCEPT_TIMEOUT = 240
DEFAULT_PAYMENT_TIMEOUT = 120
PROTOCOL_VERSION = 3
"""Version of the payment protocol: we can verify several transfers in one transaction, and lock payouts."""


class Preset(msgspec.Struct, frozen=True):
    """A runtime at a price."""

    name: str
    runtime: str
    prices: dict[str, float]
    """GLM per unit of each counter."""
    start: float
    """GLM for each activity."""


def presets_of(config: Config, runtimes: Mapping[str, RuntimeDescriptor]) -> tuple[Preset, ...]:
    """Return one preset for each runtime, at the configured price.

    The hour's price is for a CPU at work; an hour of mere presence costs a fifth of it, as Golem's set-up
    wizard splits it. Raises ConfigError for a price that is none.
    """
    hour, start = (_price(config, f"provider.price-{which}") for which in ("hour", "start"))
    prices = {DURATION: hour / 5 / 3600, CPU: hour / 3600}
    return tuple(Preset(name, name, prices, start) for name in sorted(runtimes))


def _price(config: Config, name: str) -> float:
    try:
        wei = parse_amount(config.text(name))
    except MoneyError as error:
        raise ConfigError(f"{name}: {error}") from error
    if wei < 0:
        raise ConfigError(f"{name} must not be negative")
    return wei / WEI


def offer_properties(
    preset: Preset,
    runtime: RuntimeDescriptor,
    *,
    node_name: str,
    subnet: str,
    cpu: Mapping[str, object],
    share: Resources,
    platforms: Mapping[str, str],
    is_public: bool,
    note_interval: int,
) -> dict[str, Any]:
    """Return the properties of a preset's offer, flat.

    Args:
        cpu: what is said about the processor.
        share: what one agreement gets.
        platforms: payment platform → payee address.
        is_public: whether peers can reach this node directly.
        note_interval: seconds between debit notes that we would like.
    """
    counters: Sequence[str] = [counter for counter in runtime.counters if counter in preset.prices]
    properties: dict[str, Any] = {
        **cpu,
        **runtime.properties,
        "golem.node.id.name": node_name,
        "golem.node.debug.subnet": subnet,
        "golem.node.net.is-public": is_public,
        "golem.inf.cpu.threads": share.threads,
        "golem.inf.cpu.cores": share.threads,
        "golem.inf.mem.gib": share.mem_gib,
        "golem.inf.storage.gib": share.storage_gib,
        "golem.runtime.name": runtime.name,
        "golem.runtime.version": runtime.version,
        "golem.srv.caps.multi-activity": True,
        "golem.com.scheme": "payu",
        NOTE_INTERVAL: note_interval,
        PAYMENT_TIMEOUT: DEFAULT_PAYMENT_TIMEOUT,
        ACCEPT_TIMEOUT: DEFAULT_ACCEPT_TIMEOUT,
        "golem.com.pricing.model": "linear",
        COEFFICIENTS: [*(float(preset.prices[counter]) for counter in counters), float(preset.start)],
        USAGE_VECTOR: list(counters),
        "golem.com.payment.protocol.version": PROTOCOL_VERSION,
    }
    for platform, address in platforms.items():
        properties[f"golem.com.payment.platform.{platform}.address"] = address
    return properties


def offer_constraints(subnet: str, now_ns: int) -> str:
    """Return an offer's constraints: the demand ends later than now, and is of our part of the market."""
    return f"(&({EXPIRATION}>{now_ns // 1_000_000})(golem.node.debug.subnet={subnet}))"
