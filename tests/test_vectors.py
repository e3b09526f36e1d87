"""The vectors of the property language, the program that runs them, and the deviations that it knows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import vectors
from tests.vector_rules import RULES, rules_for

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(__file__).parent / "data/market/resolver-vectors.jsonl"
VECTORS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]

RESOLVE = {
    "id": "X",
    "kind": "resolve",
    "constraint": "(a=1)",
    "flat_properties": ["a=1"],
    "expected": "match",
}


def outcome_of(*lines: Any) -> dict[str, Any]:
    return vectors.run(line if isinstance(line, (str, bytes)) else json.dumps(line) for line in lines)


def counts(outcome: dict[str, Any]) -> tuple[int, int, int, int]:
    assert outcome["total"] == outcome["passed"] + outcome["deviations"] + outcome["failed"]
    return outcome["total"], outcome["passed"], outcome["deviations"], outcome["failed"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_vector(vector: dict[str, Any]) -> None:
    difference = vectors.check_line(json.dumps(vector), 1)
    assert difference is None or difference.rules, difference


def test_all_but_one_vector_pass_outright() -> None:
    assert counts(outcome_of(*VECTORS)) == (252, 251, 1, 0)


def altered(vector: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield copies of a vector, each with one expectation changed to what cannot be right."""
    wrong = {"match": "mismatch", "mismatch": "undefined", "undefined": "error", "error": "match"}
    for key in ("unresolved", "demand_mismatch", "offer_mismatch"):
        if key in vector:
            yield {**vector, key: [*vector[key], "nonsense"]}
    if "reduced" in vector:
        yield {**vector, "reduced": "(nonsense=1)"}
    if "ast" in vector:
        yield {**vector, "ast": {"op": "present", "ref": "nonsense"}}
    if "expected_type" in vector:
        yield {**vector, "expected_type": "list" if vector["expected_type"] != "list" else "string"}
        if vector.get("expected_value") is not None:
            yield {**vector, "expected_value": "nonsense"}
    elif "expected_name" in vector:
        yield {**vector, "expected_name": "nonsense"}
    elif isinstance(vector["expected"], str):
        yield {**vector, "expected": wrong.get(vector["expected"], "(nonsense=1)"), "desired": "nonsense"}
    else:
        yield {**vector, "expected": ["nonsense"]}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_wrong_expectations_are_noticed(vector: dict[str, Any]) -> None:
    for wrong in altered(vector):
        difference = vectors.check_line(json.dumps(wrong), 1)
        assert difference is not None, wrong
        assert difference.id == vector["id"]
        assert difference.kind == vector["kind"]
        if vector["id"] != "RV208":
            assert not difference.rules


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1]",
        "5",
        "NaN",
        '{"id":"X","kind":"literal","literal":"1","expected_type":"number","expected_value":1e999}',
        "[" * 100_000,
        "{" + '"a":{' * 50_000,
        b"\xff\xfe",
        "9" * 5_000,
        {},
        {"kind": "resolve"},
        {**RESOLVE, "kind": "nonsense"},
        {**RESOLVE, "kind": ["resolve"]},
        {**RESOLVE, "kind": None},
        {**RESOLVE, "constraint": None},
        {**RESOLVE, "flat_properties": "a=1"},
        {**RESOLVE, "flat_properties": [1]},
        {**RESOLVE, "aspects": [["a", "b"]]},
        {**RESOLVE, "aspects": 5},
        {**RESOLVE, "unresolved": "a"},
        {**RESOLVE, "expected": None},
        {"id": "X", "kind": "parse", "constraint": "(a=1)", "expected": "(a=1)", "ast": {"op": "nonsense"}},
        {"id": "X", "kind": "parse", "constraint": "(a=1)", "expected": "(a=1)", "ast": [1]},
        {"id": "X", "kind": "flatten", "properties_json": "{}"},
        {"id": "X", "kind": "merge", "input": {}, "expected": {}},
        {"id": "X", "kind": "expand", "expected": {}},
        {"id": "X", "kind": "prop_ref", "input": "a"},
    ],
    ids=lambda line: str(line)[:60],
)
def test_what_is_no_vector_counts_as_failed(line: Any) -> None:
    outcome = outcome_of(RESOLVE, line)
    assert counts(outcome) == (2, 1, 0, 1)
    assert outcome["differences"][0].actual


def test_blank_lines_do_not_count() -> None:
    assert counts(outcome_of("", RESOLVE, "  \n", b"\n")) == (1, 1, 0, 0)


def test_a_line_without_id_is_named_by_its_number() -> None:
    assert outcome_of(RESOLVE, {"kind": "x"})["differences"][0].id == "line 2"


