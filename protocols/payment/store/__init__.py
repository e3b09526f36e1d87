"""Payment's tables (`schema.sql`) and the functions that read and write them.

Every function takes the connection of a transaction that its caller has begun (`database.write` or `read`);
none begins or ends one. Each command of the service is one transaction, written in the handler's modules out
of these functions and the rules of `core`.
"""

from __future__ import annotations

from importlib.resources import files

MIGRATIONS = [(files(__name__) / "schema.sql").read_text()]
"""Append only: what is released is never changed."""
