"""How far a clock is off, by what peers say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from p2p.discovery import DiscoverySettings
from p2p.discovery.skew import MAX_VOICES, ClockSkew
from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from p2p.testing.clock import EPOCH_NS, VirtualClock
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork, MemoryOverlay

if TYPE_CHECKING:
    from trio.testing import MockClock

NOW_NS = 1_767_225_600 * 10**9


def skew_of(*seconds: float) -> ClockSkew:
    skew = ClockSkew()
    for number, offset in enumerate(seconds):
        skew.told(f"peer {number}", NOW_NS // 10**6 + round(offset * 1000), NOW_NS)
    return skew


def test_the_median_counts_and_liars_do_not() -> None:
    assert skew_of(7.0, 7.2, 6.9).seconds == pytest.approx(7.0)
    assert skew_of(0.1, 1e9, 0.2, -1e9, 0.0).seconds == pytest.approx(0.1)
    assert skew_of(-30.0, -31.0, -29.0, -30.5).seconds == pytest.approx(-30.25)


def test_of_few_nobody_knows_who_is_wrong() -> None:
    assert skew_of().seconds is None
    assert skew_of(9.0, 9.0).seconds is None


def test_each_peer_has_one_voice_for_as_long_as_it_is_there() -> None:
    skew = skew_of(5.0, 5.0, 5.0)
    for _ in range(10):
        skew.told("peer 0", NOW_NS // 10**6 + 99_000, NOW_NS)
    assert skew.seconds == pytest.approx(5.0)
    skew.gone("peer 1")
    skew.gone("peer 1")
    assert skew.seconds is None


def test_silence_and_crowds_are_bounded() -> None:
    skew = ClockSkew()
    for number in range(10):
        skew.told(f"mute {number}", 0, NOW_NS)
    assert skew.seconds is None
    for number in range(2 * MAX_VOICES):
        skew.told(f"peer {number}", 1, NOW_NS)
    assert len(skew._voices) == MAX_VOICES
    for number in range(MAX_VOICES):  # the ghosts of those who came and went deafen nobody
        skew.told(f"late {number}", NOW_NS // 10**6 + 7_000, NOW_NS)
    assert skew.seconds == pytest.approx(7.0)


async def test_hello_tells(autojump_clock: MockClock) -> None:
    """A node whose clock is 40 s behind, on a link where a round trip takes 200 ms."""

    def node(number: int, epoch_ns: int = EPOCH_NS) -> MemoryOverlay:
        network.clock = VirtualClock(epoch_ns)
        key = PrivateKey.generate(SeededEntropy(number))
        settings = DiscoverySettings(target_peers=0)
        return network.overlay(key, discovery=settings, entropy=SeededEntropy(number))

    network = MemoryNetwork(VirtualClock(), SeededEntropy(1, "network"), Link(latency=0.1))
    slow = node(0, EPOCH_NS - 40 * 10**9)
    others = [node(number) for number in (1, 2, 3, 4)]
    async with trio.open_nursery() as nursery:

        async def run(overlay: MemoryOverlay) -> None:
            async with overlay.running():
                await trio.sleep_forever()

        for overlay in (slow, *others):
            nursery.start_soon(run, overlay)
        await trio.sleep(1)
        for other in others[:2]:
            await slow.connect(other.listen_addresses()[0])
        await others[2].connect(slow.listen_addresses()[0])
        for first, second in ((0, 1), (0, 2), (0, 3)):
            await others[first].connect(others[second].listen_addresses()[0])
        await trio.sleep(1)
        assert slow.discovery is not None
        assert others[0].discovery is not None
        assert slow.discovery.skew.seconds == pytest.approx(40, abs=0.2)
        assert others[0].discovery.skew.seconds == pytest.approx(0, abs=0.2), (
            "one that is wrong moves nothing"
        )
        await slow.disconnect(others[0].node_id)
        assert slow.discovery.skew.seconds is None
        nursery.cancel_scope.cancel()
