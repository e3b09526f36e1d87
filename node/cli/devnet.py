"""`golem-p2p devnet`: a chain and some providers on this machine, left running until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.common import CliError, DataDir, Json, complain, config_of, emit, make_app, run_app, say, table
from node.config import devnet_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.devnet.local import LocalNetwork

Folder = Annotated[
    str, typer.Option("--dir", help="Folder of the network; `devnet` in the data folder if not given.")
]


def main(argv: Sequence[str]) -> int:
    """Run `golem-p2p devnet`."""
    app = make_app("A chain and providers on this machine, to try things on.")

    @app.command()
    def up(
        providers: Annotated[int, typer.Option(help="How many provider nodes.")] = 2,
        data_dir: DataDir = "",
        folder: Folder = "",
        as_json: Json = False,
    ) -> None:
        """Start the chain and providers and leave them running; what runs already is kept.

        Then: golem-p2p run PROGRAM.wasm, or golem-p2p node run for a node of your own beside them.
        """
        from node.devnet.control import DevnetError

        network = _network(data_dir, folder)
        try:
            network.up(providers, complain)
        except DevnetError as error:
            raise CliError(str(error)) from error
        _show(network, as_json)

    @app.command()
    def down(data_dir: DataDir = "", folder: Folder = "", as_json: Json = False) -> None:
        """Stop everything that `devnet up` started; keys, chain and balances stay."""
        stopped = _network(data_dir, folder).down()
        document = {"schema": "golem-p2p/devnet-down/1", "stopped": stopped}
        emit(document, as_json, lambda: say(f"stopped {stopped} processes"))

    @app.command()
    def status(data_dir: DataDir = "", folder: Folder = "", as_json: Json = False) -> None:
        """Show what runs. Exit code 3 when nothing does."""
        _show(_network(data_dir, folder), as_json)

    @app.command()
    def reset(data_dir: DataDir = "", folder: Folder = "", as_json: Json = False) -> None:
        """Stop everything and forget it: chain, keys and balances."""
        network = _network(data_dir, folder)
        network.reset()
        document = {"schema": "golem-p2p/devnet-reset/1", "folder": str(network.folder)}
        emit(document, as_json, lambda: say("gone"))

    return run_app(app, argv, "golem-p2p devnet")


def _network(data_dir: str, folder: str) -> LocalNetwork:
    from node.devnet.local import LocalNetwork

    return LocalNetwork(Path(folder) if folder else devnet_dir(config_of(data_dir).data_dir))


def _show(network: LocalNetwork, as_json: bool) -> None:
    from node.cli.common import NOT_RUNNING
    from node.devnet import control

    chain = control.status(network.folder / "chain")
    alive = network.alive()
    if chain is None and not alive:
        raise CliError(
            f"no devnet runs in {network.folder}. Start one with: golem-p2p devnet up", NOT_RUNNING
        )
    document = {
        "schema": "golem-p2p/devnet/1",
        "folder": str(network.folder),
        "chain": {"rpc": chain.rpc_url, "pid": chain.pid, "chainId": chain.chain_id} if chain else None,
        "nodes": [
            {"name": node.name, "pid": node.pid, "address": node.address, "dataDir": node.data_dir}
            for node in alive
        ],
    }

    def people() -> None:
        say(f"chain  {chain.rpc_url} (pid {chain.pid})" if chain else "chain  not running")
        table(("node", "pid", "address"), [(n.name, n.pid, n.address) for n in alive])
        if alive:
            say("now:   golem-p2p run PROGRAM.wasm --tasks 4 -- ARGS   (golem-p2p run --help)")
            say("stop:  golem-p2p devnet down")

    emit(document, as_json, people)
