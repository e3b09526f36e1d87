"""The runtime's command line, in the form that exe-unit supervisors call.

    --workdir W --task-package IMG [--mem-gib F] [--storage-gib F] [--cpu-cores N] [--time-limit S] [--cache-dir D]
        deploy --
        start -- ARGS
        run --entrypoint EP [--env K=V]... -- ARGS
        offer-template
        test

`deploy` compiles every module and makes the volumes; `run` is one process per command. Before foreign bytes are
touched, the process confines itself (`exeunit.sandbox`). One line on stderr says what went wrong; exit codes are in
`errors`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import wasmtime

    from exeunit.runtimes.wasm.deployment import Command, Deployment
    from exeunit.runtimes.wasm.image import Mount
    from exeunit.runtimes.wasm.modules import ModuleCache

from exeunit.runtimes.wasm.errors import BadImage, Exit, Fault, NotDeployed
from exeunit.sandbox import confinement, process
from p2p.entropy import SystemEntropy

_GIB: Final = 1 << 30
_COMPILER_BYTES: Final = 3 << 30
"""Memory that compiling the longest module takes, with room; a bomb of a module ends there."""
_PROCESS_BYTES: Final = 512 << 20
"""Memory that Python and wasmtime take beside the guest's."""
_DESCRIPTORS: Final = 512
_DEPLOY_TIME_LIMIT_S: Final = 300.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="golem-p2p-wasm", description="Runs WebAssembly images (WASI preview 1)."
    )
    parser.add_argument("-w", "--workdir", help="directory of the activity")
    parser.add_argument("--task-package", metavar="IMG", help=".ywasi archive or .wasm module")
    parser.add_argument(
        "--cpu-cores", type=int, default=1, help="taken for compatibility: a guest has one thread"
    )
    parser.add_argument("--mem-gib", type=float, help="most memory of a guest")
    parser.add_argument("--storage-gib", type=float, help="most that all volumes hold together")
    parser.add_argument(
        "--time-limit", type=float, metavar="S", help="seconds after which the command is ended"
    )
    parser.add_argument("--cache-dir", help="where compiled modules are kept; default: in the work directory")
    parser.add_argument("--volume-override", metavar="JSON", help="extra volumes, {path: {'host': {}}}")
    parser.add_argument("--hostname", help="taken for compatibility: WASI has no host name")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("deploy", help="check and compile an image, make its volumes")
    commands.add_parser("start", help="check that the deployment can run")
    run = commands.add_parser("run", help="run one command")
    run.add_argument("-e", "--entrypoint", required=True)
    run.add_argument("--env", action="append", default=[], metavar="K=V")
    commands.add_parser("offer-template", help="print what the offer should say")
    commands.add_parser("test", help="try the runtime and its confinement")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run one command of the command line and return its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Python would only note the signal, and never look while a guest runs.
        signal.signal(number, signal.SIG_DFL)
    own, guest_arguments = _split(argv)
    arguments = _parser().parse_args(own)
    try:
        match arguments.command:
            case "deploy":
                return _deploy(arguments)
            case "start":
                return _start(arguments)
            case "run":
                return _run(arguments, guest_arguments)
            case "offer-template":
                return _offer_template()
            case _:
                return _test()
    except Fault as fault:
        _say(str(fault))
        return fault.code
    except (OSError, MemoryError) as error:
        _say(f"the runtime failed: {error}")
        return Exit.INTERNAL


