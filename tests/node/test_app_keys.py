"""Application keys: who a program acts for."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import trio

from node.app_keys import AUTOCONFIGURED, AppKeyError, AppKeys
from p2p.clock import SystemClock
from p2p.entropy import SeededEntropy
from p2p.storage import InlineDatabase, open_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from p2p.storage import Database

ME, OTHER = "0x" + "11" * 20, "0x" + "22" * 20


@contextlib.asynccontextmanager
async def keys(database: Database | None = None) -> AsyncIterator[AppKeys]:
    found = AppKeys(database or InlineDatabase(), SystemClock(), SeededEntropy(1, "keys"))
    await found.open()
    yield found


async def test_a_key_opens_a_session() -> None:
    async with keys() as found:
        made = await found.create("script", ME)
        assert len(made.key) == 32
        assert set(made.key) <= set("0123456789abcdef")
        session = await found.session(made.key)
        assert session is not None
        assert (session.identity, session.name, session.role) == (ME, "script", "manager")
        for wrong in ("", made.key[:-1], made.key.upper() + "x", "script"):
            assert await found.session(wrong) is None


async def test_a_name_gives_its_key_again() -> None:
    async with keys() as found:
        made = await found.create("script", ME, origins=["http://a"])
        assert await found.create("script", ME, origins=["http://b"]) == made
        with pytest.raises(AppKeyError, match=ME):
            await found.create("script", OTHER)
        assert [key.name for key in found.list()] == ["script"]


@pytest.mark.parametrize("name", ["", "x" * 257, "a\nb", "a\x00", "\x1b[31m"])
async def test_names_that_are_none(name: str) -> None:
    async with keys() as found:
        with pytest.raises(AppKeyError):
            await found.create(name, ME)


async def test_origins() -> None:
    async with keys() as found:
        one = await found.create("one", ME, origins=["http://a", "http://b"])
        two = await found.create("two", ME)
        assert list(await found.origins(one.key)) == ["http://a", "http://b"]
        assert list(await found.origins(two.key)) == []
        assert list(await found.origins("unknown")) == []
        assert list(await found.origins(None)) == ["http://a", "http://b"]


@pytest.mark.parametrize("origin", ["http://a\nhttp://b", "", "x" * 300])
async def test_an_origin_that_is_none(origin: str) -> None:
    async with keys() as found:
        with pytest.raises(AppKeyError):
            await found.create("web", ME, origins=[origin])
        assert await found.origins(None) == []


async def test_what_is_dropped_opens_nothing() -> None:
    async with keys() as found:
        made = await found.create("script", ME)
        await found.drop("script")
        assert await found.session(made.key) is None
        with pytest.raises(AppKeyError, match="no application key"):
            await found.drop("script")
        assert (await found.create("script", ME)).key != made.key


async def test_the_configured_key() -> None:
    async with keys() as found:
        first = await found.create(AUTOCONFIGURED, ME, key="first")
        assert await found.create(AUTOCONFIGURED, ME, key="first") == first
        await found.create(AUTOCONFIGURED, ME, key="second")
        assert await found.session("first") is None
        assert await found.session("second") is not None
        with pytest.raises(AppKeyError, match="configuration"):
            await found.drop(AUTOCONFIGURED)


async def test_they_outlast_the_node(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db") as database, keys(database) as found:
        made = await found.create("script", ME, origins=["http://a", "http://b"])
        await found.create("gone", ME)
        await found.drop("gone")
    async with open_database(tmp_path / "db") as database, keys(database) as found:
        assert found.list() == [made]
        assert await found.session(made.key) is not None


async def test_two_at_once_are_one(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db") as database, keys(database) as found:
        made: list[str] = []

        async def create() -> None:
            made.append((await found.create("script", ME)).key)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(create)
        assert len(set(made)) == 1
        (key,) = found.list()
        assert key.key == made[0]
