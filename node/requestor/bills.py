"""How much a provider may bill us, without I/O: what we saw ourselves, with a little room.

A bill follows from the provider's own counters, so it is checked against what the requestor measured: nobody
can have used more wall time than has passed since the activity was asked for, nor more CPU time than that on
all its threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from protocols.ground.money import linear_price

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOM = 1.1
"""Factor on measured times: clocks differ."""
SLACK = 10.0
"""Seconds on measured times: starting and stopping on the provider's side."""


def most_owed(offer: Mapping[str, Any], seconds: float, activities: int) -> int:
    """Return the most that an agreement can have come to, in wei.

    Args:
        offer: the agreement's offer properties.
        seconds: for how long its activities were alive in all, as we measured it.
        activities: how many there were.
    """
    if not activities:
        return 0
    wall = seconds * ROOM + SLACK * activities
    threads = max(1.0, float(offer.get("golem.inf.cpu.threads", 1)))
    limits = {
        "golem.usage.duration_sec": wall,
        "golem.usage.cpu_sec": wall * threads,
        "golem.usage.gib": float(offer.get("golem.inf.mem.gib", 0)),
        "golem.usage.storage_gib": float(offer.get("golem.inf.storage.gib", 0)),
    }
    vector = offer["golem.com.usage.vector"]
    coefficients = [float(c) for c in offer["golem.com.pricing.model.linear.coeffs"]]
    usage = [limits.get(counter, 0.0) for counter in vector]
    per_use = linear_price([*coefficients[:-1], 0.0], usage)
    return per_use + activities * linear_price([coefficients[-1]], [])


def owed_each_second(offer: Mapping[str, Any]) -> int:
    """Return what another second of one activity can come to at most, in wei."""
    return max(0, most_owed(offer, 1000.0, 1) - most_owed(offer, 0.0, 1)) // 1000


def estimate(offer: Mapping[str, Any], seconds: float, activities: int) -> int:
    """Return about what an agreement has come to, in wei: one busy thread for as long as we measured."""
    if not activities:
        return 0
    vector = offer["golem.com.usage.vector"]
    coefficients = [float(c) for c in offer["golem.com.pricing.model.linear.coeffs"]]
    timed = ("golem.usage.duration_sec", "golem.usage.cpu_sec")
    usage = [seconds if counter in timed else 0.0 for counter in vector]
    return linear_price([*coefficients[:-1], 0.0], usage) + activities * linear_price([coefficients[-1]], [])


def price_of_hour(offer: Mapping[str, Any]) -> float | None:
    """Return what an hour of one busy thread costs, in GLM: the figure that offers are compared by.

    None for an offer whose price we cannot tell.
    """
    vector = offer.get("golem.com.usage.vector")
    coefficients = offer.get("golem.com.pricing.model.linear.coeffs")
    if (
        not isinstance(vector, list)
        or not isinstance(coefficients, list)
        or len(coefficients) != len(vector) + 1
    ):
        return None
    hour = {"golem.usage.duration_sec": 3600.0, "golem.usage.cpu_sec": 3600.0}
    try:
        total = sum(
            float(c) * hour.get(counter, 0.0) for counter, c in zip(vector, coefficients, strict=False)
        )
        total += float(coefficients[-1])
    except (TypeError, ValueError):
        return None
    return total if total >= 0 else None
