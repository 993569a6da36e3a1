"""Means, medians and verdicts by hand."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
from measured_weights import HIDDEN, ROUNDING, spectrum, weight

from timberkit.metrics.summary import aggregate, summarise, verdict, verdicts


def test_means_and_medians_are_over_weights() -> None:
    weights = [weight(str(i), delta=spectrum(ratio)) for i, ratio in enumerate((0.1, 0.2, 0.9))]
    found = aggregate(weights)
    assert found["matrices"] == 3
    assert found["parameters"] == 3 * 8 * 32
    assert found["delta_ratio"] == {"mean": pytest.approx(0.4), "median": 0.2}
    assert found["base_ratio"] == {"mean": 0.75, "median": 0.75}
    assert found["null_ratio"]["mean"] == 0.875
    assert found["delta_tail_energy"]["mean"] == pytest.approx(0.02)
    assert found["null_tail_energy"]["median"] == 0.01
    assert found["cut_share"]["mean"] == 5 / 8
    assert found["spikes"] == {"mean": 3.0, "median": 3.0}
    kept = [(row["threshold"], row["kept_share"]["mean"]) for row in found["truncate_energy"]]
    assert kept == [(0.995, 6 / 8), (0.99, 5 / 8), (0.98, 4 / 8), (0.95, 3 / 8)]


def test_what_no_weight_has_is_none_and_what_some_have_is_over_those() -> None:
    bare = weight("bare", rounding=None, subspaces=None, relative_delta=None)
    assert aggregate([bare])["relative_delta"] is None
    assert aggregate([bare])["rounding"] is None
    assert aggregate([bare])["subspaces"] is None
    both = aggregate([bare, weight("other")])
    assert both["relative_delta"] == {"mean": 0.05, "median": 0.05}
    assert both["rounding"]["matrices"] == 1


def test_rounding_is_pooled_over_all_elements() -> None:
    coarse = replace(ROUNDING, correction_over_weight=0.001, error_over_correction=2.0, changed=0.1)
    large = weight("large", rows=8, columns=96, rounding=coarse, instruct=spectrum(0.5))
    found = aggregate([weight("small"), large])["rounding"]
    corrections, errors = (0.005 * 2, 0.001 * 2), (0.25 * 0.005 * 2, 2 * 0.001 * 2)
    assert found["correction_over_rounding"] == pytest.approx(
        math.hypot(*corrections) / math.hypot(*errors)
    )
    assert found["changed_share"] == pytest.approx((0.75 * 256 + 0.1 * 768) / 1024)
    assert (found["corrected"], found["below_rounding"]) == (2, 1)


def test_overlaps_are_gathered_by_dimension_with_the_cut_last() -> None:
    rows = aggregate([weight("a"), weight("b")])["subspaces"]["left"]
    assert [row["dimension"] for row in rows] == [1, 8, "K"]
    assert rows[-1]["overlap"]["mean"] == pytest.approx(0.55)
    assert rows[-1]["chance"]["mean"] == 5 / 32
    assert {row["matrices"] for row in rows} == {2}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (0.25, "the correction is 4.0 times rounding"),
        (0.04, "the correction is 25 times rounding"),
        (2.0, "the correction is 0.50 times rounding, which hides it"),
        (0.0, "the correction is stored without any rounding"),
    ],
)
def test_the_verdict_is_plain(error: float, said: str) -> None:
    assert verdict(replace(ROUNDING, error_over_correction=error)) == said


def test_a_weight_without_correction_is_said_to_be_unchanged() -> None:
    unchanged = replace(ROUNDING, correction_over_weight=0.0, error_over_correction=None)
    assert verdict(unchanged) == "Timber changes nothing here"
    assert any("Timber changes nothing;" in line for line in verdicts([weight(rounding=unchanged)]))


def test_the_model_is_said_in_sentences() -> None:
    lines = verdicts([weight("a"), weight("b")], HIDDEN)
    assert len(lines) == 6
    assert "base 0.750, instruct 0.625, delta 0.500; independent noise" in lines[0]
    assert "2.00%" in lines[1]
    assert "1.00%" in lines[1]
    assert "Over the model the correction is 4.0 times rounding; 75% of the elements" in lines[2]
    assert "0 of 2 matrices" in lines[2]
    assert "overlap by 0.550; chance would give 0.156" in lines[3]
    assert "base 10.00, instruct 9.50 (60 tokens)" in lines[5]
    bare = weight(rounding=None, subspaces=None)
    assert len(verdicts([bare])) == 2
    assert "mean of 1 matrix:" in verdicts([bare])[0]


def test_a_summary_is_json_and_does_not_depend_on_the_order_of_the_weights() -> None:
    rng = random.Random(0)
    weights = [
        weight(f"w{i}", module=f"m{i % 3}", family=f"f{i % 2}", delta=spectrum(rng.random()))
        for i in range(40)
    ]
    found = summarise(weights, HIDDEN)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found["modules"]) == ["m0", "m1", "m2"]
    assert sum(group["matrices"] for group in found["families"].values()) == 40
    shuffled = weights[:]
    rng.shuffle(shuffled)
    again = summarise(shuffled, HIDDEN)
    for part in ("model", "families", "modules", "verdicts"):
        assert again[part] == found[part]
    assert [row["name"] for row in found["matrices"]] == [w.name for w in weights]
    assert [row["layer"] for row in found["hidden_states"]] == [0, 1]


def test_no_weights_have_no_summary() -> None:
    with pytest.raises(ValueError, match="at least one"):
        summarise([])
