"""The matcher against trying every pair, through additions, replacements and removals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from p2p.identity.node_id import NodeId
from protocols.market import index
from protocols.market.language import Constraint, PropertySet, Verdict, match
from protocols.market.matcher import Matcher, Shortfall, Subscription, explain
from tests.protocols.market.language import strategies

NODES = [NodeId(f"0x{digit * 40}") for digit in "abc"]

JSON_VALUES: tuple[Any, ...] = (
    *(
        1,
        2,
        2.0,
        10,
        0.5,
        -5,
        True,
        False,
        "x",
        "xy",
        "xyz",
        "1",
        "1.0.0",
        "1.10.0",
        "true",
        "2020-01-01T00:00:00Z",
    ),
    *(["x", "y"], ["x", "x"], [], [1, 2], ["x", 1], [["x"]], None, {}, "\r"),
)

documents = st.dictionaries(st.sampled_from(strategies.NAMES), st.sampled_from(JSON_VALUES), max_size=5)
property_sets = documents.map(PropertySet.from_json) | strategies.flat_lines.map(
    lambda lines: PropertySet.from_flat(lines, [("a", "x", "1"), ("b", "x", "x")])
)
conjunctions = st.lists(strategies.comparisons | strategies.presences, max_size=4).map(
    lambda all_of: f"(&{''.join(all_of)})"
)
constraint_texts = conjunctions | strategies.constraints


def subscription(
    name: str, properties: Any = None, constraint: str = "()", node: NodeId = NODES[0]
) -> Subscription:
    return Subscription(name, node, PropertySet.from_json(properties or {}), Constraint.parse(constraint))


def do_match(demand: Subscription, offer: Subscription) -> bool:
    """Say what the matcher has to say, the slow way."""
    result = match(demand.properties, demand.constraint, offer.properties, offer.constraint)
    return result.verdict is Verdict.MATCH and demand.node_id != offer.node_id


class Market(RuleBasedStateMachine):
    """Any sequence of changes; the matcher and trying every pair have to agree after each."""

    def __init__(self) -> None:
        super().__init__()
        self.matcher = Matcher()
        self.offers: dict[str, Subscription] = {}
        self.demands: dict[str, Subscription] = {}

    @initialize(
        count=st.integers(0, 60), texts=st.lists(constraint_texts, min_size=1, max_size=4), data=st.data()
    )
    def open_with_many(self, count: int, texts: list[str], data: st.DataObject) -> None:
        """Start with so many that the indexes are used, not the way round them for few."""
        sets = data.draw(st.lists(property_sets, min_size=1, max_size=6))
        for number in range(count):
            one = Subscription(
                f"o{number}",
                NODES[number % 3],
                sets[number % len(sets)],
                Constraint.parse(texts[number % len(texts)]),
            )
            self.offers[one.id] = one
            self.matcher.add_offer(one)

    @rule(
        number=st.integers(0, 5), node=st.sampled_from(NODES), properties=property_sets, text=constraint_texts
    )
    def add_offer(self, number: int, node: NodeId, properties: PropertySet, text: str) -> None:
        one = Subscription(f"o{number}", node, properties, Constraint.parse(text))
        self.offers.pop(one.id, None)
        self.offers[one.id] = one
        self.matcher.add_offer(one)

    @rule(
        number=st.integers(0, 5), node=st.sampled_from(NODES), properties=property_sets, text=constraint_texts
    )
    def add_demand(self, number: int, node: NodeId, properties: PropertySet, text: str) -> None:
        one = Subscription(f"d{number}", node, properties, Constraint.parse(text))
        self.demands.pop(one.id, None)
        self.demands[one.id] = one
        self.matcher.add_demand(one)

    @rule(number=st.integers(0, 5))
    def remove_offer(self, number: int) -> None:
        expected = self.offers.pop(f"o{number}", None) is not None
        assert self.matcher.remove_offer(f"o{number}") is expected

    @rule(number=st.integers(0, 5))
    def remove_demand(self, number: int) -> None:
        expected = self.demands.pop(f"d{number}", None) is not None
        assert self.matcher.remove_demand(f"d{number}") is expected

    @invariant()
    def agrees_with_every_pair(self) -> None:
        offers, demands = self.offers.values(), self.demands.values()
        for demand in demands:
            assert self.matcher.match_demand(demand) == [
                offer.id for offer in offers if do_match(demand, offer)
            ]
        for offer in offers:
            assert self.matcher.match_offer(offer) == [
                demand.id for demand in demands if do_match(demand, offer)
            ]


Market.TestCase.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)
TestMarket = Market.TestCase


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(property_sets, constraint_texts), min_size=20, max_size=60),
    st.lists(st.tuples(property_sets, constraint_texts), min_size=1, max_size=5),
    st.sampled_from([1, 256]),
)
def test_many_offers_agree_with_every_pair(
    offered: list[tuple[PropertySet, str]], demanded: list[tuple[PropertySet, str]], columns: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "MAX_COLUMNS", columns)
        offers = [
            Subscription(f"o{n}", NODES[n % 2], p, Constraint.parse(c)) for n, (p, c) in enumerate(offered)
        ]
        demands = [
            Subscription(f"d{n}", NODES[2], p, Constraint.parse(c)) for n, (p, c) in enumerate(demanded)
        ]
        matcher = Matcher()
        for offer in offers:
            matcher.add_offer(offer)
        for demand in demands:
            assert matcher.match_demand(demand) == [one.id for one in offers if do_match(demand, one)]
        for offer in offers[::2]:
            matcher.remove_offer(offer.id)
        for demand in demands:
            assert matcher.match_demand(demand) == [one.id for one in offers[1::2] if do_match(demand, one)]


THRESHOLDS = [
    f"(n{op}{number})"
    for op in ("<", "<=", ">", ">=")
    for number in ("1", "2", "3", "nan", "inf", "x", "-1e0")
]


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(THRESHOLDS), min_size=1, max_size=3).map("".join), min_size=8, max_size=40
    ),
    st.sampled_from((1, 2, 2.5, "2", "x", True, [2], None)),
)
def test_thresholds_agree_with_every_pair(thresholds: list[str], value: Any) -> None:
    matcher, demand = Matcher(), subscription("d", {"n": value}, node=NODES[1])
    offers = [subscription(f"o{n}", constraint=f"(&{text})") for n, text in enumerate(thresholds)]
    for offer in offers:
        matcher.add_offer(offer)
    expected = [one.id for one in offers if do_match(demand, one)]
    assert matcher.match_demand(demand) == expected
    for offer in offers[::3]:
        matcher.remove_offer(offer.id)
        matcher.add_offer(offer)
    assert sorted(matcher.match_demand(demand)) == sorted(expected)


@pytest.mark.parametrize("operand", ["1", "5", "14", "15", "20", "nan", "inf", "-1"])
@pytest.mark.parametrize("symbol", ["<", "<=", ">", ">="])
@pytest.mark.parametrize(
    "others", [[], ["7"], [None, True, [7], "x"] * 2], ids=["numbers", "a string", "many"]
)
def test_ranges_agree_with_every_pair(symbol: str, operand: str, others: list[Any]) -> None:
    values = [*range(15), *others]
    offers = [subscription(f"o{n}", {"n": value}) for n, value in enumerate(values)]
    demand = subscription("d", constraint=f"(n{symbol}{operand})", node=NODES[1])
    matcher = Matcher()
    for offer in offers:
        matcher.add_offer(offer)
    assert matcher.match_demand(demand) == [one.id for one in offers if do_match(demand, one)]


def test_what_is_removed_is_gone_from_every_column() -> None:
    values: list[Any] = [
        "x",
        "y",
        1,
        2.5,
        True,
        False,
        ["x", "y"],
        ["y", "y"],
        ["x", 1],
        [],
        None,
        ["x", "y", "x"],
    ]
    offers = [subscription(f"o{n}", {"a": value, "b": 1}) for n, value in enumerate(values * 2)]
    texts = [
        "(a=x)",
        "(a=y)",
        "(a=1)",
        "(a>=1)",
        "(a<z)",
        "(a=true)",
        "(a=false)",
        "(a=*)",
        "(!(a=x))",
        "(a=[x,y])",
    ]
    demands = [subscription(f"d{n}", constraint=text, node=NODES[1]) for n, text in enumerate(texts)]
    matcher = Matcher()
    for offer in offers:
        matcher.add_offer(offer)
    for removed in range(len(offers)):
        for demand in demands:
            expected = [one.id for one in offers[removed:] if do_match(demand, one)]
            assert matcher.match_demand(demand) == expected
        assert matcher.remove_offer(f"o{removed}")


def test_the_vector_file_agrees_too() -> None:
    lines = (Path(__file__).parents[2] / "data/market/resolver-vectors.jsonl").read_text().splitlines()
    vectors = [
        one for one in map(json.loads, lines) if one["kind"] == "resolve" and one["expected"] != "error"
    ]
    matcher = Matcher()
    offers = [
        Subscription(f"o{n}", NODES[0], PropertySet.from_flat(one["flat_properties"]), Constraint.parse("()"))
        for n, one in enumerate(vectors)
    ]
    for offer in offers:
        matcher.add_offer(offer)
    for one in vectors:
        demand = Subscription("d", NODES[1], PropertySet.from_json({}), Constraint.parse(one["constraint"]))
        assert matcher.match_demand(demand) == [offer.id for offer in offers if do_match(demand, offer)]


def test_nobody_is_matched_with_themselves() -> None:
    matcher = Matcher()
    matcher.add_offer(subscription("own", node=NODES[0]))
    matcher.add_offer(subscription("other", node=NODES[1]))
    demand = subscription("d", node=NODES[0])
    assert matcher.match_demand(demand) == ["other"]
    matcher.add_demand(demand)
    assert matcher.match_offer(subscription("own", node=NODES[0])) == []


def test_order_is_that_of_adding_and_a_replacement_is_new() -> None:
    matcher = Matcher()
    for name in "cab":
        matcher.add_offer(subscription(name))
    matcher.add_offer(subscription("c"))
    assert matcher.match_demand(subscription("d", node=NODES[1])) == ["a", "b", "c"]
    assert repr(matcher) == "<Matcher: 3 offers, 0 demands>"


def test_subscriptions_are_found_by_id() -> None:
    matcher, offer, demand = Matcher(), subscription("x"), subscription("x")
    matcher.add_offer(offer)
    assert matcher.offer("x") is offer
    assert matcher.demand("x") is None
    matcher.add_demand(demand)
    assert matcher.demand("x") is demand
    assert matcher.remove_offer("x")
    assert not matcher.remove_offer("x")
    assert matcher.offer("x") is None


def test_identical_constraints_are_evaluated_once() -> None:
    matcher = Matcher()
    for number in range(100):
        matcher.add_offer(subscription(f"o{number}", constraint=f"(&(subnet=public)(until>{number}))"))
    groups = matcher._offers._constraints._groups
    assert len(groups) == 1
    found = matcher.match_demand(subscription("d", {"subnet": "public", "until": 50}, node=NODES[1]))
    assert found == [f"o{number}" for number in range(50)]


def test_indexes_forget_what_is_removed() -> None:
    matcher = Matcher()
    for number in range(50):
        matcher.add_offer(
            subscription(f"o{number}", {"a": number, "b": "x"}, f"(&(a>{number})(b=x)(c={number}))")
        )
    matcher.match_demand(subscription("d", {"a": 1, "b": "x"}, "(&(a>=1)(b=x)(!(c=*)))", NODES[1]))
    for number in range(50):
        matcher.remove_offer(f"o{number}")
    book = matcher._offers
    kept = [book._subscriptions, book._row_of, book._rows_of_node]
    kept += [getattr(book._properties, name) for name in ("_sets", "_carriers", "_columns")]
    kept += [
        getattr(book._constraints, name)
        for name in ("_constraints", "_group_of", "_groups", "_gated", "_ungated", "_thresholds")
    ]
    assert not any(kept)


def test_explain_names_each_conjunct_that_fails() -> None:
    demand = subscription(
        "d", {"subnet": "main"}, "(&(mem>=8)(runtime=vm)(gpu=*)(price<2)(|(a=1)(b=1)))", NODES[0]
    )
    offer = subscription("o", {"mem": 4, "runtime": "vm", "price": 1}, "(subnet=public)", NODES[1])
    assert explain(demand, offer) == [
        Shortfall("demand", "(mem>=8)", Verdict.MISMATCH, "4"),
        Shortfall("demand", "(gpu=*)", Verdict.MISMATCH, None),
        Shortfall("demand", "(|(a=1)(b=1))", Verdict.UNDEFINED, None),
        Shortfall("offer", "(subnet=public)", Verdict.MISMATCH, '"main"'),
    ]


def test_explain_names_the_identity() -> None:
    assert explain(subscription("d"), subscription("o")) == [
        Shortfall("identity", "", Verdict.MISMATCH, None)
    ]
    assert explain(subscription("d"), subscription("o", node=NODES[1])) == []


@given(property_sets, constraint_texts, property_sets, constraint_texts, st.sampled_from(NODES))
def test_there_is_an_explanation_exactly_where_there_is_no_match(
    demanding: PropertySet, wants: str, offering: PropertySet, asks: str, node: NodeId
) -> None:
    demand = Subscription("d", NODES[0], demanding, Constraint.parse(wants))
    offer = Subscription("o", node, offering, Constraint.parse(asks))
    assert (explain(demand, offer) == []) == do_match(demand, offer)


def test_explain_demand_counts_what_offers_are_lost_by() -> None:
    matcher = Matcher()
    for number in range(10):
        matcher.add_offer(subscription(f"o{number}", {"mem": number}, node=NODES[1]))
    matcher.add_offer(subscription("picky", {"mem": 9}, "(subnet=x)", NODES[1]))
    matcher.add_offer(subscription("own", {"mem": 9}, node=NODES[0]))
    demand = subscription("d", {}, "(&(mem>=8)(mem<100))", NODES[0])
    assert matcher.explain_demand(demand) == {"(mem>=8)": 8, "(offer's own constraint)": 1, "(own offers)": 1}
