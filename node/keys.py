"""The node's identity on disk: made at first start, unlocked at every start, never by asking.

The password comes from `identity.password` (GOLEM_P2P_PASSWORD), from the file that `identity.password-file`
names, or from `password` in the data folder, which is made at first start and readable by its owner alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from node.config import ConfigError
from p2p.identity import PrivateKey
from p2p.identity.keystore import KeystoreError, load, store, write_private

if TYPE_CHECKING:
    from node.config import Config
    from p2p.entropy import Entropy


def open_identity(config: Config, entropy: Entropy) -> PrivateKey:
    """Return the node's key; slow (0.1 s), so call it from a worker thread or before the loop.

    Raises:
        ConfigError: the configured key or password does not fit what is on disk.
        KeystoreError: the key file is unusable.
    """
    path = config.data_dir / "keys" / "default.json"
    password = _password(config, entropy, may_create=not path.exists())
    if path.exists():
        try:
            key = load(path, password)
        except KeystoreError as error:
            raise KeystoreError(
                f"{path}: {error}. Give its password by GOLEM_P2P_PASSWORD or identity.password-file."
            ) from error
        _check_configured(config, key)
        return key
    key = _configured(config) or PrivateKey.generate(entropy)
    store(path, key, password, entropy)
    return key


def _password(config: Config, entropy: Entropy, *, may_create: bool) -> str:
    if config.text("identity.password"):
        return config.text("identity.password")
    named = config.text("identity.password-file")
    path = Path(named) if named else config.data_dir / "password"
    if not named and may_create and not path.exists():
        write_private(path, entropy.token_bytes(32).hex() + "\n")
    try:
        return path.read_text().rstrip("\r\n")
    except OSError as error:
        raise ConfigError(
            f"the keystore's password is missing: {path}: {error.strerror}. Set GOLEM_P2P_PASSWORD, "
            "or name its file by identity.password-file."
        ) from error


def _configured(config: Config) -> PrivateKey | None:
    secret = config.text("identity.secret").removeprefix("0x")
    if not secret:
        return None
    try:
        raw = bytes.fromhex(secret)
        if len(raw) != 32:
            raise ValueError("expected 64 hexadecimal digits")
        return PrivateKey(raw)
    except ValueError as error:
        raise ConfigError(f"identity.secret is not a private key: {error}") from error


def _check_configured(config: Config, key: PrivateKey) -> None:
    configured = _configured(config)
    if configured is not None and configured.node_id != key.node_id:
        raise ConfigError(
            f"identity.secret is the key of {configured.node_id}, but {config.data_dir} belongs to {key.node_id}"
        )
