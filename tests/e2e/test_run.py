"""`golem-p2p run` with programs of all kinds: files in and out, and each way to fail says what happened."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import BIN, Node, with_commands
from tests.exeunit.runtimes.wasm.guests import COPY, EXIT_42, HOG, LOOP, made_file, until_refused

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def run(node: Node, program: bytes, tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    wasm = tmp_path / "program.wasm"
    wasm.write_bytes(program)
    done = subprocess.run(
        [BIN / "golem-p2p", "run", wasm, "--data-dir", node.config.data_dir, "--json", *arguments],
        env=with_commands(),
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert done.stdout, done.stderr.decode()[-2000:]
    return done.returncode, json.loads(done.stdout)


def test_files_go_in_and_out_and_every_failure_says_why(requestor: Node, tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"in-{index}").write_bytes(b"%d" % index * 100_000)
    code, outcome = run(
        requestor, COPY, tmp_path, "--tasks", "3",
        "--input", f"{tmp_path}/in-{{i}}:/work/in", "--output", f"/work/out:{tmp_path}/out-{{i}}",
    )  # fmt: skip
    assert (code, outcome["phase"], outcome["done"]) == (0, "done", 3)
    for index in range(3):
        assert (tmp_path / f"out-{index}").read_bytes() == b"%d" % index * 100_000

    for program, arguments, words in (
        (EXIT_42, (), "42"),
        (LOOP, ("--timeout", "2"), "time"),
        (HOG, (), "memory"),
        (
            until_refused("(call $write (local.get $fd) (i32.const 65536))", made_file()),
            (),
            "51",
        ),
        (b"\0asm but no module", (), "module"),
        (COPY, (), "44"),  # /work/in is not there: WASI's errno for "no such file"
    ):
        code, outcome = run(requestor, program, tmp_path, "--providers", "1", *arguments)
        assert (code, outcome["phase"]) == (1, "failed"), words
        assert words in outcome["error"].lower(), outcome["error"]

    copying = ("--input", f"{tmp_path}/in-0:/work/in")
    code, outcome = run(requestor, COPY, tmp_path, *copying, "--providers", "1", "--budget", "0.00000000001")
    assert (code, outcome["phase"], outcome["done"]) == (1, "failed", 1), "the work is done, but not paid"
    assert "is not paid: " in outcome["error"]

    code, outcome = run(requestor, COPY, tmp_path, *copying)
    assert (code, outcome["phase"]) == (0, "done"), "the network goes on"


def test_without_a_market_it_says_how_to_start_one(tmp_path: Path) -> None:
    wasm = tmp_path / "program.wasm"
    wasm.write_bytes(COPY)
    done = subprocess.run(
        [BIN / "golem-p2p", "run", wasm, "--data-dir", tmp_path / "node"],
        env=with_commands(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert b"golem-p2p devnet up" in done.stderr
