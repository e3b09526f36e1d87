"""The identity on disk: made once, opened again, never overwritten, never asked for."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from node.config import ConfigError, load
from node.keys import open_identity
from p2p.entropy import SeededEntropy
from p2p.identity.keystore import KeystoreError

if TYPE_CHECKING:
    from pathlib import Path


def test_first_start_makes_key_and_password(tmp_path: Path) -> None:
    config = load(tmp_path, environ={})
    key = open_identity(config, SeededEntropy(1))
    assert open_identity(config, SeededEntropy(2)).node_id == key.node_id
    for name in ("password", "keys/default.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_given_password_leaves_no_file(tmp_path: Path) -> None:
    config = load(tmp_path, environ={"GOLEM_P2P_PASSWORD": "secret"})
    open_identity(config, SeededEntropy(1))
    assert not (tmp_path / "password").exists()
    with pytest.raises(KeystoreError, match="password does not open"):
        open_identity(load(tmp_path, environ={"GOLEM_P2P_PASSWORD": "other"}), SeededEntropy(1))
    with pytest.raises(ConfigError, match="GOLEM_P2P_PASSWORD"):
        open_identity(load(tmp_path, environ={}), SeededEntropy(1))


def test_a_configured_secret_becomes_the_identity(tmp_path: Path) -> None:
    secret = "11" * 32
    config = load(tmp_path, environ={"YAGNA_AUTOCONF_ID_SECRET": secret})
    key = open_identity(config, SeededEntropy(1))
    assert key.secret.hex() == secret
    with pytest.raises(ConfigError, match="belongs to"):
        open_identity(load(tmp_path, environ={"YAGNA_AUTOCONF_ID_SECRET": "22" * 32}), SeededEntropy(1))
    with pytest.raises(ConfigError, match="not a private key"):
        open_identity(load(tmp_path / "b", environ={"YAGNA_AUTOCONF_ID_SECRET": "xyz"}), SeededEntropy(1))
