"""The market's own settings, and what they are unless told otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class SettingsError(ValueError):
    """A setting of the market that cannot be used."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the protocol, from the section `market` of the configuration."""

    ttl: float = 3600.0
    """Life of an offer or demand in seconds, where its agent does not say; what Golem clients count on."""
    lease: float = 1800.0
    """Seconds that a lease promises an offer to stand; renewed when two thirds have passed."""
    confirm_timeout: float = 90.0
    """Seconds after which an agreement is cancelled that the provider's node could not be given."""
    keep_days: float = 90.0
    """Days that ended agreements are kept after their validity."""


def read_settings(settings: Mapping[str, object]) -> Settings:
    """Return the settings of a configuration's section. Raises SettingsError."""
    try:
        read = msgspec.convert(dict(settings), Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"market: {error}") from error
    if not (read.ttl > 0 and 0 < read.lease <= 7200 and read.confirm_timeout > 0 and read.keep_days > 0):
        raise SettingsError("market: ttl, lease (at most 7200 s), confirm_timeout and keep_days are above 0")
    return read