def test_a_crash_is_a_failure_and_no_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(vector: dict[str, Any]) -> None:
        raise ZeroDivisionError("broken")

    monkeypatch.setitem(vectors._CHECKS, "resolve", crash)
    outcome = outcome_of({**RESOLVE, "constraint": "(a=x.y*)", "flat_properties": ['a="x-y"']})
    assert counts(outcome) == (1, 0, 0, 1)
    assert "ZeroDivisionError" in outcome["differences"][0].actual


@pytest.mark.parametrize(
    "vector",
    [
        {**RESOLVE, "expected": "undefined", "desired": "match"},
        {
            "kind": "resolve",
            "constraint": "(a[b=x)",
            "flat_properties": [],
            "expected": "match",
            "desired": "error",
        },
        {"kind": "parse", "constraint": "(a=1)x", "expected": "error", "desired": "(a=1)"},
        {"kind": "parse", "constraint": "(&)", "expected": "(&)"},
        {"kind": "parse", "constraint": "(&)", "expected": "()", "ast": {"op": "&", "args": []}},
        {"kind": "parse", "constraint": "(|)", "expected": "(|)", "ast": {"op": "const", "value": False}},
        {
            "kind": "parse",
            "constraint": "(&(a=1)(!(b$v<2)))",
            "expected": "(&(a=1)(!(b$v<2)))",
            "ast": {
                "op": "and",
                "items": [
                    {"op": "=", "ref": "a", "value": "1"},
                    {"op": "not", "item": {"op": "<", "ref": "b$v", "value": "2"}},
                ],
            },
        },
        {"kind": "literal", "literal": 'd"x"', "expected_type": "decimal (syntax only)"},
        {"kind": "literal", "literal": 'd"x"', "expected_type": "(syntax only)", "expected_value": "x"},
        {"kind": "literal", "literal": 'd"x"', "stage": "syntax", "expected_type": "decimal"},
        {"kind": "literal", "literal": 'd"x"', "stage": "value", "expected_type": "error"},
        {"kind": "literal", "literal": "d'x'", "stage": "syntax", "expected_type": "error"},
        {"kind": "literal", "literal": "[1,[true]]", "expected_type": "list", "expected_value": [1, [True]]},
        {
            "kind": "literal",
            "literal": 'v"1.0.0-rc1"',
            "expected_type": "version",
            "expected_value": "1.0.0-rc1",
        },
        {
            "kind": "resolve",
            "constraint": "(a$v>=1.0.0)",
            "flat_properties": [],
            "expected": "undefined",
            "unresolved": ["a"],
        },
        {
            "kind": "resolve",
            "constraint": "(a$v>=1.0.0)",
            "flat_properties": [],
            "expected": "undefined",
            "unresolved": ["a$v"],
        },
        {
            "kind": "flatten",
            "properties_json": '{"b":1e16,"a":"1e+16"}',
            "expected": ["b=1e+16", 'a="1e+16"'],
        },
        {"kind": "flatten", "properties_json": '{"a=1":true,"e":1e-9}', "expected": ["e=1e-9", "a=1=true"]},
        {"kind": "prop_ref", "input": "a", "expected": {"name": "a"}},
        {
            "kind": "match",
            "demand_properties": "5",
            "offer_properties": "{}",
            "demand_constraints": "()",
            "offer_constraints": "(=5)",
            "expected": "match",
        },
    ],
    ids=lambda vector: (
        f"{vector['kind']}-{vector['expected'] if 'expected' in vector else vector['expected_type']}"
    ),
)
def test_other_ways_to_write_what_is_right(vector: dict[str, Any]) -> None:
    assert vectors.check_line(json.dumps(vector), 1) is None


def resolve_inputs(constraint: str, *lines: str) -> dict[str, Any]:
    return {"kind": "resolve", "constraint": constraint, "flat_properties": list(lines)}


