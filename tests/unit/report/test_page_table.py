"""The table of all matrices: packed small, and unpacked to what was measured."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest
from made_analysis import HOSTILE, made_analysis

from timberkit.measurements import Analysis
from timberkit.report.groups import modules_of
from timberkit.report.page_table import COLUMNS, table_data
from timberkit.report.text import visible


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def names_of(table: dict) -> list[str]:
    found = []
    for pattern, *numbers in table["rows"]["name"]:
        pieces = table["patterns"][pattern].split("\0")
        words = [*map(str, numbers), ""]
        found.append("".join(a + b for a, b in zip(pieces, words, strict=True)))
    return found


def named(*names: str) -> Analysis:
    analysis = made_analysis(layers=1)
    weights = (replace(analysis.weights[0], name=name) for name in names)
    return replace(analysis, weights=tuple(weights))


def test_rows_hold_every_weight_once_by_layer_and_module() -> None:
    analysis = made_analysis(layers=2)
    table = table_data(modules_of(analysis))
    assert sorted(names_of(table)) == sorted(weight.name for weight in analysis.weights)
    assert table["rows"]["layer"] == [0] * 7 + [1] * 7
    assert len(table["patterns"]) == 7


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.key)
def test_numbers_come_back_to_six_digits(column: object) -> None:
    analysis = made_analysis(layers=2)
    table = table_data(modules_of(analysis))
    by_name = dict(zip(names_of(table), unpacked(table["rows"][column.key]), strict=True))
    for weight in analysis.weights:
        assert by_name[weight.name] == pytest.approx(column.value(weight), rel=1e-6)


@pytest.mark.parametrize("name", ["a.007.b", "9" * 40 + ".x", "1", "x" * 50, *HOSTILE])
def test_any_name_comes_back_as_it_is_shown(name: str) -> None:
    assert names_of(table_data(modules_of(named(name)))) == [visible(name)]


def test_slices_of_a_fused_tensor_bear_their_number() -> None:
    table = table_data(modules_of(made_analysis(layers=1, experts=2)))
    assert "model.layers.0.mlp.experts.up_proj.weight[1]" in names_of(table)


def test_experts_can_share_a_row_of_medians() -> None:
    analysis = made_analysis(layers=2, experts=4)
    table = table_data(modules_of(analysis), each_expert=False)
    assert table["total"] == len(analysis.weights)
    assert len(table["rows"]["name"]) == 14
    assert "model.layers.0.mlp.experts.up_proj.weight and 3 more" in names_of(table)


def test_what_nothing_measured_takes_no_room_and_what_some_lack_is_a_gap() -> None:
    bare = made_analysis(layers=1, measured=False)
    assert table_data(modules_of(bare))["rows"]["changed"] is None
    full = made_analysis(layers=1)
    mixed = replace(bare, weights=(full.weights[0], *bare.weights[1:]))
    changed = unpacked(table_data(modules_of(mixed))["rows"]["changed"])
    assert np.isnan(changed).sum() == 6
