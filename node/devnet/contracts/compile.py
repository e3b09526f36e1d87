"""Compile the Vyper sources of this folder to the JSON files beside them. `make contracts` runs it.

It needs `vyper==0.4.3` and nothing of this project, so it runs in an environment of its own. The EVM version is
`paris`, the newest that all chains of the registry and the embedded chain have.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

VERSION = "0.4.3"
EVM_VERSION = "paris"


def compiled(source: Path) -> dict[str, object]:
    """Compile one source file."""
    output = subprocess.run(  # noqa: S603  (our own arguments)
        [sys.executable, "-m", "vyper", "--evm-version", EVM_VERSION, "-f", "abi,bytecode", str(source)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return {
        "vyper": VERSION,
        "evm_version": EVM_VERSION,
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "abi": json.loads(output[0]),
        "bytecode": output[1],
    }


def main() -> int:
    version = subprocess.run(
        [sys.executable, "-m", "vyper", "--version"], check=True, capture_output=True, text=True
    ).stdout
    if not version.startswith(VERSION):
        sys.stderr.write(f"vyper {VERSION} is needed, this is {version}")
        return 1
    for source in sorted(Path(__file__).parent.glob("*.vy")):
        target = source.with_suffix(".json")
        target.write_text(json.dumps(compiled(source), indent=1) + "\n")
        sys.stdout.write(f"{target.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
