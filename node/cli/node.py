"""`golem-p2p node`: run a node in the foreground, or stop the one that runs."""

from __future__ import annotations

import logging
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from node.cli.common import (
    FAILURE,
    USAGE,
    CliError,
    DataDir,
    Json,
    NodeClient,
    complain,
    config_of,
    emit,
    is_running,
    make_app,
    run_app,
    say,
)
from node.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from node.config import Config

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="A setting, as `golem-p2p config` lists them; repeatable."
    ),
]


def main(argv: Sequence[str]) -> int:
    """Run `golem-p2p node`."""
    app = make_app("Run a node, or stop the one that runs.")

    @app.command()
    def run(
        data_dir: DataDir = "",
        api_url: Annotated[str, typer.Option(help="Where the REST API listens.")] = "",
        provider: Annotated[
            bool, typer.Option("--provider", help="Offer this machine to the market.")
        ] = False,
        settings: Set = None,
    ) -> None:
        """Run a node in the foreground until Ctrl-C or SIGTERM.

        Example: golem-p2p node run --provider --set provider.name=attic
        """
        flags = parse_settings(settings or [])
        if api_url:
            flags["api.url"] = api_url
        if provider:
            flags["provider.enabled"] = "true"
        raise SystemExit(run_node(config_of(data_dir, flags)))

    @app.command()
    def stop(data_dir: DataDir = "", as_json: Json = False) -> None:
        """Stop the running node and wait until it is gone."""
        config = config_of(data_dir)
        client = NodeClient(config)
        client.post("/golem-p2p/v1/shutdown")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if not is_running(config):
                emit({"schema": "golem-p2p/node-stop/1", "pid": client.pid}, as_json, lambda: say("stopped"))
                return
            time.sleep(0.1)
        raise CliError(f"the node (pid {client.pid}) has not stopped within 30 s")

    return run_app(app, argv, "golem-p2p node")


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """Return `NAME=VALUE` texts as a mapping. Raises CliError."""
    flags = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise CliError(f"--set {text!r}: expected NAME=VALUE", 2)
        flags[name] = value
    return flags


def run_node(config: Config) -> int:
    """Run a node until it is told to stop; returns the exit code."""
    import trio

    from node.app import Node, running_node

    configure_logging(config.text("log.level"))

    async def run() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with running_node(config) as node, trio.open_nursery() as nursery:
                nursery.start_soon(_stop_on_signal, signals, node)
                complain(
                    f"golem-p2p: node {node.key.node_id}, REST on {node.api_url}, data in {config.data_dir}"
                )
                await node.stop_requested.wait()
                complain("golem-p2p: stopping ...")
                nursery.cancel_scope.cancel()

    async def _stop_on_signal(signals: object, node: Node) -> None:
        async for _ in signals:  # type: ignore[attr-defined]
            node.stop_requested.set()

    _, code = run_trio(run)
    return code


T = TypeVar("T")


def run_trio(main: Callable[[], Awaitable[T]]) -> tuple[T | None, int]:
    """Run a node's main function; expected failures become one line on stderr and exit code 1."""
    import trio

    from node.app import AlreadyRunning
    from node.devnet.control import DevnetError
    from p2p.bus import BusError
    from p2p.identity.keystore import KeystoreError
    from p2p.overlay import OverlayError
    from p2p.storage import StorageError

    result: T | None = None
    code = FAILURE
    try:
        result = trio.run(main)
        code = 0
    except* (
        AlreadyRunning, KeystoreError, StorageError, OverlayError, BusError, DevnetError, ConfigError, OSError
    ) as group:  # fmt: skip
        for error in leaves(group):
            complain(f"golem-p2p: {error}")
            code = USAGE if isinstance(error, ConfigError) else code
    except* CliError as group:
        for error in leaves(group):
            complain(f"golem-p2p: {error}")
            code = error.code if isinstance(error, CliError) else code
    return result, code


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Return the errors of a group that are not groups themselves."""
    return [
        leaf
        for error in group.exceptions
        for leaf in (leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def configure_logging(level: str) -> None:
    """Send structured logs of our own and of libraries to stderr."""
    import structlog

    number = getattr(logging, level.upper(), logging.INFO)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(number),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
            if sys.stderr.isatty()
            else structlog.processors.LogfmtRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
