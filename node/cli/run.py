"""`golem-p2p run`: a WASM program on the market, as K tasks on at most N providers.

Uses the node that runs on the data folder, or else runs one for as long as the job lasts. Ctrl-C stops the
work; what is finished is still paid, and a second Ctrl-C does not wait for that.
"""

from __future__ import annotations

import contextlib
import functools
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from node.cli.common import (
    FAILURE,
    INTERRUPTED,
    CliError,
    DataDir,
    Json,
    complain,
    config_of,
    emit,
    is_running,
    make_app,
    printable,
    run_app,
    say,
)
from node.cli.node import Set, parse_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from node.cli.jobview import JobView
    from node.config import Config
    from node.requestor.job import JobProgress, JobSpec
    from p2p.bus import Bus


def main(argv: Sequence[str]) -> int:
    """Run `golem-p2p run`."""
    app = make_app("Run a WASM program on the market, and pay for it.")

    @app.command()
    def run(
        program: Annotated[Path, typer.Argument(help="A .wasm program (WASI preview 1) or .ywasi image.")],
        args: Annotated[list[str] | None, typer.Argument(help="The program's arguments, after --.")] = None,
        inputs: Annotated[
            list[str] | None,
            typer.Option("--input", metavar="HOST:GUEST", help="File to copy in; repeatable."),
        ] = None,
        outputs: Annotated[
            list[str] | None,
            typer.Option("--output", metavar="GUEST:HOST", help="File to copy out; repeatable."),
        ] = None,
        tasks: Annotated[int, typer.Option(help="How many times; {i} in ARGS and paths is the index.")] = 1,
        providers: Annotated[int, typer.Option(help="Most providers at work at a time.")] = 2,
        budget: Annotated[str, typer.Option(help="Most that it may cost, in GLM.")] = "5",
        timeout: Annotated[float, typer.Option(help="Seconds that one task may take.")] = 600.0,
        subnet: Annotated[str, typer.Option(help="Part of the market to look in.")] = "public",
        data_dir: DataDir = "",
        settings: Set = None,
        as_json: Json = False,
    ) -> None:
        """Run PROGRAM as K tasks on at most N providers, move its files, and pay for it.

        The program sees one directory, /work. Example, on `golem-p2p devnet up`:

        golem-p2p run render.wasm --tasks 8 --output /work/o.png:o-{i}.png -- --frame {i}
        """
        from node.requestor.job import JobError, JobSpec

        spec = JobSpec(
            program=str(program.absolute()),
            args=tuple(args or ()),
            inputs=tuple(_pair(text, host_first=True) for text in inputs or ()),
            outputs=tuple(_pair(text, host_first=False) for text in outputs or ()),
            tasks=tasks,
            providers=providers,
            budget=budget,
            task_timeout=timeout,
            subnet=subnet,
        )
        try:
            spec.check()
        except JobError as error:
            raise CliError(str(error), 2) from error
        _check_files(program, spec)
        config = config_of(data_dir, parse_settings(settings or []))
        raise SystemExit(run_job(config, spec, as_json=as_json))

    return run_app(app, argv, "golem-p2p run")


def run_job(config: Config, spec: JobSpec, *, as_json: bool) -> int:
    """Run a job and show it; returns the exit code."""
    from node.cli.jobview import JobView, account
    from node.cli.node import run_trio

    with JobView(quiet=as_json) as view:
        progress, code = run_trio(functools.partial(_run, config, spec, view))
    if progress is None:
        return code
    if as_json:
        emit({"schema": "golem-p2p/run/1", **msgspec.to_builtins(progress)}, True, lambda: None)
    else:
        account(progress)
        why = f": {printable(progress.error)}" if progress.error else ""
        when = f"{progress.phase} after {progress.elapsed:.1f} s"
        say(f"{when}, {progress.done} of {progress.tasks} tasks done{why}")
    return {"done": 0, "stopped": INTERRUPTED}.get(progress.phase, FAILURE)


async def _run(config: Config, spec: JobSpec, view: JobView) -> JobProgress | None:
    async with _node_bus(config, view) as bus:
        return await follow_job(bus, spec, view)


@contextlib.asynccontextmanager
async def _node_bus(config: Config, view: JobView) -> AsyncIterator[Bus]:
    """The bus of the running node, or of one that runs while the context is open."""
    from p2p.bus.client import connect_env

    if is_running(config):
        async with connect_env({"GSB_URL": f"unix:{config.bus_path}"}) as bus:
            yield bus
        return
    if config.text("overlay.network") == "devnet" and not config["overlay.bootstrap"]:
        raise CliError(
            "there is no provider: no devnet runs on this machine, and no other peer is configured"
            " (overlay.bootstrap). Start one with: golem-p2p devnet up"
        )
    from node.app import running_node
    from node.cli.node import configure_logging

    configure_logging("error" if config.values["log.level"].source == "default" else config.text("log.level"))
    # A job's own node listens wherever there is room: the usual port may be another program's.
    flags = {"api.url": "http://127.0.0.1:0"} if config.values["api.url"].source == "default" else {}
    async with running_node(config.with_flags(flags)) as node:
        yield node.bus


async def follow_job(bus: Bus, spec: JobSpec, view: JobView) -> JobProgress:
    """Start a job on a node, show it to its end, and return how it ended; SIGINT and SIGTERM stop it."""
    import trio

    from node.requestor.job import JobProgress
    from node.requestor.service import ADDRESS, FollowJob, JobStarted, StartJob, StopJob
    from p2p import codec
    from p2p.bus import ask

    started = await ask(bus, ADDRESS, StartJob(spec), JobStarted)

    async def stop_on_signal(scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                complain("stopping: finished work is still paid (again to leave at once)")
                await ask(bus, ADDRESS, StopJob(started.job_id), JobStarted)
                break
            async for _ in signals:
                scope.cancel()

    last: JobProgress | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_signal, nursery.cancel_scope)
        address = f"{ADDRESS}/{FollowJob.__name__}"
        async with bus.stream(address, codec.encode(FollowJob(started.job_id))) as items:
            async for item in items:
                last = codec.decode(item, JobProgress)
                view.update(last)
        nursery.cancel_scope.cancel()
    assert last is not None
    return last


def _check_files(program: Path, spec: JobSpec) -> None:
    """Raise CliError for what would fail on every provider."""
    if not program.is_file():
        raise CliError(f"there is no program {program}", 2)
    with program.open("rb") as file:
        if file.read(4) not in (b"\0asm", b"PK\x03\x04"):
            raise CliError(f"{program} is neither a .wasm module nor a .ywasi image: it begins otherwise", 2)
    for host, _ in spec.inputs:
        for index in range(spec.tasks if "{i}" in host else 1):
            path = Path(spec.filled(host, index))
            if not path.is_file():
                raise CliError(f"--input: there is no file {path}", 2)


def _pair(text: str, *, host_first: bool) -> tuple[str, str]:
    first, colon, second = text.partition(":")
    if not colon or not first or not second:
        form = "HOST:GUEST" if host_first else "GUEST:HOST"
        raise CliError(f"{text!r}: expected {form}", 2)
    if host_first:
        return str(Path(first).absolute()), second
    return first, str(Path(second).absolute())
