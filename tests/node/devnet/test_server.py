"""The chain's process as its users meet it: one line, one file, HTTP, and a clean end."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import msgspec
import trio

from node.devnet import server
from node.devnet.addresses import CHAIN_ID, TOKEN
from node.devnet.control import ChainInfo
from node.devnet.http import Request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from tests.node.devnet.world import World

ADDRESS = "0x" + "11" * 20


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], ChainInfo, str]]:
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "node.devnet.server",
        "--data",
        str(folder),
        "--port",
        "0",
    ]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield process, msgspec.json.decode((folder / "rpc.json").read_bytes(), type=ChainInfo), line
        finally:
            process.kill()


def test_one_line_one_file_and_a_clean_end(tmp_path: Path) -> None:
    with running(tmp_path) as (process, info, line):
        assert line == f"devnet chain {CHAIN_ID} at {info.rpc_url}, block 1\n"
        assert (info.pid, info.chain_id) == (process.pid, CHAIN_ID)
        known = httpx.get(info.rpc_url).json()
        assert (known["chainId"], known["contracts"]["token"]) == (CHAIN_ID, TOKEN)
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=10)
        assert (process.returncode, rest, errors) == (0, "", "")


def test_blocks_at_an_interval(tmp_path: Path) -> None:
    with running(tmp_path, "--block-time", "0.05") as (_, info, _):
        seen = {httpx.get(info.rpc_url).json()["block"]}
        while len(seen) < 3:
            seen.add(httpx.get(info.rpc_url).json()["block"])
        granted = httpx.get(f"{info.rpc_url}/donate/{ADDRESS}").json()
        body = {"id": 1, "method": "eth_getTransactionReceipt", "params": [granted["coinTx"]]}
        while httpx.post(info.rpc_url, json=body).json()["result"] is None:
            pass


def call(world: World, method: str, target: str, body: bytes = b"") -> tuple[int, dict[str, object]]:
    from node.devnet.faucet import Faucet

    response = server._guarded(world.chain, Faucet(world.chain), Request(method, target, body))
    return response.status, msgspec.json.decode(response.body)


def test_routes(world: World) -> None:
    assert call(world, "POST", "/", b'{"id":1,"method":"eth_chainId"}')[1]["result"] == hex(CHAIN_ID)
    for method in ("GET", "POST"):
        status, grant = call(world, method, f"/donate/{ADDRESS}?token=1")
        assert (status, grant["address"]) == (200, ADDRESS)
    assert world.tokens(ADDRESS) == 1000 * 10**18
    assert call(world, "GET", "/donate/0x12")[0] == 400
    for target in ("/nothing", "/donate", "//", "/?x"):
        assert call(world, "PUT", target)[0] == 404


def test_faucet_refusals_have_their_status(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from node.devnet import faucet, pool

    monkeypatch.setattr(faucet, "GRANTS", 0)
    assert call(world, "GET", f"/donate/{ADDRESS}")[0] == 429
    monkeypatch.setattr(faucet, "GRANTS", 5)
    world.chain.automine = False
    monkeypatch.setattr(pool, "PER_SENDER", 0)
    status, answer = call(world, "GET", f"/donate/{ADDRESS}")
    assert (status, answer) == (503, {"message": "txpool is full"})


def test_own_failure_is_answered_and_logged(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(hash_: bytes) -> None:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(world.storage, "transaction", fail)
    body = b'{"id":1,"method":"eth_getTransactionReceipt","params":["0x' + b"00" * 32 + b'"]}'
    status, _ = call(world, "POST", "/", body)
    assert status == 500
    assert "disk on fire" in capsys.readouterr().err
    assert call(world, "GET", "/")[0] == 200


def test_missing_extra_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*args: object) -> None:
        raise ModuleNotFoundError("No module named 'eth'")

    monkeypatch.setattr(trio, "run", missing)
    assert server.main(["--data", str(tmp_path)]) == 1
    assert "golem-p2p[devnet]" in capsys.readouterr().err
