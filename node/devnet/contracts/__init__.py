"""The embedded chain's contracts: Vyper sources, and what was compiled from them.

`make contracts` compiles (`compile.py`, in a virtual environment of its own, because only a developer needs
the compiler); the JSON beside the sources is committed, and a test checks that each belongs to its source.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec

FOLDER: Final = Path(__file__).parent
NAMES: Final = ("token", "multi_transfer", "lock", "channel")
"""In the order of deployment, which gives each its address."""


class Contract(msgspec.Struct, frozen=True):
    """A compiled contract."""

    name: str
    vyper: str
    """The compiler's version."""
    evm_version: str
    source_sha256: str
    abi: list[dict[str, Any]]
    bytecode: bytes
    """What deploys it; constructor arguments follow it."""


def load(name: str) -> Contract:
    """Read a compiled contract from the package."""
    raw = json.loads((FOLDER / f"{name}.json").read_text())
    raw["bytecode"] = bytes.fromhex(raw["bytecode"].removeprefix("0x"))
    return Contract(name=name, **raw)
