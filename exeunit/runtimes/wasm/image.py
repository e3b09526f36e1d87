"""Read a task package: a `.ywasi` archive, or a plain `.wasm` module.

A `.ywasi` file is a zip archive with a `manifest.json` that names its modules (entry points) and the directories that
it wants mounted. A plain module counts as an archive with the one entry point `main` and one read-write mount `/work`.
Which of the two a file is, its first bytes tell. The file comes from the requestor: every size in it is checked before
memory is spent on it. Called by `cli`; compiles nothing.

Errors: `BadImage`.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from typing import Final, Literal, get_args

import msgspec

from exeunit.runtimes.wasm.errors import BadImage

MAX_MODULE_BYTES: Final = 64 << 20
"""Longest module. Compiling costs about a second and 20 MB of memory for each megabyte."""
MAX_MODULES: Final = 16
MAX_MOUNTS: Final = 32
MAX_MANIFEST_BYTES: Final = 64 << 10
_MAX_DIRECTORY_BYTES: Final = 256 << 10
"""Longest central directory: `zipfile` reads it whole into objects before one can look."""
_MAX_GUEST_PATH: Final = 255

MAIN: Final = "main"
"""Entry point of a plain module."""
WORK: Final = "/work"
"""Where a plain module finds its directory."""

_WASM_MAGIC: Final = b"\0asm"
_ZIP_MAGIC: Final = b"PK\x03\x04"
_END_RECORD: Final = struct.Struct("<4s4H2LH")
_END_MAGIC: Final = b"PK\x05\x06"

Access = Literal["ro", "rw", "wo", "private"]
"""Read only; read and write; write only (WASI cannot express it: treated as rw); rw and not for transfers."""


class EntryPoint(msgspec.Struct, frozen=True, rename="kebab"):
    """A module that `run` can name."""

    id: str
    wasm_path: str
    """Name of the module's file in the archive; also the guest's argv[0]."""


class Mount(msgspec.Struct, frozen=True):
    """A directory that the guest sees."""

    path: str
    """Absolute path in the guest."""
    access: Access


class Image(msgspec.Struct, frozen=True):
    """What a task package offers."""

    id: str
    name: str
    entry_points: tuple[EntryPoint, ...]
    mounts: tuple[Mount, ...]
    packed: bool
    """Whether the file is an archive; otherwise it is the module itself."""


class _Manifest(msgspec.Struct, frozen=True, rename="kebab"):
    id: str
    name: str
    entry_points: tuple[EntryPoint, ...]
    mount_points: tuple[dict[str, str], ...] = ()
    runtime: str = "wasi"


def read_image(path: str) -> Image:
    """Read and check what the task package at `path` offers, without its modules."""
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise BadImage(f"cannot read the task package: {error.strerror}") from error
    if magic == _WASM_MAGIC:
        entry_points = (EntryPoint(MAIN, f"{MAIN}.wasm"),)
        return Image(MAIN, MAIN, entry_points, (Mount(WORK, "rw"),), packed=False)
    if magic == _ZIP_MAGIC:
        return _from_manifest(_read_member(path, "manifest.json", MAX_MANIFEST_BYTES))
    raise BadImage("the task package is neither a .wasm module nor a .ywasi archive (wrong first bytes)")


def read_module(path: str, image: Image, entry_point: EntryPoint) -> bytes:
    """Return the bytes of one of the image's modules, at most `MAX_MODULE_BYTES` of them."""
    if image.packed:
        module = _read_member(path, entry_point.wasm_path, MAX_MODULE_BYTES)
    else:
        try:
            with open(path, "rb") as file:
                module = file.read(MAX_MODULE_BYTES + 1)
        except OSError as error:
            raise BadImage(f"cannot read the task package: {error.strerror}") from error
        if len(module) > MAX_MODULE_BYTES:
            raise BadImage(f"the module is longer than {MAX_MODULE_BYTES >> 20} MiB")
    if not module.startswith(_WASM_MAGIC):
        raise BadImage(f"{entry_point.wasm_path} is not a WebAssembly module (wrong first bytes)")
    return module


def _from_manifest(data: bytes) -> Image:
    try:
        manifest = msgspec.json.decode(data, type=_Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadImage(f"manifest.json: {error}") from error
    if manifest.runtime != "wasi":
        raise BadImage(
            f"manifest.json asks for the runtime {manifest.runtime[:32]!r}; only 'wasi' is offered"
        )
    if not 1 <= len(manifest.entry_points) <= MAX_MODULES:
        raise BadImage(
            f"manifest.json names {len(manifest.entry_points)} entry points, not 1 to {MAX_MODULES}"
        )
    ids = {entry_point.id for entry_point in manifest.entry_points}
    if len(ids) != len(manifest.entry_points):
        raise BadImage("manifest.json names an entry point twice")
    mounts = tuple(_mount(item) for item in manifest.mount_points[: MAX_MOUNTS + 1])
    if len(mounts) > MAX_MOUNTS:
        raise BadImage(f"manifest.json asks for more than {MAX_MOUNTS} mounts")
    if len({mount.path for mount in mounts}) != len(mounts):
        raise BadImage("manifest.json asks for a mount twice")
    return Image(manifest.id, manifest.name, manifest.entry_points, mounts, packed=True)


def _mount(item: dict[str, str]) -> Mount:
    if len(item) != 1:
        raise BadImage("a mount point is an object with one key: ro, rw, wo or private")
    ((access, path),) = item.items()
    for known in get_args(Access):
        if access == known:
            return Mount(guest_path(path), known)
    raise BadImage(f"a mount point is one of ro, rw, wo and private, not {access[:32]!r}")


def guest_path(path: str) -> str:
    """Return `path` as an absolute guest path, or refuse one that is not plain.

    Raises:
        BadImage: empty, too long, or with a part that is `.` or `..` or holds a zero byte or a backslash.
    """
    parts = path.strip("/").split("/")
    odd = any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts)
    if odd or len(path.encode("utf-8", "replace")) > _MAX_GUEST_PATH:
        raise BadImage(f"{path[:64]!r} cannot be a mount point")
    return "/" + "/".join(parts)


def _read_member(path: str, name: str, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            _check_directory_size(file.fileno())
            with zipfile.ZipFile(file) as archive:
                return _read_from(archive, name, limit)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BadImage(f"the task package is a damaged archive: {error}") from error
    except OSError as error:
        raise BadImage(f"cannot read the task package: {error.strerror or error}") from error


def _read_from(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    found = [member for member in archive.infolist() if member.filename == name]
    if len(found) != 1:
        raise BadImage(f"the archive holds {name[:64]!r} {'twice' if found else 'not at all'}")
    (member,) = found
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
        raise BadImage(f"{name} is encrypted or compressed otherwise than by deflate")
    with archive.open(member) as stream:
        # The declared size may lie; reading one byte more than allowed tells.
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise BadImage(f"{name} is longer than {limit} bytes when unpacked")
    return data


def _check_directory_size(fd: int) -> None:
    size = os.fstat(fd).st_size
    # The end record is 22 bytes plus a comment of at most 65535.
    tail = os.pread(fd, 22 + 0xFFFF, max(0, size - 22 - 0xFFFF))
    at = tail.rfind(_END_MAGIC)
    if at < 0 or len(tail) - at < _END_RECORD.size:
        raise BadImage("the task package is a damaged archive: it has no end record")
    directory_bytes = _END_RECORD.unpack_from(tail, at)[5]
    if directory_bytes > _MAX_DIRECTORY_BYTES:
        raise BadImage("the archive has too many members")
