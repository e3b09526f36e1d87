"""`golem-p2p node` and `yagna service run`: whole processes that start, refuse to, and stop."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from node.cli.common import LOCK_FILE, NodeClient, NotRunning, is_running
from node.config import load
from tests.node.cli.conftest import House, Ran, start, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Run = Callable[..., Ran]

FREE = ("--set", "api.url=http://127.0.0.1:0")


@contextlib.contextmanager
def node(*argv: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = start(*argv, **more)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


def answering(folder: Path) -> NodeClient:
    """Return a client of the node on a folder, once it answers."""

    def ask() -> NodeClient | None:
        with contextlib.suppress(NotRunning):
            client = NodeClient(load(folder, environ={}))
            client.get("/golem-p2p/v1/id")
            return client
        return None

    client: NodeClient = until(ask, f"a node answers on {folder}")
    return client


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out.decode(), err.decode()


def test_a_second_node_on_one_folder(house: House) -> None:
    with node("node.cli.main", "node", "run", "--data-dir", str(house.folder), *FREE) as second:
        code, out, err = ended(second)
    assert (code, out) == (1, "")
    line = err.strip().splitlines()[-1]
    assert "a node runs on" in line
    assert str(house.folder) in line
    assert "node stop" in line
    assert "Traceback" not in err
    assert house.client.get("/golem-p2p/v1/id")["nodeId"] == house.node_id


def test_a_taken_port(house: House, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        with node("node.cli.main", "node", "run", "--data-dir", str(tmp_path), "--api-url", url) as second:
            code, _, err = ended(second)
    assert code == 1
    assert url.removeprefix("http://") in err
    assert "in use" in err
    assert "Traceback" not in err
    assert not (tmp_path / "rest.json").exists()
    assert not (tmp_path / "bus.sock").exists()


def test_a_socket_path_that_is_too_long(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with node("node.cli.main", "node", "run", "--data-dir", str(deep), *FREE) as process:
        code, _, err = ended(process)
    assert code == 1
    assert "shorter" in err
    assert "Traceback" not in err


def test_a_data_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with node("node.cli.main", "node", "run", "--data-dir", str(tmp_path / "file"), *FREE) as process:
        code, _, err = ended(process)
    assert code == 2
    assert "Traceback" not in err


def test_yagna_service_run(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    configured = {
        "YAGNA_AUTOCONF_APPKEY": "the-key",
        "YAGNA_AUTOCONF_ID_SECRET": "11" * 32,
        "YAGNA_API_URL": "http://127.0.0.1:0",
        "GSB_URL": f"unix:{tmp_path}/gsb.sock",
        "YAGNA_DATADIR": str(folder),
    }
    with node("node.cli.yagna", "service", "run", "--disable-metrics-push", env=configured) as process:
        client = answering(folder)
        address = client.url.removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/me", headers={"Authorization": "Bearer the-key"})
        me = json.loads(connection.getresponse().read())
        assert me == {
            "identity": "0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a",
            "name": "autoconfigured",
            "role": "manager",
        }
        connection.request("GET", "/golem-p2p/v1/peers", headers={"Authorization": "Bearer the-key"})
        response = connection.getresponse()
        assert (response.status, "owner" in response.read().decode()) == (403, True)
        connection.close()
        assert (tmp_path / "gsb.sock").is_socket()
        assert (folder / "rest.json").stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700
        process.send_signal(signal.SIGTERM)
        code, out, _ = ended(process)
        assert (code, out) == (0, "")
        for path in (folder / "rest.json", tmp_path / "gsb.sock", tmp_path / "bulk.sock"):
            assert not path.exists(), path


def test_stop_waits_for_the_end(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    with node("node.cli.main", "node", "run", "--data-dir", str(folder), *FREE) as process:
        answering(folder)
        assert is_running(load(folder, environ={}))
        ran = run("node", "stop", "--json", "--data-dir", folder)
        assert json.loads(ran.out) == {"schema": "golem-p2p/node-stop/1", "pid": process.pid}
        with node("node.cli.main", "node", "run", "--data-dir", str(folder), *FREE):
            answering(folder)  # at once
        assert ended(process)[0] == 0
    assert not is_running(load(folder, environ={}))


def test_what_a_killed_node_leaves_is_no_node(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    with node("node.cli.main", "node", "run", "--data-dir", str(folder), *FREE) as process:
        answering(folder)
        process.kill()
        process.communicate()
        assert (folder / "rest.json").exists()
        assert not is_running(load(folder, environ={}))
        assert run("status", "--data-dir", folder).code == 3
        program = tmp_path / "x.wasm"
        program.write_bytes(b"\0asm\1\0\0\0")
        ran = run("run", program, "--data-dir", folder)
        assert ran.code == 1
        assert "there is no provider" in ran.err, "it would run a node of its own"
    with node("node.cli.main", "node", "run", "--data-dir", str(folder), *FREE):
        answering(folder)


def test_a_node_that_is_being_started_counts(tmp_path: Path) -> None:
    config = load(tmp_path, environ={})
    assert not is_running(config)
    with (tmp_path / LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_running(config)
    assert not is_running(config)
    assert os.listdir(tmp_path) == [LOCK_FILE]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts(tmp_path: Path, how: signal.Signals) -> None:
    with node("node.cli.main", "node", "run", "--data-dir", str(tmp_path / "d"), *FREE) as process:
        until((tmp_path / "d" / LOCK_FILE).exists, "it has begun")
        process.send_signal(how)
        code, out, err = ended(process)
    assert (code, out) == (0, ""), err
    assert "Traceback" not in err
