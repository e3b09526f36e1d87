"""One transfer from any scheme to any other: retries, resuming, checksums, progress.

A destination on this machine is written beside its place and gets its name only when the content is whole and has the
hash that was promised. Called by the supervisor for `transfer` commands and by the image cache.

Errors: see `errors`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio

from exeunit.transfer.errors import BadLocation, Transient, WrongHash
from exeunit.transfer.gftp import promised_digest
from exeunit.transfer.scheme import Download, LocalSink, PartialFile, Sink, Source

if TYPE_CHECKING:
    from exeunit.transfer.location import Digest, Location

RETRY_DELAYS_S: Final = (2.0, 4.0)
"""Waits before the second and the third try, as the original's."""
IDLE_TIMEOUT_S: Final = 90.0
"""Seconds without a byte after which a try is given up."""

Progress = Callable[[int, int | None], None]
"""Told the bytes done and the bytes in all (if known), whenever some arrived. Must return at once."""


def no_progress(done: int, total: int | None) -> None:
    """Tell nobody."""


class Transfers:
    """Walks transfers between the schemes that it was given."""

    def __init__(
        self,
        schemes: Mapping[str, object],
        *,
        sleep: Callable[[float], Awaitable[None]] = trio.sleep,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Make it.

        Args:
            schemes: by name; each implements as much of `scheme` as it can.
            sleep: waits between tries.
            note: told in words when a try failed and another follows.
        """
        self._schemes = schemes
        self._sleep = sleep
        self._note = note

    async def transfer(self, source: Location, target: Location, progress: Progress = no_progress) -> int:
        """Copy `source` to `target` and return the bytes copied.

        Raises:
            TransferError: it did not work, also after retries where those make sense.
        """
        reader = self._schemes.get(source.scheme)
        writer = self._schemes.get(target.scheme)
        if not isinstance(reader, Source):
            raise BadLocation(f"cannot read from {source}: {self._known(source)}")
        if target.digest is not None:
            raise BadLocation("a hash belongs to the source of a transfer, not to its target")
        if isinstance(writer, LocalSink):
            async with writer.create(target.url) as partial:
                return await self.fetch(source, partial, progress)
        if isinstance(writer, Sink):
            return await self._retrying(lambda: self._pass_on(reader, writer, source, target, progress))
        raise BadLocation(f"cannot write to {target}: {self._known(target)}")

    async def fetch(self, source: Location, partial: PartialFile, progress: Progress = no_progress) -> int:
        """Copy `source` into `partial` and commit it; return the bytes copied. Raises TransferError."""
        reader = self._schemes.get(source.scheme)
        if not isinstance(reader, Source):
            raise BadLocation(f"cannot read from {source}: {self._known(source)}")
        state = _Fetch(_expected(source))
        size = await self._retrying(lambda: state.attempt(reader, source.url, partial, progress))
        partial.commit()
        return size

    def _known(self, location: Location) -> str:
        if location.scheme in self._schemes:
            return f"the scheme {location.scheme!r} does not go this way"
        return f"the scheme {location.scheme[:32]!r} is not one of {', '.join(sorted(self._schemes))}"

    async def _retrying(self, attempt: Callable[[], Awaitable[int]]) -> int:
        for delay in RETRY_DELAYS_S:
            try:
                return await attempt()
            except Transient as error:
                self._note(f"trying again in {delay:g} s: {error}")
            await self._sleep(delay)
        return await attempt()

    async def _pass_on(
        self, reader: Source, writer: Sink, source: Location, target: Location, progress: Progress
    ) -> int:
        done = 0
        expected = _expected(source)
        digest = expected.new() if expected else None

        async def counted(download: Download) -> AsyncGenerator[bytes, None]:
            nonlocal done
            async for chunk in _unhurried(download.chunks):
                done += len(chunk)
                if digest is not None:
                    digest.update(chunk)
                progress(done, download.size)
                yield chunk
            # Here, so that a sink that counts bytes never sees the end of a wrong content.
            _check_end(done, download.size, digest, expected)

        async with reader.download(source.url, 0, None) as download:
            progress(0, download.size)
            async with contextlib.aclosing(counted(download)) as chunks:
                await writer.upload(target.url, download.size, chunks)
        return done


class _Fetch:
    """What is kept from one try to the next while a file is fetched."""

    def __init__(self, expected: Digest | None) -> None:
        self._expected = expected
        self._digest: Any = expected.new() if expected else None
        self._validator: str | None = None

    async def attempt(self, reader: Source, url: str, partial: PartialFile, progress: Progress) -> int:
        async with reader.download(url, partial.size, self._validator) as download:
            if download.offset != partial.size:
                # The first try always begins with an empty file, whatever lies at the target.
                partial.restart()
                self._digest = self._expected.new() if self._expected else None
            self._validator = download.validator
            if download.size is not None:
                partial.check_room(download.size)
            progress(partial.size, download.size)
            async for chunk in _unhurried(download.chunks):
                await partial.write(chunk)
                if self._digest is not None:
                    self._digest.update(chunk)
                progress(partial.size, download.size)
            _check_end(partial.size, download.size, self._digest, self._expected)
        return partial.size


def _expected(source: Location) -> Digest | None:
    if source.digest is not None:
        return source.digest
    return promised_digest(source.url) if source.scheme == "gftp" else None


def _check_end(done: int, size: int | None, digest: Any, expected: Digest | None) -> None:
    if size is not None and done != size:
        raise Transient(f"the transfer ended after {done} of {size} bytes")
    if expected is not None and digest.hexdigest() != expected.hex:
        raise WrongHash(
            f"the content has the hash sha3:{digest.hexdigest()}, promised was sha3:{expected.hex};"
            " it was thrown away"
        )


async def _unhurried(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the chunks, but give up when none comes for long."""
    iterator = aiter(chunks)
    while True:
        with trio.move_on_after(IDLE_TIMEOUT_S) as idle:
            try:
                chunk = await anext(iterator)
            except StopAsyncIteration:
                return
        if idle.cancelled_caught:
            raise Transient(f"nothing arrived for {IDLE_TIMEOUT_S:g} s")
        yield chunk
