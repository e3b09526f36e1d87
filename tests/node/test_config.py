"""Settings: flags before environment before file before defaults, and each knows its source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from node.config import OPTIONS, ConfigError, load

if TYPE_CHECKING:
    from pathlib import Path


def test_the_order_of_sources(tmp_path: Path) -> None:
    name = "overlay.network"
    assert load(tmp_path, environ={}).values[name].source == "default"
    (tmp_path / "config.toml").write_text('[overlay]\nnetwork = "test"\n')
    loaded = load(tmp_path, environ={})
    assert (loaded[name], loaded.values[name].source) == ("test", str(tmp_path / "config.toml"))
    loaded = load(tmp_path, environ={"GOLEM_P2P_NETWORK": "main"})
    assert (loaded[name], loaded.values[name].source) == ("main", "environment GOLEM_P2P_NETWORK")
    loaded = load(tmp_path, {name: "devnet"}, environ={"GOLEM_P2P_NETWORK": "main"})
    assert (loaded[name], loaded.values[name].source) == ("devnet", "flag")


def test_the_data_folder_comes_from_the_daemons_variable(tmp_path: Path) -> None:
    assert load(environ={"YAGNA_DATADIR": str(tmp_path)}).data_dir == tmp_path


def test_lists_and_numbers_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[overlay]\nbootstrap = ["/a", "/b"]\n[provider]\nthreads = 3\nenabled = true\n'
    )
    loaded = load(tmp_path, environ={})
    assert (loaded["overlay.bootstrap"], loaded["provider.threads"], loaded["provider.enabled"]) == (
        ("/a", "/b"),
        3,
        True,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[overlay]\nnetwrok = 'x'", "netwrok"),
        ("[provider]\nthreads = 'many'", "provider.threads"),
        ("not toml", "config.toml"),
    ],
)
def test_a_bad_file_names_what_is_wrong(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        load(tmp_path, environ={})


def test_secrets_are_not_shown_in_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no option"):
        load(tmp_path, {"identity.sceret": "x"}, environ={})
    assert all(option.help for option in OPTIONS)


def test_plugins_have_their_own_sections(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[protocols.hello]\ngreeting = "hi"\n')
    assert load(tmp_path, environ={}).section("hello") == {"greeting": "hi"}


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("true", "on"), ("OFF", "off"), ("0", "off")])
def test_relaying_is_on_off_or_up_to_the_node(tmp_path: Path, text: str, value: str) -> None:
    assert load(tmp_path, {"overlay.relay-server": text}, environ={})["overlay.relay-server"] == value


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected auto, true or false"):
        load(tmp_path, {"overlay.relay-server": "perhaps"}, environ={})
