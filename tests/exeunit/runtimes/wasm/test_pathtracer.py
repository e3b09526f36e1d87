"""The demo's guest: a picture comes out the same however it is cut into tiles."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import pytest

from tests.exeunit.runtimes.wasm.test_run import Runtime

if TYPE_CHECKING:
    from pathlib import Path

PATHTRACER = files("node.requestor").joinpath("demo", "pathtracer.wasm")


def pixels(path: Path) -> tuple[int, int, bytes]:
    kind, size, depth, data = path.read_bytes().split(b"\n", 3)
    assert (kind, depth) == (b"P6", b"255")
    width, height = map(int, size.split())
    assert len(data) == width * height * 3
    return width, height, data


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path, "--mem-gib", "0.0625", "--storage-gib", "0.01", "--time-limit", "60")


def test_tiles_make_up_the_picture(runtime: Runtime) -> None:
    (volume,) = runtime.deploy(PATHTRACER.read_bytes())
    done = runtime.run("61", "40", "4", "0", "1", "1", "/work/whole.ppm")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"tile 0: 61 x 40 pixels at (0, 0), 4 samples each, ")
    width, height, whole = pixels(volume / "whole.ppm")
    assert (width, height) == (61, 40)
    rows = [bytearray() for _ in range(height)]
    for tile in range(6):
        assert runtime.run("61", "40", "4", str(tile), "3", "2").returncode == 0
        tile_width, tile_height, data = pixels(volume / f"tile-{tile}.ppm")
        for line in range(tile_height):
            rows[tile // 3 * 20 + line] += data[line * tile_width * 3 : (line + 1) * tile_width * 3]
    assert b"".join(rows) == whole
    assert len(set(whole)) > 50


def test_wrong_arguments_and_places(runtime: Runtime) -> None:
    runtime.deploy(PATHTRACER.read_bytes())
    assert runtime.run("0", "40", "4", "0", "1", "1").returncode == 2
    assert runtime.run("61", "40", "4", "6", "3", "2").stderr.startswith(b"usage: pathtracer")
    done = runtime.run("61", "40", "4", "0", "3", "2", "/etc/x")
    assert (done.returncode, done.stderr[:37]) == (1, b"pathtracer: cannot make /etc/x: No su")


def test_it_is_small() -> None:
    assert len(PATHTRACER.read_bytes()) < 64 << 10
