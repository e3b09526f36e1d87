"""Errors of activities.

ActivityError           `kind` is the word that travels on the bus, `str()` what a person reads
├── NotFound            no such activity, batch or agreement of the caller's
├── Forbidden           the activity belongs to somebody else
├── BadRequest          the request makes no sense now (agreement not approved, script malformed)
├── TimedOut            the other side did not get there in time
└── Unreachable         the provider or its exe-unit does not answer
"""

from __future__ import annotations

from typing import ClassVar


class ActivityError(Exception):
    """Something asked of an activity failed."""

    kind: ClassVar[str] = "service"


class NotFound(ActivityError):
    """No such activity, batch or agreement."""

    kind = "notFound"


class Forbidden(ActivityError):
    """Not the caller's."""

    kind = "forbidden"


class BadRequest(ActivityError):
    """Makes no sense now."""

    kind = "badRequest"


class TimedOut(ActivityError):
    """Did not happen in time."""

    kind = "timeout"


class Unreachable(ActivityError):
    """The far side does not answer."""

    kind = "unreachable"
