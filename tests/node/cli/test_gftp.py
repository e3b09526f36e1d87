"""`gftp`: the dialogue as real clients had it with the original, and what it does with nonsense."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from node.cli.gftp import MAX_LINE_BYTES, Dialogue
from p2p import codec
from p2p.testing.determinism import threads_run_inline
from p2p.testing.nodes import memory_nodes
from protocols.files.handler import FilesProtocol
from protocols.files.messages import OpenSession, Session
from tests.node.cli.conftest import House, start

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Iterator

    from trio.testing import MockClock

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "data/rest/gftp-stdio.jsonl").read_text().splitlines()
]
URL = re.compile(r"gftp://0x[0-9a-f]{40}/[0-9A-Za-z]{60,65}\Z")
PARSE, BAD_REQUEST, FAILED = -32700, -32600, -32000


@contextlib.asynccontextmanager
async def dialogue() -> AsyncIterator[Dialogue]:
    async with memory_nodes(1, seed=8) as (ctx,):
        files = FilesProtocol()
        async with (
            files.running(ctx),
            ctx.bus.stream("/local/files/OpenSession", codec.encode(OpenSession())) as items,
        ):
            yield Dialogue(ctx.bus, codec.decode(await anext(items), Session).id)


@pytest.fixture
def inline_threads() -> Iterator[None]:
    with threads_run_inline():
        yield


async def say(there: Dialogue, message: Any) -> Any:
    return await there.answer(json.dumps(message).encode())


# --- what was recorded --------------------------------------------------------------------------------------


def spawns() -> list[list[dict[str, Any]]]:
    """Return the recorded conversations, one a process."""
    found: list[list[dict[str, Any]]] = []
    for record in RECORDED:
        if record["dir"] == "spawn":
            found.append([])
        else:
            found[-1].append(record)
    return [conversation for conversation in found if conversation]


@pytest.mark.parametrize("number", range(len(spawns())))
@pytest.mark.usefixtures("inline_threads")
async def test_the_recorded_dialogues(number: int, tmp_path: Path, autojump_clock: MockClock) -> None:
    urls: dict[str, str] = {}

    def ours(text: str) -> str:
        for recorded, own in urls.items():
            text = text.replace(recorded, own)
        return text.replace("/tmp/x/", f"{tmp_path}/")

    async with dialogue() as there:
        expected: list[dict[str, Any]] = []
        for record in spawns()[number]:
            message = json.loads(ours(json.dumps(record["message"])))
            if record["dir"] == "client->gftp":
                prepare(message["params"])
                expected.append(await say(there, message))
                continue
            got = expected.pop(0)
            assert got.keys() == message.keys()
            assert got["jsonrpc"] == "2.0"
            assert got["id"] == message["id"]
            assert type(got["id"]) is type(message["id"])
            compare(message["result"], got["result"], urls)
        assert not expected


def prepare(params: dict[str, Any]) -> None:
    for name in [*params.get("files", ()), *filter(None, [params.get("output_file")])]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
    for name in params.get("files", ()):
        Path(name).write_text(f"content of {name}")


def compare(recorded: Any, got: Any, urls: dict[str, str]) -> None:
    assert type(recorded) is type(got)
    if isinstance(recorded, list):
        assert len(recorded) == len(got)
        for one, other in zip(recorded, got, strict=True):
            compare(one, other, urls)
    elif isinstance(recorded, dict):
        assert list(recorded) == list(got)
        assert recorded["file"] == got["file"]
        assert URL.match(got["url"])
        urls[recorded["url"]] = got["url"]
    elif recorded.startswith("0."):
        assert got.split()[0] == recorded.split()[0]
    else:
        assert got == recorded


# --- what was not -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", [0, -1, 2**63 - 1, 2**64, 1.5, "", "a-b", None, [1], {"x": 1}])
async def test_ids_come_back_as_they_are(request_id: Any, autojump_clock: MockClock) -> None:
    async with dialogue() as there:
        for method, member in (("version", "result"), ("nonsense", "error")):
            answer = await say(there, {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {}})
            assert answer.keys() == {"jsonrpc", "id", member}
            assert answer["id"] == request_id
            assert type(answer["id"]) is type(request_id)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", PARSE),
        (b"hello", PARSE),
        (b'{"id": 1', PARSE),
        (b"\xff\xfe", PARSE),
        (b"[" * 100_000, PARSE),
        (b"[1]", BAD_REQUEST),
        (b"null", BAD_REQUEST),
        (b"{}", BAD_REQUEST),
        (b'{"method": "nonsense"}', BAD_REQUEST),
        (b'{"method": []}', BAD_REQUEST),
        (b'{"method": {}}', BAD_REQUEST),
        (b'{"method": null}', BAD_REQUEST),
        (b'{"method": "version", "params": []}', BAD_REQUEST),
        (b'{"method": "publish"}', BAD_REQUEST),
        (b'{"method": "publish", "params": {"files": []}}', BAD_REQUEST),
        (b'{"method": "publish", "params": {"files": "x"}}', BAD_REQUEST),
        (b'{"method": "publish", "params": {"files": [5]}}', BAD_REQUEST),
        (b'{"method": "publish", "params": {"files": ["/no/such/file"]}}', FAILED),
        (b'{"method": "publish", "params": {"files": ["/"]}}', FAILED),
        (b'{"method": "publish", "params": {"files": ["a\\u0000b"]}}', FAILED),
        (b'{"method": "publish", "params": {"files": ["\\ud800"]}}', FAILED),
        (b'{"method": "receive", "params": {}}', BAD_REQUEST),
        (b'{"method": "receive", "params": {"output_file": "/no/such/folder/file"}}', FAILED),
        (b'{"method": "receive", "params": {"output_file": "a\\u0000b"}}', FAILED),
        (b'{"method": "download", "params": {"url": "x"}}', BAD_REQUEST),
        (b'{"method": "download", "params": {"url": "x", "output_file": "/tmp/x"}}', FAILED),
        (b'{"method": "upload", "params": {"url": "gftp://x", "file": "/no/such"}}', FAILED),
        (b'{"method": "close", "params": {"urls": "x"}}', BAD_REQUEST),
    ],
)
@pytest.mark.usefixtures("inline_threads")
async def test_nonsense_is_an_error_with_its_code(line: bytes, code: int, autojump_clock: MockClock) -> None:
    async with dialogue() as there:
        answer = await there.answer(line)
        assert answer["error"]["code"] == code, answer
        assert answer["error"]["message"]
        assert len(json.dumps(answer)) < 2000
        assert "internal" not in answer["error"]["message"]
        assert "result" in await say(there, {"id": 1, "method": "version", "params": {}})


async def test_closing_what_is_not_open(autojump_clock: MockClock) -> None:
    async with dialogue() as there:
        urls = ["gftp://0x" + "0" * 40 + "/" + "a" * 64, "nonsense", 5, None]
        answer = await say(there, {"id": 1, "method": "close", "params": {"urls": urls}})
        assert answer["result"] == ["error"] * 4


# --- the process --------------------------------------------------------------------------------------------


def request(number: int, method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()


def gftp(house: House, *argv: str, **more: Any) -> subprocess.Popen[bytes]:
    bus = {"GSB_URL": f"unix:{house.folder}/bus.sock"}
    return start("node.cli.gftp", *argv, env=bus, **more)


def test_lines_and_the_end_of_them(house: House, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    process = gftp(house, "server", cwd=tmp_path)
    lines = [request(1, "version"), b"", b"nonsense", request(2, "publish", files=["in"])]
    out, err = process.communicate(b"\r\n".join(lines) + b"\n" + request(3, "version"), timeout=30)
    assert process.returncode == 0, err
    answers = out.split(b"\r\n")
    assert answers.pop() == b"", "each line ends with CR LF"
    parsed = [json.loads(line) for line in answers]
    assert [answer["id"] for answer in parsed] == [1, None, 2, 3], "the last line needs no end"
    assert parsed[1]["error"]["code"] == PARSE
    (published,) = parsed[2]["result"]
    assert published["file"] == "in"
    done = gftp(house, "download", published["url"], "copy", cwd=tmp_path)
    out, _ = done.communicate(timeout=30)
    assert done.returncode == 1, "what a process published is taken back at its end"
    assert json.loads(out)["code"] == FAILED
    assert not (tmp_path / "copy").exists()


def test_shutdown_and_what_was_open(house: House, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    process = gftp(house, "server")
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(line: bytes) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line + b"\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())["result"]

    (published,) = ask(request(1, "publish", files=[str(tmp_path / "in")]))
    slot = ask(request(2, "receive", output_file=str(tmp_path / "slot")))
    for argv, target, content in (
        (("download", published["url"], "copy"), "copy", "hello"),
        (("upload", "in", slot["url"]), "slot", "hello"),
    ):
        done = gftp(house, *argv, cwd=tmp_path)
        out, err = done.communicate(timeout=30)
        assert done.returncode == 0, err
        assert json.loads(out)["url"] == argv[1] if argv[0] == "download" else argv[2]
        assert (tmp_path / target).read_text() == content
    assert ask(request(3, "close", urls=[published["url"], slot["url"]])) == ["ok", "error"]
    assert ask(request(4, "shutdown")) == "ok"
    assert process.wait(timeout=30) == 0
    process.communicate()


def test_a_line_without_end(house: House) -> None:
    process = gftp(house, "server")
    out, _ = process.communicate(b"x" * (MAX_LINE_BYTES + 1), timeout=30)
    assert json.loads(out)["error"]["code"] == PARSE
    assert process.returncode == 0


def test_without_a_node(tmp_path: Path) -> None:
    for url in (f"unix:{tmp_path}/none.sock", "tcp://127.0.0.1:1", "nonsense"):
        process = start("node.cli.gftp", "server", env={"GSB_URL": url})
        out, err = process.communicate(request(1, "version") + b"\n", timeout=30)
        assert (process.returncode, out) == (1, b"")
        assert err.startswith(b"gftp: ")
        assert b"Traceback" not in err