@pytest.mark.parametrize(
    ("vector", "names"),
    [
        (resolve_inputs("(a=f.o*)", 'a="foo"'), ["literal-wildcards"]),
        (resolve_inputs("(a=f[*)", 'a="f[x"'), ["literal-wildcards"]),
        (resolve_inputs("(a=[f.o*,x])", 'a=["foo","x"]'), ["literal-wildcards"]),
        (resolve_inputs("(!(|(b=1)(a=f.o*)))", 'a="foo"'), ["literal-wildcards"]),
        (resolve_inputs("(a=f.o*)", 'a="f.o"'), []),
        (resolve_inputs("(a=f.o)", 'a="foo"'), []),
        (resolve_inputs("(a=foo*)", 'a="foo.x"'), []),
        (resolve_inputs("(a<f.o*)", 'a="foo"'), []),
        (resolve_inputs("(a=x|y*)", 'a="xq"'), ["literal-wildcards"]),
        (resolve_inputs("(a=x*)", 'a="x\ny"'), ["literal-wildcards"]),
        (resolve_inputs("(a=" + "x*" * 30 + "y)", 'a="' + "x" * 150 + '"'), []),
        (resolve_inputs("(a=." + "x*" * 30 + "y)", 'a="' + "x" * 150 + '"'), ["literal-wildcards"]),
        (resolve_inputs("(a=f.o*)", 'b="foo"'), []),
        (
            {
                "kind": "match",
                "demand_properties": "{}",
                "offer_properties": '{"a":{"b":"foo"}}',
                "demand_constraints": "(a.b=f.o*)",
                "offer_constraints": "()",
            },
            ["literal-wildcards"],
        ),
        (
            {
                "kind": "match_flat",
                "demand_flat": ['a="foo"'],
                "offer_flat": [],
                "demand_constraints": "()",
                "offer_constraints": "(a=f.o*)",
            },
            ["literal-wildcards"],
        ),
        (resolve_inputs("(a$v>=1.0.0-rc-1)", 'a="1.0.0"'), ["strict-scalars"]),
        (resolve_inputs("(a$v>=1.0.0)", 'a="1.0.0-01"'), ["strict-scalars"]),
        (resolve_inputs("(a>= 1.0.0)", 'a=v"1.0.0"'), ["strict-scalars"]),
        (resolve_inputs("(a$d=1_0)", 'a="10"'), ["strict-scalars"]),
        (resolve_inputs("(a=*)", 'a=v"1.0.0-rc-1"'), ["strict-scalars"]),
        (resolve_inputs("(a=1.0.0-rc-1)", 'a="1.0.0-rc-1"'), []),
        (resolve_inputs("(a$v>=1.0.0-rc.1)", 'a="1.0.0"'), []),
        (resolve_inputs("(a$v>=1.0)", 'a="x"'), []),
        ({"kind": "literal", "literal": 'v"1.0.0-rc-1"'}, ["strict-scalars"]),
        ({"kind": "literal", "literal": '[d".+1"]'}, ["strict-scalars"]),
        ({"kind": "literal", "literal": '"1.0.0-rc-1"'}, []),
        (resolve_inputs("(!" * 65 + "()" + ")" * 65), ["input-limits"]),
        (resolve_inputs("(!" * 64 + "(a=1" + ")" * 65), ["input-limits"]),
        (resolve_inputs("(!" * 50 + "(a=1" + ")" * 51), []),
        (resolve_inputs("(&" + "(a=1)" * 1025 + ")"), ["input-limits"]),
        (resolve_inputs("()", *(f"p{number}" for number in range(4097))), ["input-limits"]),
        (resolve_inputs("()", 'a="' + "x" * 70_000 + '"'), ["input-limits"]),
        ({"kind": "flatten", "properties_json": "[" * 70 + "]" * 70}, ["input-limits"]),
        ({"kind": "flatten", "properties_json": "[" * 100_000}, ["input-limits"]),
        ({"kind": "flatten", "properties_json": '{"a":' * 64 + "1" + "}" * 64}, []),
        ({"kind": "expand", "input": {".".join("a" * 65): 1}}, ["input-limits"]),
        ({"kind": "literal", "literal": "[" * 66 + "]" * 66}, ["input-limits"]),
        ({"kind": "literal", "literal": "[1]"}, []),
    ],
    ids=lambda given: str(given)[:70],
)
def test_rules_apply_to_inputs(vector: dict[str, Any], names: list[str]) -> None:
    assert [one.name for one in rules_for(vector)] == names


def test_rules_explain_few_of_the_vectors() -> None:
    explained = [vector["id"] for vector in VECTORS if rules_for(vector)]
    assert explained == ["RV208"]


def test_the_documented_deviations_are_the_rules() -> None:
    page = (Path(__file__).parents[1] / "docs/language.md").read_text(encoding="utf-8")
    section = page.partition("## Deviations from the original")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert documented == [one.name for one in RULES]


def test_json_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert vectors.main([str(FILE), "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert set(outcome) == {"total", "passed", "deviations", "failed", "differences"}
    assert [set(one) for one in outcome["differences"]] == [{"id", "kind", "expected", "actual"}]


def test_summary_and_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text(json.dumps({**RESOLVE, "expected": "mismatch"}) + "\nnonsense\n")
    assert vectors.main([str(file)]) == 1
    output = capsys.readouterr().out
    assert "X resolve: FAILED" in output
    assert output.endswith("2 vectors: 0 passed, 0 deviations, 2 failed\n")
    assert vectors.main([str(file), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["failed"] == 2


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vectors.main([str(tmp_path / "none")]) == 2
    assert "cannot read" in capsys.readouterr().err
