"""The runtime through its command line, with real guests: what they may do, and what ends them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from exeunit.runtimes.wasm.errors import Exit
from tests.exeunit.runtimes.wasm import guests

if TYPE_CHECKING:
    from pathlib import Path


class Runtime:
    """Calls the runtime on one work directory."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.workdir = directory / "work"
        self.workdir.mkdir()
        self.package = directory / "package"
        self.options = options

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "exeunit.runtimes.wasm", "--workdir", str(self.workdir)]
        command += ["--task-package", str(self.package), *self.options, *arguments]
        return subprocess.run(
            command, capture_output=True, timeout=60, check=False, env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def deploy(self, module: bytes, *mounts: dict[str, str]) -> list[Path]:
        """Deploy a module (with mounts: as an archive) and return the volumes' directories."""
        if mounts:
            manifest = {"id": "t", "name": "t", "entry-points": [{"id": "main", "wasm-path": "main.wasm"}]}
            with zipfile.ZipFile(self.package, "w") as archive:
                archive.writestr("manifest.json", json.dumps({**manifest, "mount-points": mounts}))
                archive.writestr("main.wasm", module)
        else:
            self.package.write_bytes(module)
        done = self("deploy", "--")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["valid"] == {"Ok": ""}
        assert answer["startMode"] == "empty"
        return [self.workdir / volume["name"] for volume in answer["vols"]]

    def run(self, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[bytes]:
        return self("run", "--entrypoint", "main", *options, "--", *arguments)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path, "--mem-gib", "0.03125", "--storage-gib", "0.001953125", "--time-limit", "30")


def test_arguments_reach_the_guest(runtime: Runtime) -> None:
    runtime.deploy(guests.ECHO)
    assert runtime("start", "--", "x").returncode == 0
    done = runtime.run("one", "--entrypoint", "--", "")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.split(b"\0") == [b"main.wasm", b"one", b"--entrypoint", b"--", b"", b""]


def test_the_guest_sees_its_own_environment_only(runtime: Runtime) -> None:
    runtime.deploy(guests.ENVIRONMENT)
    done = runtime("run", "-e", "main", "--env", "A=1", "--env", "B=x=y", "--", SECRET="no")
    assert done.stdout.split(b"\0")[:-1] == [b"A=1", b"B=x=y"]
    assert runtime("run", "-e", "main", "--env", "A", "--").returncode == Exit.NOT_DEPLOYED


def test_files_are_read_and_written_in_the_volume(runtime: Runtime) -> None:
    (volume,) = runtime.deploy(guests.COPY)
    (volume / "in").write_bytes(bytes(range(256)) * 1000)
    assert runtime.run().returncode == 0
    assert (volume / "out").read_bytes() == bytes(range(256)) * 1000


@pytest.mark.parametrize(("module", "code"), [(guests.EXIT_42, 42), (guests.EXIT_300, 255)])
def test_the_exit_code_is_the_guests_own(runtime: Runtime, module: bytes, code: int) -> None:
    runtime.deploy(module)
    done = runtime.run()
    assert (done.returncode, done.stderr) == (code, b"")


def test_modules_are_compiled_once(runtime: Runtime) -> None:
    runtime.deploy(guests.ECHO)
    compiled = {path: path.stat().st_ino for path in (runtime.workdir / "compiled" / "wasm").iterdir()}
    assert len(compiled) == 4  # the guest's, and the gate's three
    runtime.deploy(guests.ECHO)
    assert runtime.run().returncode == 0
    assert {path: path.stat().st_ino for path in compiled} == compiled


def test_a_lost_or_foreign_artifact_is_compiled_again(runtime: Runtime) -> None:
    runtime.deploy(guests.EXIT_42)
    artifacts = list((runtime.workdir / "compiled" / "wasm").iterdir())
    for artifact in artifacts:
        artifact.write_bytes(b"\x7fELF" + bytes(1000))
    assert runtime.run().returncode == 42
    for artifact in artifacts:
        artifact.unlink()
        artifact.symlink_to("/etc/passwd")
    assert runtime.run().returncode == 42


def test_a_second_deploy_starts_with_empty_volumes(runtime: Runtime) -> None:
    (first,) = runtime.deploy(guests.ECHO)
    (first / "x").write_bytes(b"x")
    (second,) = runtime.deploy(guests.ECHO)
    assert not first.exists()
    assert list(second.iterdir()) == []


@pytest.mark.parametrize("module", [guests.LOOP, guests.SLEEP], ids=["loop", "sleep"])
def test_the_time_limit_ends_a_guest(tmp_path: Path, module: bytes) -> None:
    runtime = Runtime(tmp_path, "--time-limit", "0.4")
    runtime.deploy(module)
    done = runtime.run()
    assert done.returncode == Exit.TIME_LIMIT
    assert done.stderr == b"golem-p2p-wasm: the time limit of 0.4 s is over\n"


def test_memory_beyond_the_limit_is_refused(runtime: Runtime) -> None:
    runtime.deploy(guests.HOG)
    done = runtime.run()
    assert done.returncode == Exit.MEMORY_LIMIT
    assert b"of its 32.0 MiB of memory in use: most likely it ran out of memory" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_module_that_starts_too_large_is_refused(runtime: Runtime) -> None:
    runtime.deploy(guests.BIG_AT_START)
    done = runtime.run()
    assert done.returncode == Exit.MEMORY_LIMIT
    assert b"more memory at its start than its limit" in done.stderr


def test_a_trap_is_named(runtime: Runtime) -> None:
    runtime.deploy(guests.OVERFLOW)
    done = runtime.run()
    assert done.returncode == Exit.TRAP
    assert done.stderr == b"golem-p2p-wasm: the guest trapped: call stack exhausted\n"


def test_read_only_mounts_are_read_only(runtime: Runtime) -> None:
    (volume,) = runtime.deploy(guests.WRITE_ERROR, {"ro": "data"})
    # EPERM from WASI itself; if it came to the kernel's confinement, that would say EACCES (2).
    assert runtime.run().returncode == 63
    assert list(volume.iterdir()) == []
    (volume,) = runtime.deploy(guests.WRITE_ERROR, {"rw": "data"})
    assert runtime.run().returncode == 0
    assert len(list(volume.iterdir())) == 1


def test_private_volumes_are_mounted_but_not_for_transfers(runtime: Runtime) -> None:
    assert runtime.deploy(guests.WRITE_ERROR, {"private": "scratch"}) == []
    assert runtime.run().returncode == 0


def test_a_symlink_out_of_the_volume_leads_nowhere(runtime: Runtime, tmp_path: Path) -> None:
    (volume,) = runtime.deploy(guests.COPY)
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (volume / "in").symlink_to(secret)
    assert runtime.run().returncode != 0
    assert not (volume / "out").exists()


def test_wrong_calls_are_refused_in_one_line(runtime: Runtime) -> None:
    assert runtime.run().stderr == (
        b"golem-p2p-wasm: nothing is deployed in this work directory: run `deploy` first\n"
    )
    runtime.deploy(guests.ECHO)
    done = runtime("run", "--entrypoint", "other", "--")
    assert done.returncode == Exit.NOT_DEPLOYED
    assert done.stderr == b"golem-p2p-wasm: the image has no entry point 'other'; it has: main\n"


@pytest.mark.parametrize(
    ("package", "says"),
    [
        (b"", b"neither a .wasm module nor a .ywasi archive"),
        (b"\0asm\1\0\0\0garbage", b"does not compile"),
        (b"PK\3\4" + bytes(100), b"damaged archive"),
    ],
)
def test_a_bad_package_is_refused_at_deploy(runtime: Runtime, package: bytes, says: bytes) -> None:
    runtime.package.write_bytes(package)
    done = runtime("deploy", "--")
    assert done.returncode == Exit.BAD_IMAGE
    assert says in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b""


def test_extra_volumes(runtime: Runtime) -> None:
    runtime.package.write_bytes(guests.ECHO)
    runtime.options = (*runtime.options, "--volume-override", '{"/in": {"host": {}}}')
    done = runtime("deploy", "--")
    assert [volume["path"] for volume in json.loads(done.stdout)["vols"]] == ["/work", "/in"]
    runtime.options = (*runtime.options, "--volume-override", '{"/": {"ram": {"size": "1g"}}}')
    assert runtime("deploy", "--").returncode == Exit.BAD_IMAGE


def test_the_self_test_passes(tmp_path: Path) -> None:
    done = Runtime(tmp_path)("test")
    assert done.returncode == 0
    assert done.stdout.startswith(b"ok   guest: wasmtime ")


def test_the_offer_template_is_json(tmp_path: Path) -> None:
    template = json.loads(Runtime(tmp_path)("offer-template").stdout)
    assert template["properties"]["golem.runtime.wasm.wasi"] == guests.WASI
    assert "process" in template["properties"]["golem.runtime.isolation"]
