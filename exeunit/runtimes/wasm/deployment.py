"""What `deploy` leaves in the work directory for `start` and `run`.

The work directory is the supervisor's: the guest sees only the volumes in it, and nothing but this runtime reads
`deployment.json`. Called by `cli`; touches no module.

Errors: `NotDeployed`.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

import msgspec

from exeunit.runtimes.wasm.errors import NotDeployed
from exeunit.runtimes.wasm.image import Access, EntryPoint, Image, Mount

if TYPE_CHECKING:
    from p2p.entropy import Entropy

FILE_NAME: Final = "deployment.json"
_MAX_BYTES: Final = 1 << 20


class Volume(msgspec.Struct, frozen=True):
    """A directory of the work directory that the guest sees."""

    name: str
    """Name of the directory, `vol-` and 32 hex digits."""
    path: str
    """Absolute path in the guest."""
    access: Access


class Command(msgspec.Struct, frozen=True):
    """An entry point that can be run."""

    entry_point: EntryPoint
    module: str
    """Key of its compiled module."""


class Deployment(msgspec.Struct, frozen=True):
    """An image made ready."""

    image: Image
    volumes: tuple[Volume, ...]
    commands: tuple[Command, ...]

    def command(self, name: str) -> Command:
        """Return the entry point called `name`.

        Raises:
            NotDeployed: there is none; the message lists those that exist.
        """
        for command in self.commands:
            if command.entry_point.id == name:
                return command
        known = ", ".join(command.entry_point.id for command in self.commands)
        raise NotDeployed(f"the image has no entry point {name[:64]!r}; it has: {known}")


class DeployAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """What `deploy` prints for the supervisor."""

    valid: dict[str, str]
    vols: tuple[dict[str, str], ...]
    start_mode: str = "empty"


def make_volumes(workdir: str, mounts: tuple[Mount, ...], entropy: Entropy) -> tuple[Volume, ...]:
    """Make an empty directory for each mount."""
    volumes = []
    for mount in mounts:
        volume = Volume(f"vol-{entropy.token_bytes(16).hex()}", mount.path, mount.access)
        os.mkdir(os.path.join(workdir, volume.name), 0o700)
        volumes.append(volume)
    return tuple(volumes)


def remove_volumes(workdir: str, volumes: tuple[Volume, ...]) -> None:
    """Remove the volumes and all that is in them; symlinks in them are not followed."""
    for volume in volumes:
        shutil.rmtree(os.path.join(workdir, volume.name), ignore_errors=True)


def save(workdir: str, deployment: Deployment) -> None:
    """Write the deployment so that a crash leaves the old one or the new one."""
    path = os.path.join(workdir, FILE_NAME)
    with open(f"{path}.new", "wb") as file:
        file.write(msgspec.json.encode(deployment))
    os.replace(f"{path}.new", path)


def load(workdir: str) -> Deployment:
    """Read the deployment back.

    Raises:
        NotDeployed: there is none, or it is not one of ours.
    """
    try:
        with open(os.path.join(workdir, FILE_NAME), "rb") as file:
            data = file.read(_MAX_BYTES)
    except FileNotFoundError:
        raise NotDeployed("nothing is deployed in this work directory: run `deploy` first") from None
    except OSError as error:
        raise NotDeployed(f"cannot read the deployment: {error.strerror}") from error
    try:
        return msgspec.json.decode(data, type=Deployment)
    except msgspec.DecodeError as error:
        raise NotDeployed(f"the deployment in this work directory is damaged: {error}") from error


def answer(deployment: Deployment) -> bytes:
    """Return the JSON that `deploy` prints: where the supervisor finds each volume that transfers may name."""
    vols = tuple(
        {"name": volume.name, "path": volume.path}
        for volume in deployment.volumes
        if volume.access != "private"
    )
    return msgspec.json.encode(DeployAnswer({"Ok": ""}, vols))
