"""What others on this node may observe of activities; published on the bus topic `TOPIC`."""

from __future__ import annotations

import msgspec

TOPIC = "activity/events"


class ActivityCreated(msgspec.Struct, frozen=True, tag="created"):
    """A provider's activity has its supervisor and can be used."""

    activity_id: str
    agreement_id: str


class ActivityEnded(msgspec.Struct, frozen=True, tag="ended"):
    """A provider's activity is terminated; its usage will not change any more."""

    activity_id: str
    agreement_id: str
    usage: tuple[float, ...]
    """The last sample, in the order of the agreement's usage vector."""
    reason: str


ActivityEvent = ActivityCreated | ActivityEnded
