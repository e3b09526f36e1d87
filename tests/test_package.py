"""What is installed: five packages, whose names nobody else uses, and nothing more."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"p2p", "protocols", "node", "exeunit", "simulations"}


def test_no_dependency_owns_our_names() -> None:
    owners = importlib.metadata.packages_distributions()
    for name in PACKAGES:
        assert set(owners.get(name, ["golem-p2p"])) <= {"golem-p2p"}, name


@pytest.mark.timeout(120)
def test_the_wheel_ships_the_five_and_their_data(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == PACKAGES
    for data in (
        "node/requestor/demo/pathtracer.wasm",
        "node/devnet/contracts/token.json",
        "node/devnet/contracts/token.vy",
        "protocols/market/schema.sql",
        "p2p/py.typed",
    ):
        assert data in names
    assert not any(name.startswith("tests/") for name in names)


def test_importing_p2p_imports_nothing() -> None:
    program = "import sys; before = set(sys.modules); import p2p; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['p2p']"


@pytest.mark.parametrize("module", ["exeunit.supervisor.cli", "exeunit.runtimes.wasm.cli"])
def test_exe_units_load_neither_libp2p_nor_eth_keys(module: str) -> None:
    program = f"import sys, {module}; print([m for m in ('libp2p', 'eth_keys', 'coincurve', 'multiaddr') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_lock_is_complete() -> None:
    """Every dependency that pyproject names is in the lock, so that installing it resolves nothing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["devnet"]]
    lock = (ROOT / "requirements" / "lock.txt").read_text().lower().splitlines()
    locked = {line.split("==")[0].split("[")[0] for line in lock}
    for requirement in wanted:
        name = requirement.lower().split(">")[0].split("=")[0].split("[")[0]
        assert name in locked, requirement
