"""Builds the foreign peers into `.interop/`: `python -m tests.interop.prepare [js go rust]`.

Each is a small program of ours on an implementation that its registry has, pinned by a lock file. What was built
is built again when its sources change. A toolchain that is not there is named, and its peers' tests then skip.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

SOURCES = Path(__file__).parent
BUILT = SOURCES.parent.parent / ".interop"


class Kind(msgspec.Struct, frozen=True):
    """One implementation."""

    name: str
    library: str
    """What it is called."""
    tool: str
    """The command that has to be there."""
    build: Callable[[Path], None]
    """Builds in the folder, which has the sources."""
    command: tuple[str, ...]
    """Starts the peer, in the folder."""


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.stdout.write(done.stdout.decode(errors="replace"))
        raise SystemExit(f"{' '.join(command)} in {folder} failed with {done.returncode}")


def _npm(folder: Path) -> None:
    _run(folder, "npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")


def _go(folder: Path) -> None:
    _run(folder, "go", "build", "-o", "peer", ".")


def _cargo(folder: Path) -> None:
    # One crate at a time: the last ones take a gigabyte each, and there may be others at work on the machine.
    _run(folder, "cargo", "build", "--release", "--locked", "--jobs", "1")


KINDS = {
    kind.name: kind
    for kind in (
        Kind("js", "js-libp2p", "node", _npm, ("node", "peer.mjs")),
        Kind("go", "go-libp2p", "go", _go, ("./peer",)),
        Kind("rust", "rust-libp2p", "cargo", _cargo, ("target/release/interop-peer",)),
    )
}


def missing(name: str) -> str | None:
    """Return why a kind of peer cannot be started, or None when it can."""
    kind = KINDS[name]
    if not (SOURCES / name).is_dir():
        return f"there is no peer on {kind.library}"
    if shutil.which(kind.tool) is None:
        return f"{kind.tool} is not on the PATH, so there is no {kind.library} to talk to"
    if not (BUILT / name / ".built").exists():
        return f"the {kind.library} peer is not built: make interop"
    return None


def prepare(name: str) -> str:
    """Build a kind of peer if it has to be; return what was done."""
    kind, folder = KINDS[name], BUILT / name
    if shutil.which(kind.tool) is None:
        return f"{kind.tool} is not on the PATH: the tests with {kind.library} will skip"
    sources = sorted(path for path in (SOURCES / name).rglob("*") if path.is_file())
    state = hashlib.sha256()
    for path in sources:
        state.update(str(path.relative_to(SOURCES)).encode() + b"\0" + path.read_bytes())
    stamp = folder / ".built"
    if stamp.exists() and stamp.read_text() == state.hexdigest():
        return f"{kind.library} is built"
    stamp.unlink(missing_ok=True)
    for path in sources:
        copy = folder / path.relative_to(SOURCES / name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            shutil.copyfile(path, copy)
    print(f"building a peer on {kind.library} ...", flush=True)
    kind.build(folder)
    stamp.write_text(state.hexdigest())
    return f"{kind.library} was built"


def main(names: list[str]) -> int:
    for name in names or [name for name in KINDS if (SOURCES / name).is_dir()]:
        print(prepare(name), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
