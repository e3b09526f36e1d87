"""`golem-p2p demo`: chain, two providers and a requestor as processes of their own; a picture; the account.

Everything is in one folder (`.run` by default) on free ports; the user's own node is not touched. Whatever
happens, no process is left behind.
"""

from __future__ import annotations

import functools
import platform
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.common import FAILURE, INTERRUPTED, CliError, Json, complain, emit, make_app, run_app, say
from node.requestor.demo.picture import PictureError, assemble, encode_png, parse_ppm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.cli.jobview import JobView
    from node.devnet.local import LocalNetwork
    from node.requestor.job import JobProgress, JobSpec

TESTED = (("Linux", "x86_64"), ("Linux", "aarch64"))


def main(argv: Sequence[str]) -> int:
    """Run `golem-p2p demo`."""
    app = make_app("A whole market on this machine computes a picture and pays for it.")
    app.info.no_args_is_help = False

    @app.command()
    def demo(
        folder: Annotated[str, typer.Option("--dir", help="Folder for everything.")] = ".run",
        width: Annotated[int, typer.Option(help="Pixels.")] = 640,
        height: Annotated[int, typer.Option(help="Pixels.")] = 480,
        samples: Annotated[int, typer.Option(help="Paths for each pixel: more is finer and slower.")] = 96,
        columns: Annotated[int, typer.Option(help="Tiles in a row.")] = 4,
        rows: Annotated[int, typer.Option(help="Rows of tiles.")] = 4,
        providers: Annotated[int, typer.Option(help="Provider nodes.")] = 2,
        as_json: Json = False,
    ) -> None:
        """Start a market on this machine, compute a picture on it, pay for it, and stop it again."""
        base = Path(folder).absolute()
        raise SystemExit(run_demo(base, width, height, samples, columns, rows, providers, as_json=as_json))

    return run_app(app, argv, "golem-p2p demo")


def run_demo(
    base: Path,
    width: int,
    height: int,
    samples: int,
    columns: int,
    rows: int,
    providers: int,
    *,
    as_json: bool,
) -> int:
    """Run the demo; returns the exit code."""
    from node.cli.jobview import account
    from node.devnet.control import DevnetError
    from node.devnet.local import LocalNetwork

    if (platform.system(), platform.machine()) not in TESTED:
        complain(f"note: untested on {platform.system()} {platform.machine()}; Linux on x86-64 and arm64 are")
    began = time.monotonic()
    network = LocalNetwork(base)
    try:
        network.down()  # what a killed demo may have left
        network.up(providers, complain, requestor=True)
        progress, code = _compute(network, base, width, height, samples, columns, rows, providers, as_json)
    except DevnetError as error:
        raise CliError(str(error)) from error
    except KeyboardInterrupt:
        complain("interrupted before the work began: nothing was bought, nothing is owed")
        return INTERRUPTED
    finally:
        complain("stopping the nodes and the chain ...")
        network.down()
    if progress is None:
        return code
    picture = base / "picture.png"
    if progress.phase == "done":
        _assemble(base / "tiles", columns, rows, picture)
    took = time.monotonic() - began
    if as_json:
        emit(_document(progress, picture, took), True, lambda: None)
    else:
        account(progress)
        _verdict(progress, picture, took)
    return {"done": 0, "stopped": INTERRUPTED}.get(progress.phase, FAILURE)


def _compute(
    network: LocalNetwork,
    base: Path,
    width: int,
    height: int,
    samples: int,
    columns: int,
    rows: int,
    providers: int,
    quiet: bool,
) -> tuple[JobProgress | None, int]:
    from node.cli.jobview import JobView
    from node.cli.node import run_trio
    from node.requestor.job import JobSpec

    requestor = next(node for node in network.alive() if node.name == "requestor")
    tiles = base / "tiles"
    tiles.mkdir(exist_ok=True)
    for old in tiles.glob("tile-*.ppm"):
        old.unlink()
    with as_file(files("node.requestor").joinpath("demo", "pathtracer.wasm")) as program:
        spec = JobSpec(
            program=str(program),
            args=(str(width), str(height), str(samples), "{i}", str(columns), str(rows)),
            outputs=(("/work/tile-{i}.ppm", str(tiles / "tile-{i}.ppm")),),
            tasks=columns * rows,
            providers=providers,
        )
        spec.check()
        with JobView(quiet=quiet) as view:
            return run_trio(functools.partial(_run, Path(requestor.data_dir), spec, view))


async def _run(data_dir: Path, spec: JobSpec, view: JobView) -> JobProgress:
    from node.cli.run import follow_job
    from p2p.bus.client import connect_env

    async with connect_env({"GSB_URL": f"unix:{data_dir / 'bus.sock'}"}) as bus:
        return await follow_job(bus, spec, view)


def _assemble(tiles: Path, columns: int, rows: int, picture: Path) -> None:
    try:
        parts = [parse_ppm((tiles / f"tile-{i}.ppm").read_bytes()) for i in range(columns * rows)]
        picture.write_bytes(encode_png(assemble(parts, columns)))
    except (OSError, PictureError) as error:
        raise CliError(f"the tiles do not make a picture: {error}") from error


def _document(progress: JobProgress, picture: Path, took: float) -> dict[str, object]:
    import msgspec

    return {
        "schema": "golem-p2p/demo/1",
        **msgspec.to_builtins(progress),
        "picture": str(picture) if progress.phase == "done" else None,
        "seconds": round(took, 1),
    }


def _verdict(progress: JobProgress, picture: Path, took: float) -> None:
    match progress.phase:
        case "done":
            hands = len(progress.providers)
            say(f"\n{progress.tasks} tiles by {hands} providers in {took:.0f} s, start and stop included")
            say(f"the picture: {picture}")
        case "stopped":
            say(f"\nstopped: {progress.done} of {progress.tasks} tiles were finished, and paid for")
        case _:
            say(f"\nfailed: {progress.error}")