def _say(text: str) -> None:
    line = " ".join(text.split())
    os.write(2, f"golem-p2p-wasm: {line}\n".encode("utf-8", "replace"))


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the runtime's own arguments from the guest's, which follow the first `--`."""
    arguments = list(argv)
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _required(arguments: argparse.Namespace, name: str) -> str:
    value: str | None = getattr(arguments, name.replace("-", "_"))
    if not value:
        raise NotDeployed(f"--{name} is missing")
    return os.path.abspath(value)


def _cache_directory(arguments: argparse.Namespace) -> str:
    directory = arguments.cache_dir or os.path.join(_required(arguments, "workdir"), "compiled")
    return os.path.join(os.path.abspath(directory), "wasm")


def _confine(readable: Sequence[str], writable: Sequence[str], data_bytes: int) -> None:
    process.no_core_dump()
    process.limit(resource.RLIMIT_NOFILE, _DESCRIPTORS)
    process.limit(resource.RLIMIT_DATA, data_bytes)
    confinement.confine((*confinement.python_paths(), *readable), writable)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * _GIB)


def _deploy(arguments: argparse.Namespace) -> int:
    from exeunit.runtimes.wasm import deployment, gate, guest, image, modules

    workdir, package = _required(arguments, "workdir"), _required(arguments, "task-package")
    cache_directory = _cache_directory(arguments)
    os.makedirs(cache_directory, mode=0o700, exist_ok=True)
    guest.end_after(arguments.time_limit or _DEPLOY_TIME_LIMIT_S)
    _confine([package], [workdir, cache_directory], _COMPILER_BYTES)
    contents = image.read_image(package)
    mounts = (*contents.mounts, *_extra_mounts(arguments.volume_override))
    cache = modules.ModuleCache(cache_directory, modules.new_engine())
    commands = tuple(
        deployment.Command(entry_point, cache.add(image.read_module(package, contents, entry_point)))
        for entry_point in contents.entry_points
    )
    gate.compile_gate(cache)
    with contextlib.suppress(NotDeployed):  # the usual case: this is the first deployment here
        deployment.remove_volumes(workdir, deployment.load(workdir).volumes)
    volumes = deployment.make_volumes(workdir, mounts, SystemEntropy())
    made = deployment.Deployment(contents, volumes, commands)
    deployment.save(workdir, made)
    sys.stdout.buffer.write(deployment.answer(made) + b"\n")
    sys.stdout.flush()
    return 0


def _extra_mounts(text: str | None) -> tuple[Mount, ...]:
    from exeunit.runtimes.wasm.image import MAX_MOUNTS, Mount, guest_path

    if not text:
        return ()
    try:
        override = msgspec.json.decode(text, type=list[str] | dict[str, dict[str, Any]])
    except msgspec.DecodeError as error:
        raise BadImage(f"--volume-override: {error}") from error
    if isinstance(override, dict):
        for path, kind in override.items():
            if set(kind) != {"host"}:
                raise BadImage(f"volume {path[:64]!r}: this runtime has only volumes of the kind 'host'")
    if len(override) > MAX_MOUNTS:
        raise BadImage(f"more than {MAX_MOUNTS} extra volumes")
    return tuple(Mount(guest_path(path), "rw") for path in override)


def _start(arguments: argparse.Namespace) -> int:
    from exeunit.runtimes.wasm import deployment

    deployment.load(_required(arguments, "workdir"))
    return 0


def _run(arguments: argparse.Namespace, guest_arguments: Sequence[str]) -> int:
    from exeunit.runtimes.wasm import deployment, gate, guest, modules

    workdir = _required(arguments, "workdir")
    deployed = deployment.load(workdir)
    command = deployed.command(arguments.entrypoint)
    if arguments.time_limit:
        guest.end_after(arguments.time_limit)
    volumes = [(os.path.join(workdir, volume.name), volume) for volume in deployed.volumes]
    directories = [directory for directory, _ in volumes]
    writable = [directory for directory, volume in volumes if volume.access != "ro"]
    readable = [directory for directory, volume in volumes if volume.access == "ro"]
    memory_bytes, storage_bytes = _bytes(arguments.mem_gib), _bytes(arguments.storage_gib)
    cache_directory = _cache_directory(arguments)
    readable += [cache_directory, *([arguments.task_package] if arguments.task_package else [])]
    _confine(readable, writable, _COMPILER_BYTES if memory_bytes is None else memory_bytes + _PROCESS_BYTES)
    if storage_bytes is not None:
        process.limit(resource.RLIMIT_FSIZE, storage_bytes + gate.SLACK_BYTES)
    cache = modules.ModuleCache(cache_directory, modules.new_engine())
    module = _module(cache, command, deployed, arguments.task_package)
    code = guest.run_guest(
        cache,
        module,
        argv=(command.entry_point.wasm_path, *guest_arguments),
        environment=_environment(arguments.env),
        volumes=volumes,
        memory_bytes=memory_bytes,
        quota=None if storage_bytes is None else gate.DiskQuota(storage_bytes, directories),
    )
    guest.flush_and_exit(code)


def _module(
    cache: ModuleCache, command: Command, deployed: Deployment, package: str | None
) -> wasmtime.Module:
    from exeunit.runtimes.wasm import image
    from exeunit.runtimes.wasm.modules import check_imports

    module = cache.load(command.module)
    if module is not None:
        return module
    # Evicted, or the node was updated: compile again what was deployed, and only that.
    if not package:
        raise NotDeployed("the compiled module is gone and there is no --task-package to compile it from")
    module = cache.load_or_compile(image.read_module(package, deployed.image, command.entry_point))
    check_imports(module)
    return module


def _environment(pairs: Sequence[str]) -> dict[str, str]:
    environment = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise NotDeployed(f"--env {pair[:64]!r} is not NAME=VALUE")
        environment[name] = value
    return environment


def _offer_template() -> int:
    from exeunit.runtimes.wasm.modules import WASI, engine_version

    with tempfile.TemporaryDirectory(prefix="golem-p2p-wasm-") as directory:
        holding = [verdict.measure for verdict in confinement.probe(directory) if verdict.holds]
    template = {
        "properties": {
            "golem.runtime.capabilities": [],
            "golem.runtime.wasm.engine": engine_version(),
            "golem.runtime.wasm.wasi": WASI,
            "golem.runtime.isolation": ["process", "wasm", *holding],
        },
        "constraints": "",
    }
    sys.stdout.buffer.write(msgspec.json.encode(template) + b"\n")
    sys.stdout.flush()
    return 0


def _test() -> int:
    from exeunit.runtimes.wasm import selftest

    return selftest.run()
