"""What the figures show: grids, boxes, curves, overlaps, spectra."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from made_analysis import made_analysis

from timberkit.report.page_data import figure_data
from timberkit.report.page_spectra import spectra_data, thinned
from timberkit.report.text import script_json


def test_grids_hold_each_weight_where_its_module_and_layer_cross() -> None:
    analysis = made_analysis(layers=3)
    data = figure_data(analysis)
    assert data["layers"] == [0, 1, 2]
    for weight in analysis.weights:
        row = data["modules"].index(weight.module.split(".")[-1])
        assert data["grids"]["delta"][row][weight.layer] == pytest.approx(
            weight.delta.ratio, rel=1e-4
        )
        difference = weight.instruct.ratio - weight.base.ratio
        assert data["grids"]["difference"][row][weight.layer] == pytest.approx(difference, rel=1e-4)


def test_a_module_that_a_layer_lacks_is_empty_there() -> None:
    analysis = made_analysis(layers=3)
    fewer = replace(analysis, weights=analysis.weights[1:])
    assert figure_data(fewer)["grids"]["base"][0][0] is None


def test_experts_show_their_median_and_their_spread() -> None:
    analysis = made_analysis(layers=2, experts=5)
    data = figure_data(analysis)
    row = data["modules"].index("up_proj")
    group = [w for w in analysis.weights if w.module.endswith("up_proj") and w.layer == 1]
    assert data["grids"]["delta"][row][1] == pytest.approx(
        np.median([w.delta.ratio for w in group]), rel=1e-4
    )
    curve = data["curves"]["tail_sum"][row + 1]
    low, high = np.quantile([w.cut.tail_sum for w in group], [0.1, 0.9])
    assert curve["low"][1] == pytest.approx(low, rel=1e-4)
    assert curve["high"][1] == pytest.approx(high, rel=1e-4)
    assert "low" not in data["curves"]["tail_sum"][1]


def test_boxes_begin_with_all_modules_and_show_the_null_of_each_shape() -> None:
    analysis = made_analysis(layers=3)
    boxes = figure_data(analysis)["boxes"]
    assert boxes[0]["label"] == "All modules"
    assert boxes[0]["count"] == len(analysis.weights)
    assert boxes[0]["null"] == sorted({round(w.null.ratio, 4) for w in analysis.weights})
    assert len(boxes[1]["null"]) == 1
    five = boxes[1]["base"]["five"]
    assert five == sorted(five)
    assert len(boxes[1]["base"]["points"]) == 3


def test_what_was_not_measured_has_no_curve() -> None:
    data = figure_data(made_analysis(layers=2, measured=False, hidden_states=False))
    assert data["curves"]["error"] == [None] * 8
    assert data["overlaps"]["left"] == [None] * 8
    assert data["hidden"] is None


def test_overlaps_are_listed_by_dimension_with_k_last() -> None:
    data = figure_data(made_analysis(layers=2))
    assert list(data["overlaps"]["delta_right"][0]) == ["1", "8", "64", "K"]


def test_an_analysis_of_nothing_but_an_embedding_still_has_figures() -> None:
    analysis = made_analysis(layers=1)
    alone = replace(analysis, weights=(replace(analysis.weights[0], layer=None),))
    data = figure_data(alone)
    assert data["layers"] == []
    assert data["curves"]["tail_sum"] == [None, None]
    json.loads(script_json(data))


@pytest.mark.parametrize(("r", "points"), [(1, 200), (200, 200), (201, 200), (4096, 200), (9, 2)])
def test_thinning_keeps_the_leading_values_the_last_and_the_order(r: int, points: int) -> None:
    places = thinned(r, points)
    assert len(places) == min(r, points)
    assert places == sorted(set(places))
    assert places[0] == 1
    assert places[-1] == r
    assert places[: points // 4] == list(range(1, min(points // 4, r) + 1))


def test_spectra_carry_the_values_the_cut_and_the_noise_of_their_shape() -> None:
    analysis = made_analysis(layers=2)
    data = spectra_data(analysis, points=40)
    row = data["modules"].index("down_proj")
    weight = next(w for w in analysis.weights if w.module.endswith("down_proj") and w.layer == 1)
    matrix = data["matrices"][row][1]
    places = data["places"][matrix["shape"]]
    expected = [weight.delta.singular_values[place - 1] for place in places]
    np.testing.assert_allclose(matrix["values"], expected, rtol=1e-3)
    assert (matrix["cut"], matrix["spikes"]) == (weight.cut.cut, weight.bulk.spikes)
    # Below the planted directions the delta is noise, so the curve lies on it.
    noise = np.array(data["nulls"][matrix["shape"]]) * weight.bulk.noise_scale
    np.testing.assert_allclose(noise[-5:], matrix["values"][-5:], rtol=0.01)


def test_a_spectrum_that_was_not_kept_is_left_out() -> None:
    analysis = made_analysis(layers=1)
    first = analysis.weights[0]
    bare = replace(first, delta=replace(first.delta, singular_values=None))
    data = spectra_data(replace(analysis, weights=(bare, *analysis.weights[1:])))
    assert data["matrices"][0] == [None]
    assert data["matrices"][1][0] is not None
