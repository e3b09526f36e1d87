"""The keystore: what was written opens, for those with the password; eth-account is the judge of the form."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import eth_account
import pytest

from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from p2p.identity.keystore import KeystoreError, WrongPassword, load, seal, store, unseal, write_private

if TYPE_CHECKING:
    from pathlib import Path

KEY = PrivateKey.generate(SeededEntropy(3))


def test_a_stored_key_opens(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "default.json"
    store(path, KEY, "secret", SeededEntropy(4))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load(path, "secret").node_id == KEY.node_id
    with pytest.raises(WrongPassword):
        load(path, "other")
    with pytest.raises(FileExistsError):
        store(path, KEY, "secret", SeededEntropy(4))
    assert list(path.parent.iterdir()) == [path]


def test_the_form_is_ethereums() -> None:
    document = seal(KEY, "secret", SeededEntropy(4))
    assert eth_account.Account.decrypt(document, "secret") == KEY.secret


def test_opens_a_pbkdf2_file_of_others() -> None:
    document = eth_account.Account.encrypt(KEY.secret, "secret", kdf="pbkdf2", iterations=1000)
    assert unseal(document, "secret").node_id == KEY.node_id


@pytest.mark.parametrize(
    "change",
    [
        {"crypto": None},
        {"crypto": {"kdf": "scrypt"}},
        {"crypto": 5},
    ],
)
def test_refuses_what_is_no_key_file(change: dict[str, object]) -> None:
    with pytest.raises(KeystoreError):
        unseal({**seal(KEY, "secret", SeededEntropy(4)), **change}, "secret")


def test_refuses_absurd_work() -> None:
    document = seal(KEY, "secret", SeededEntropy(4))
    document["crypto"]["kdfparams"]["n"] = 2**40
    with pytest.raises(KeystoreError, match="out of range"):
        unseal(document, "secret")


@pytest.mark.parametrize("content", ["", "[]", "{", json.dumps("x"), "x" * 100_000])
def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(content)
    with pytest.raises(KeystoreError):
        load(path, "secret")


def test_write_private_is_whole_or_not_at_all(tmp_path: Path) -> None:
    write_private(tmp_path / "a", "one")
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "one"
