"""What every benchmark prints: one JSON object of figures, with the machine that made them.

A benchmark is a module with a `measure() -> dict` of figures that ends in
`raise SystemExit(main("its name", measure))`; `python -m tests.bench.<name> --json` then prints

    {"bench": ..., "machine": {...}, "figures": {name: {"value", "unit", "peers": {peer: {"value", "ratio"}}}}}

A peer is another way to do the same work, measured in the same run. A ratio above 1 means that we are better.
Without `--json` the same figures are printed as a table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def figure(
    value: float,
    unit: str,
    peers: Mapping[str, float] | None = None,
    *,
    lower_is_better: bool = True,
    note: str = "",
) -> dict[str, Any]:
    """Return one figure, with the ratio to each peer.

    Args:
        value: ours, in `unit`.
        unit: such as "us", "ms", "MB/s".
        peers: what each peer reached, in the same unit.
        lower_is_better: true for times and sizes, false for rates.
        note: what one has to know to read it, such as how long was measured.
    """
    compared = {}
    for peer, theirs in (peers or {}).items():
        above, below = (theirs, value) if lower_is_better else (value, theirs)
        compared[peer] = {"value": _rounded(theirs), "ratio": _rounded(above / below) if below else None}
    made = {"value": _rounded(value), "unit": unit, "peers": compared}
    return made | {"note": note} if note else made


def report(
    bench: str, figures: Mapping[str, Any], made_on: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the object that a benchmark prints."""
    return {"bench": bench, "machine": dict(made_on or machine()), "figures": dict(figures)}


def machine() -> dict[str, Any]:
    """Return the processor's model, the cores this process may use, the Python and the system."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def main(
    bench: str,
    measure: Callable[..., Mapping[str, Any]],
    argv: Sequence[str] | None = None,
    *,
    options: Mapping[str, tuple[float, str]] | None = None,
) -> int:
    """Measure and print; the exit code is 0.

    Args:
        options: numbers that `measure` takes by name, each with its default and its help.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench.{bench}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for name, (default, words) in (options or {}).items():
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{words} (default: {default:g})")
    given = vars(parser.parse_args(argv))
    as_json = given.pop("json")
    made_on = machine()  # first: a benchmark may pin itself to a core
    result = report(bench, measure(**given), made_on)
    print(json.dumps(result) if as_json else _table(result))
    return 0


def _table(result: Mapping[str, Any]) -> str:
    made_on = result["machine"]
    lines = [f"{result['bench']} on {made_on['cpu']}, {made_on['cores']} cores, {made_on['python']}"]
    for name, one in result["figures"].items():
        note = f"  ({one['note']})" if "note" in one else ""
        lines.append(f"  {name:<52} {one['value']:>12} {one['unit']}{note}")
        for peer, theirs in one["peers"].items():
            lines.append(f"    {peer:<50} {theirs['value']:>12} {one['unit']}  (ratio {theirs['ratio']})")
    return "\n".join(lines)


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _rounded(value: float) -> float:
    """Four significant digits: more would claim a precision that a run does not have."""
    return float(f"{value:.4g}")
