"""How fast offers and demands are matched: `python -m tests.bench.matching --json`.

The market is made up but looks like the real one: offers of virtual machines with 27 properties each, no two alike,
whose constraints differ in when they were made; demands of nine terms that ask for 2 to 60 of a hundred of them. The
peers run in the same process on the same objects: "brute force" tries every pair with the compiled forms, and "parsing
each time" does for each pair what the original does, reading both documents and both constraints anew.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from p2p.identity.node_id import NodeId
from protocols.market.language import Constraint, PropertySet, flatten, json_text
from protocols.market.language.evaluate import compile_expression
from protocols.market.language.literals import literal_of_json
from protocols.market.language.parser import parse
from protocols.market.matcher import Matcher, Subscription
from tests.bench._report import figure, main

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OFFERS = 10_000
DEMANDS = 1_000
QUESTIONS = 200
BRUTE_QUESTIONS = 20
ADDRESS = "0x" + "ab" * 20


def measure() -> dict[str, Any]:
    """Measure and return the figures."""
    chance = random.Random(20)
    offers = [offer(number, chance) for number in range(OFFERS)]
    demands = [demand(number, chance) for number in range(DEMANDS)]
    matcher = Matcher()
    adding = timed(matcher.add_offer, offers)
    for one in demands:
        matcher.add_demand(one)
    questions = demands[:QUESTIONS]
    for one in questions[:5]:  # what constraints ask for is indexed when it is first asked for
        assert matcher.match_demand(one) == brute_force(one, offers)
    arriving = [offer(OFFERS + number, chance) for number in range(QUESTIONS)]
    assert matcher.match_offer(arriving[0]) == brute_force_demands(arriving[0], demands)
    asked = timed(matcher.match_demand, questions)
    asked_slowly = timed(lambda one: brute_force(one, offers), questions[:BRUTE_QUESTIONS])
    arrived = timed(matcher.match_offer, arriving)
    arrived_slowly = timed(lambda one: brute_force_demands(one, demands), arriving[:BRUTE_QUESTIONS])
    pair, naive_pair = pair_times(questions[0], offers[:2000])
    return {
        "one pair, both sides": figure(pair, "us", {"parsing each time": naive_pair}),
        "new demand against 10,000 offers, p95": figure(
            percentile(asked, 95) * 1e3, "ms", {"brute force": percentile(asked_slowly, 95) * 1e3}
        ),
        "new demand against 10,000 offers, median": figure(
            percentile(asked, 50) * 1e3, "ms", {"brute force": percentile(asked_slowly, 50) * 1e3}
        ),
        "new offer against 1,000 demands, p95": figure(
            percentile(arrived, 95) * 1e3, "ms", {"brute force": percentile(arrived_slowly, 95) * 1e3}
        ),
        "adding an offer to 10,000, median": figure(percentile(adding, 50) * 1e6, "us"),
    }


def pair_times(asking: Subscription, offers: Sequence[Subscription]) -> tuple[float, float]:
    """Return microseconds a pair: with the compiled forms, and reading everything anew."""
    begin = time.perf_counter()
    for one in offers:
        suits(asking, one)
    compiled = time.perf_counter() - begin
    texts = [(one.properties.text, one.constraint.text) for one in offers]
    begin = time.perf_counter()
    for properties, constraint in texts:
        naive(asking.properties.text, asking.constraint.text, properties, constraint)
    return compiled / len(offers) * 1e6, (time.perf_counter() - begin) / len(offers) * 1e6


def naive(
    demand_properties: str, demand_constraint: str, offer_properties: str, offer_constraint: str
) -> bool:
    """Match one pair, reading all four texts."""
    of_offer = compile_expression(parse(demand_constraint)).test(read(offer_properties))
    return bool(compile_expression(parse(offer_constraint)).test(read(demand_properties)) and of_offer)


def read(text: str) -> dict[str, Any]:
    """Return the typed values of a document, past the interning of property sets."""
    return {name: literal_of_json(value) for name, value in flatten(json_text.decode(text)).items()}


def suits(asking: Subscription, offered: Subscription) -> bool:
    """Match one pair with the compiled forms."""
    return bool(
        asking.constraint.test(offered.properties.values)
        and offered.constraint.test(asking.properties.values)
    )


def brute_force(asking: Subscription, offers: Sequence[Subscription]) -> list[str]:
    """Try every offer."""
    return [one.id for one in offers if suits(asking, one) and one.node_id != asking.node_id]


def brute_force_demands(offered: Subscription, demands: Sequence[Subscription]) -> list[str]:
    """Try every demand."""
    return [one.id for one in demands if suits(one, offered) and one.node_id != offered.node_id]


def timed(work: Callable[[Subscription], object], items: Sequence[Subscription]) -> list[float]:
    """Return the seconds that each call took."""
    times = []
    for item in items:
        begin = time.perf_counter()
        work(item)
        times.append(time.perf_counter() - begin)
    return times


def percentile(times: Sequence[float], percent: int) -> float:
    """Return the time that `percent` in a hundred do not exceed."""
    return sorted(times)[min(len(times) - 1, len(times) * percent // 100)]


def offer(number: int, chance: random.Random) -> Subscription:
    """Make a provider's offer."""
    subnet = "public" if chance.random() < 0.9 else "testing"
    threads = chance.choice((2, 4, 7, 8, 11, 15, 16, 23, 31, 32, 64))
    properties = {
        "golem.activity.caps.transfer.protocol": ["http", "https", "gftp"],
        "golem.com.payment.debit-notes.accept-timeout?": 240,
        "golem.com.payment.platform.erc20-polygon-glm.address": ADDRESS,
        f"golem.com.payment.platform.{chance.choice(('erc20-mainnet-glm', 'erc20-hoodi-tglm'))}.address": ADDRESS,
        "golem.com.payment.protocol.version": chance.choice((2, 3, 3, 3)),
        "golem.com.pricing.model": "linear",
        "golem.com.pricing.model.linear.coeffs": [chance.random() / 1e4, chance.random() / 1e4, 0.0],
        "golem.com.scheme": "payu",
        "golem.com.scheme.payu.debit-note.interval-sec?": 120,
        "golem.com.scheme.payu.payment-timeout-sec?": 120,
        "golem.com.usage.vector": ["golem.usage.duration_sec", "golem.usage.cpu_sec"],
        "golem.inf.cpu.architecture": "x86_64",
        "golem.inf.cpu.brand": f"Brand {number % 40}",
        "golem.inf.cpu.capabilities": ["sse3", "avx", "aes"],
        "golem.inf.cpu.cores": (threads + 1) // 2,
        "golem.inf.cpu.model": f"Stepping {number % 16} Family 143",
        "golem.inf.cpu.threads": threads,
        "golem.inf.cpu.vendor": "AuthenticAMD",
        "golem.inf.mem.gib": chance.random() * 4 * threads,
        "golem.inf.storage.gib": chance.random() * 500,
        "golem.node.debug.subnet": subnet,
        "golem.node.id.name": f"provider-{number}",
        "golem.node.net.is-public": chance.random() < 0.3,
        "golem.runtime.capabilities": chance.choice(
            (["vpn"], ["inet", "vpn"], ["inet", "vpn", "manifest-support"])
        ),
        "golem.runtime.name": chance.choice(("vm", "vm", "vm", "wasmtime", "ai")),
        "golem.runtime.version": f"0.{chance.randrange(3, 6)}.{chance.randrange(4)}",
        "golem.srv.caps.multi-activity": True,
    }
    made = 1_700_000_000_000 + number * 137
    constraint = f"(&\n  (golem.srv.comp.expiration>{made})\n  (golem.node.debug.subnet={subnet})\n)"
    return Subscription(
        f"offer-{number}", node(number), PropertySet.from_json(properties), Constraint.parse(constraint)
    )


