"""From what was found out to a verdict."""

from __future__ import annotations

import pytest

from p2p.reach.judge import DialBack, Facts, Sighting, bare, candidates, judge, network_of
from p2p.reach.verdict import HEADLINES, UNKNOWN, PortMapping, Relay

OWN = "/ip4/192.168.1.5/tcp/4001"
OUTER = "/ip4/203.0.113.7/tcp/4001"
RELAY = Relay("0x" + "1" * 40, ("/ip4/198.51.100.1/tcp/1/p2p-circuit",), 0)


def seen(number: int, what: str = OUTER) -> Sighting:
    return Sighting(f"peer{number}", f"/ip4/198.51.{number}.1/tcp/4001", what)


def back(number: int, *, reached: bool, address: str = OUTER) -> DialBack:
    return DialBack(f"peer{number}", address, reached)


def test_nothing_known_is_unknown() -> None:
    assert judge(Facts([OWN])).state == "unknown"
    assert UNKNOWN.state == "unknown"
    assert UNKNOWN.family("ip6").state == "unknown"


def test_a_family_of_which_this_node_has_nothing_is_absent() -> None:
    assert judge(Facts([OWN])).family("ip6").state == "absent"


def test_dialled_back_is_public() -> None:
    verdict = judge(Facts([OWN], [seen(1), seen(2)], [back(1, reached=True)]))
    assert verdict.state == "public"
    assert verdict.family("ip4").external == (OUTER,)
    assert verdict.family("ip4").mapping == "endpoint-independent"
    assert not verdict.advice


def test_the_majority_of_those_that_dialled_back_counts() -> None:
    answers = [back(1, reached=True), back(2, reached=False), back(3, reached=False)]
    verdict = judge(Facts([OWN], [seen(1), seen(2)], answers, [RELAY]))
    assert verdict.state == "punchable"
    assert "1 of 3 peers that dialled" in " ".join(verdict.evidence)


def test_the_same_outer_address_for_all_is_endpoint_independent() -> None:
    verdict = judge(Facts([OWN], [seen(1), seen(2)], relays=[RELAY]))
    assert verdict.family("ip4").mapping == "endpoint-independent"
    assert verdict.state == "punchable"
    assert verdict.family("ip4").external == (OUTER,)


def test_two_tellers_of_one_network_are_one() -> None:
    one = Sighting("a", "/ip4/198.51.1.1/tcp/1", OUTER)
    other = Sighting("b", "/ip4/198.51.1.2/tcp/1", OUTER)
    assert judge(Facts([OWN], [one, other])).family("ip4").mapping == "unknown"


def test_another_port_for_each_is_endpoint_dependent() -> None:
    sightings = [seen(1, "/ip4/203.0.113.7/tcp/1111"), seen(2, "/ip4/203.0.113.7/tcp/2222")]
    verdict = judge(Facts([OWN], sightings, relays=[RELAY]))
    assert verdict.family("ip4").mapping == "endpoint-dependent"
    assert verdict.family("ip4").external == ()
    assert verdict.state == "relayed"
    assert any("another port" in line for line in verdict.advice)


def test_one_liar_among_three_changes_nothing() -> None:
    sightings = [seen(1), seen(2), seen(3, "/ip4/203.0.113.99/tcp/1")]
    assert judge(Facts([OWN], sightings)).family("ip4").mapping == "endpoint-independent"


def test_seen_at_its_own_address_is_no_nat() -> None:
    assert judge(Facts([OUTER], [seen(1)])).family("ip4").mapping == "none"
    assert judge(Facts([OUTER], [seen(1)])).state == "unknown", "a firewall may be in front"


def test_without_a_relay_and_behind_a_nat_nobody_gets_in() -> None:
    verdict = judge(Facts([OWN], [seen(1), seen(2)], [back(1, reached=False)]))
    assert verdict.state == "unreachable"
    assert any("overlay.bootstrap" in line for line in verdict.advice)


def test_with_hole_punching_off_it_is_relayed() -> None:
    assert judge(Facts([OWN], [seen(1), seen(2)], relays=[RELAY], hole_punching=False)).state == "relayed"


def test_families_are_apart() -> None:
    six = "/ip6/2001:db8::5/tcp/4001"
    teller = Sighting("p", "/ip6/2001:db8:1::1/tcp/4001", six)
    verdict = judge(Facts([OWN, six], [seen(1), seen(2), teller], [back(1, reached=True, address=six)]))
    assert verdict.family("ip6").state == "public"
    assert verdict.family("ip6").mapping == "none"
    assert verdict.family("ip4").state == "private"
    assert verdict.state == "public"


def test_a_port_mapping_is_told_and_tried_first() -> None:
    mapping = PortMapping("pcp", OWN, "/ip4/203.0.113.7/tcp/9", 0)
    facts = Facts(
        [OWN + "/p2p/16Uiu2HAmKLBTjFFHsUoKCvkRBJqaVmDA5SqBXr25Q9dbKQLnRCvE"],
        [seen(1)],
        port_mappings=[mapping],
    )
    assert candidates(facts) == ["/ip4/203.0.113.7/tcp/9", OUTER, OWN]
    assert any("(pcp)" in line for line in judge(facts).evidence)


@pytest.mark.parametrize(
    "text", ["", "x", "/ip4/1.2.3.4", "/ip4/1.2.3.4/udp/1", "/dns/a/tcp/1", "/ip4/1.2.3/tcp/4"]
)
def test_what_is_no_tcp_address_is_nothing(text: str) -> None:
    assert bare(text) == ""
    assert network_of(text) == text
    assert judge(Facts([OWN], [Sighting("a", text, text)])).state == "unknown"


def test_every_state_has_words() -> None:
    for state in ("public", "punchable", "relayed", "unreachable", "unknown"):
        assert HEADLINES[state]
