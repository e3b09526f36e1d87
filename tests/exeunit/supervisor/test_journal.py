"""The journal, and what is swept when a supervisor was killed (process tests)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from exeunit.supervisor import journal as journal_module
from exeunit.supervisor.journal import FILE_NAME, TOKEN_VARIABLE, Journal, sweep
from exeunit.supervisor.usage import start_time

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SLEEP = [sys.executable, "-c", "import time; print('on', flush=True); time.sleep(600)"]


def sleeper(token: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        SLEEP, stdout=subprocess.PIPE, env={**os.environ, TOKEN_VARIABLE: token}, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.read(3)
    return process


def bury(workdir: Path) -> None:
    """Make the journal look as if its supervisor were dead: another start time."""
    path = workdir / FILE_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    assert b'"type":"supervisor"' in lines[0]
    start = start_time(os.getpid())
    path.write_bytes(b"".join([lines[0].replace(f'"start":{start}'.encode(), b'"start":1'), *lines[1:]]))


def killed(process: subprocess.Popen[bytes]) -> bool:
    return process.wait(10) == -signal.SIGKILL


def end(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_good_end_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "token")
    assert (tmp_path / FILE_NAME).exists()
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_living_supervisor_is_left_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "living")
    process = sleeper("living")
    journal.started(process.pid)
    assert sweep(tmp_path) == []
    assert process.poll() is None
    journal.close()
    end(process)


def test_what_a_dead_supervisor_left_is_ended_and_removed(tmp_path: Path) -> None:
    work = tmp_path / "agreement" / "activity"
    work.mkdir(parents=True)
    volume, image = work / "vol-1", work / "package"
    volume.mkdir()
    (volume / "file").write_bytes(b"x")
    image.write_bytes(b"x")
    journal = Journal(work, "dead")
    journal.owns(volume)
    journal.owns(image)
    journal.owns(work / "never made")
    noted, unnoted, foreign, ended = sleeper("dead"), sleeper("dead"), sleeper("other"), sleeper("other")
    journal.started(noted.pid)
    journal.started(ended.pid)
    journal.ended(ended.pid)
    bury(work)
    with (work / FILE_NAME).open("ab") as file:
        file.write(b'{"type":"process","pid":')  # the supervisor died while it wrote
    swept = sweep(tmp_path)
    assert killed(noted)
    assert killed(unnoted)
    assert foreign.poll() is None
    assert ended.poll() is None
    assert not volume.exists()
    assert not image.exists()
    assert list(work.iterdir()) == []
    assert len(swept) == 4
    assert sweep(tmp_path) == []
    end(noted, unnoted, foreign, ended)
    journal._file.close()


def test_a_number_that_belongs_to_another_process_now_is_left_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "reused")
    process = sleeper("somebody else")
    journal.started(process.pid)
    path = tmp_path / FILE_NAME
    start = start_time(process.pid)
    path.write_bytes(
        path.read_bytes().replace(
            f'"pid":{process.pid},"start":{start}'.encode(), f'"pid":{process.pid},"start":5'.encode()
        )
    )
    bury(tmp_path)
    assert sweep(tmp_path) == []
    assert process.poll() is None
    end(process)
    journal._file.close()


def test_after_a_reboot_only_paths_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, "boot")
    journal.owns(tmp_path / "left")
    (tmp_path / "left").touch()
    process = sleeper("boot")
    journal.started(process.pid)
    monkeypatch.setattr(journal_module, "boot_id", lambda: "another boot")
    assert sweep(tmp_path) == [f"removed {tmp_path}/left"]
    assert process.poll() is None
    end(process)
    journal._file.close()


def test_a_long_life_does_not_make_a_long_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_COMPACT_BYTES", 2000)
    journal = Journal(tmp_path, "long")
    journal.owns(tmp_path / "kept")
    (tmp_path / "kept").touch()
    process = sleeper("x")
    journal.started(process.pid)
    for _ in range(200):
        journal.started(os.getpid())
        journal.ended(os.getpid())
    assert (tmp_path / FILE_NAME).stat().st_size < 3000
    bury(tmp_path)
    assert sweep(tmp_path) == [f"killed process {process.pid} of {tmp_path.name}", f"removed {tmp_path}/kept"]
    assert killed(process)
    end(process)
    journal._file.close()