def demand(number: int, chance: random.Random) -> Subscription:
    """Make a requestor's demand."""
    subnet = "public" if chance.random() < 0.9 else "testing"
    terms = (
        f"(golem.node.debug.subnet={subnet})",
        f"(golem.runtime.name={chance.choice(('vm', 'vm', 'wasmtime'))})",
        f"(golem.inf.mem.gib>={chance.choice((0.5, 1, 2, 4, 8, 16, 32))})",
        f"(golem.inf.storage.gib>={chance.choice((1, 2, 10, 50, 200))})",
        f"(golem.inf.cpu.threads>={chance.choice((1, 2, 4, 8, 16))})",
        "(golem.com.pricing.model=linear)",
        "(golem.com.payment.platform.erc20-polygon-glm.address=*)",
        "(golem.com.payment.protocol.version>1)",
        f"(golem.runtime.capabilities={chance.choice(('vpn', 'inet'))})",
    )
    properties = {
        "golem.com.payment.chosen-platform": "erc20-polygon-glm",
        "golem.node.debug.subnet": subnet,
        "golem.node.id.name": f"requestor-{number}",
        "golem.srv.comp.expiration": 1_700_000_000_000 + chance.randrange(OFFERS * 300),
        "golem.srv.caps.multi-activity": True,
    }
    return Subscription(
        f"demand-{number}",
        node(10**9 + number),
        PropertySet.from_json(properties),
        Constraint.parse(f"(&{''.join(terms)})"),
    )


def node(number: int) -> NodeId:
    """Return the identity of somebody."""
    return NodeId(f"0x{number:040x}")


if __name__ == "__main__":
    raise SystemExit(main("matching", measure))
