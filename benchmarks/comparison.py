"""Compare a refined checkpoint with what the published algorithm made of the same pair.

    python benchmarks/comparison.py REFINED YARDSTICK YARDSTICK.json

K weight by weight (from ``timberkit.json`` and the JSON line of ``authors_algorithm.py``), and the
share of elements with equal values. Where K differs, the yardstick's own singular values say
whether its epsilon inside the logarithm is the reason: then K by the definition is timberkit's.
Only refined weights are compared: tensors of one dimension differ by design, timberkit copies them.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from authors_algorithm import OpenModel


def refined_records(folder: Path) -> list[dict[str, Any]]:
    """What the manifest of an output says of each refined matrix."""
    found: list[dict[str, Any]] = json.loads((folder / "timberkit.json").read_text())["refined"]
    return found


def compare(refined: Path, yardstick: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """K and elements of two outputs; ``facts`` is the yardstick's ``matrices``.

    Weights that the yardstick did not treat are left out.
    """
    records = [record for record in refined_records(refined) if record["name"] in facts]
    cuts = [_compare_cut(record, facts[record["name"]]) for record in records]
    different = [cut for cut in cuts if not cut["equal"]]
    elements = identical = far = 0
    lowest = 1.0
    with ExitStack() as stack:
        ours, theirs = OpenModel(refined, stack), OpenModel(yardstick, stack)
        for record in records:
            first, second = ours.tensor(record["name"]), theirs.tensor(record["name"])
            equal = int(torch.count_nonzero(first == second))
            elements, identical = elements + first.numel(), identical + equal
            lowest = min(lowest, equal / first.numel())
            far += _further_than_one_unit(first, second)
    return {
        "matrices": len(records),
        "equal_cuts": len(cuts) - len(different),
        "different_cuts": different,
        "unexplained_cuts": sum(not cut["epsilon_explains"] for cut in different),
        "largest_effective_rank_difference": max(
            (cut["effective_rank_difference"] for cut in cuts), default=0.0
        ),
        "elements": elements,
        "identical_share": identical / max(elements, 1),
        "lowest_identical_share": lowest,
        "further_than_one_unit_share": far / max(elements, 1),
        "without_facts": sorted(set(facts) - {record["name"] for record in records}),
    }


def _compare_cut(record: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    matrix = record["matrix"]
    return {
        "name": record["name"],
        "cut": matrix["cut"],
        "yardstick": facts["cut"],
        "by_definition": facts["cut_defined"],
        "equal": matrix["cut"] == facts["cut"],
        "epsilon_explains": matrix["cut"] == facts["cut_defined"],
        # Against the definition: the epsilon is no error of ours.
        "effective_rank_difference": abs(
            (matrix["effective_rank"] or 0.0) - facts["effective_rank_defined"]
        ),
    }


def _further_than_one_unit(first: torch.Tensor, second: torch.Tensor) -> int:
    """Elements of two 16-bit tensors that are not neighbours in their format."""
    if first.dtype != second.dtype or first.element_size() != 2:
        return int(torch.count_nonzero(first != second))
    places = []
    for tensor in (first, second):
        bits = tensor.contiguous().view(torch.int16).int()
        # Order of the numbers, not of their bits: the negative ones run downwards.
        places.append(torch.where(bits < 0, -(bits & 0x7FFF), bits))
    return int(torch.count_nonzero((places[0] - places[1]).abs() > 1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("refined", type=Path)
    parser.add_argument("yardstick", type=Path)
    parser.add_argument("facts", type=Path)
    given = parser.parse_args()
    facts = json.loads(given.facts.read_text())["matrices"]
    print(json.dumps(compare(given.refined, given.yardstick, facts)))


if __name__ == "__main__":
    main()
