"""Starting, finding and stopping the chain's process. Real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest

from node.devnet import control
from node.devnet.addresses import CHAIN_ID
from node.devnet.control import ChainInfo, DevnetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "devnet"
    control.down(tmp_path / "devnet")


def block_number(info: ChainInfo) -> int:
    return int(httpx.get(info.rpc_url).json()["block"])


def gone(pid: int) -> bool:
    """Wait until a process has ended."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if control.start_time(pid) is None:
            return True
        time.sleep(0.01)
    return False


def test_whole_life(folder: Path) -> None:
    assert control.status(folder) is None
    assert control.down(folder) is False
    info = control.up(folder, 0)
    assert info.chain_id == CHAIN_ID
    assert control.status(folder) == info
    assert control.up(folder, 0) == info
    assert block_number(info) == 1
    httpx.get(f"{info.faucet_url}/0x{'11' * 20}").raise_for_status()
    assert control.down(folder) is True
    assert control.status(folder) is None
    assert control.start_time(info.pid) is None
    again = control.up(folder)
    assert again.rpc_url == info.rpc_url  # nodes that were told the URL still find it
    assert block_number(again) == 2
    control.reset(folder)
    assert control.status(folder) is None
    fresh = control.up(folder)
    assert block_number(fresh) == 1


def test_chain_outlives_its_starter_and_has_its_own_session(folder: Path) -> None:
    code = "import sys; from pathlib import Path; from node.devnet import control; control.up(Path(sys.argv[1]), 0)"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    info = control.status(folder)
    assert info is not None
    assert os.getsid(info.pid) == info.pid
    assert block_number(info) == 1


def test_killed_chain_is_noticed_and_started_anew(folder: Path) -> None:
    info = control.up(folder, 0)
    os.kill(info.pid, signal.SIGKILL)
    assert gone(info.pid)
    assert control.status(folder) is None
    again = control.up(folder, 0)
    assert again.pid != info.pid
    assert block_number(again) == 1


def test_foreign_process_with_the_same_pid_is_not_taken_for_it(folder: Path) -> None:
    info = control.up(folder, 0)
    control.down(folder)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        record = folder / "process.json"
        saved = msgspec.json.decode(record.read_bytes())
        saved["info"]["pid"] = stranger.pid
        record.write_bytes(msgspec.json.encode(saved))
        assert control.status(folder) is None
        assert control.down(folder) is False
        control.reset(folder)
        assert stranger.poll() is None
        assert stranger.stdin is not None
        stranger.stdin.write(b"\n")
    assert info.pid != stranger.pid


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"info":{"rpc_url":5}}'])
def test_broken_record_means_that_nothing_runs(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "process.json").write_bytes(content)
    assert control.status(folder) is None
    assert control.down(folder) is False


def test_port_in_use_is_an_error_that_says_so(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(DevnetError, match="cannot serve on"):
            control.up(folder, taken.getsockname()[1])
    assert control.status(folder) is None


def test_file_of_something_else_is_an_error_that_says_so(folder: Path) -> None:
    folder.mkdir()
    (folder / "chain.sqlite3").write_bytes(b"no database " * 1000)
    with pytest.raises(DevnetError, match="no chain of ours"):
        control.up(folder, 0)
    control.reset(folder)
    assert control.up(folder, 0)


def test_two_starters_get_one_chain(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from node.devnet import control;"
        "print(control.up(Path(sys.argv[1]), 0).pid)"
    )
    starters = [
        subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE) for _ in range(3)
    ]
    pids = {starter.communicate()[0] for starter in starters}
    assert len(pids) == 1


def test_control_imports_neither_the_evm_nor_trio() -> None:
    code = (
        "import sys, node.devnet.control\n"
        "sys.exit(', '.join({'eth', 'trio', 'httpx', 'apsw'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
