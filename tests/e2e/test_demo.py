"""`golem-p2p demo`, which is `make run`: exit code 0, the picture, and balances risen by exactly the invoices."""

from __future__ import annotations

import json
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from node.requestor.demo.picture import assemble, encode_png, parse_ppm
from tests.e2e.conftest import BIN, with_commands

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def demo(folder: Path) -> dict[str, object]:
    done = subprocess.run(
        [
            BIN / "golem-p2p",
            "demo",
            "--dir",
            folder,
            "--json",
            "--width",
            "160",
            "--height",
            "120",
            "--samples",
            "16",
        ],
        env=with_commands(),
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    outcome: dict[str, object] = json.loads(done.stdout)
    return outcome


def test_twice_in_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = demo(folder)
    picture = Path(str(first["picture"]))
    tiles = [parse_ppm((folder / "tiles" / f"tile-{i}.ppm").read_bytes()) for i in range(16)]
    whole = assemble(tiles, 4)
    assert (whole.width, whole.height) == (160, 120)
    assert picture.read_bytes() == encode_png(whole)
    assert len(set(whole.pixels)) > 50, "a picture, not one colour"
    second = demo(folder)
    assert Path(str(second["picture"])).read_bytes() == encode_png(whole), (
        "the same picture, whoever computed it"
    )
    for outcome in (first, second):
        reports = outcome["providers"]
        assert isinstance(reports, list)
        for report in reports:
            rise = Decimal(report["balance_after"]) - Decimal(report["balance_before"])
            assert rise == Decimal(report["paid"]) == Decimal(report["cost"])
            assert report["transactions"] or rise == 0
    assert not (folder / "devnet.json").exists(), "nothing is left running"
