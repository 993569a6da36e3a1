"""The paper's figures as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_analysis import hostile_analysis, made_analysis

from timberkit.report.analysis_figures import analysis_figures

NAMES = ["effective_rank", "distribution", "delta_spectra"]


def words_of(path: Path) -> str:
    return " ".join(ElementTree.parse(path).getroot().itertext())


def test_three_figures_are_written_as_svg_and_png(tmp_path: Path) -> None:
    written = analysis_figures(made_analysis(layers=3), tmp_path)
    assert [path.name for path in written] == [
        f"{name}.{suffix}" for name in NAMES for suffix in ("svg", "png")
    ]
    for path in written[1::2]:
        assert path.read_bytes().startswith(b"\x89PNG")
    assert "Instruct, on the same scale" in words_of(written[0])
    assert "Random noise" in words_of(written[2])
    assert "Edge of noise" in words_of(written[4])


def test_equal_analyses_give_equal_svg_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        analysis_figures(made_analysis(layers=2), folder)
    for name in NAMES:
        first, second = (folder.joinpath(f"{name}.svg").read_bytes() for folder in folders)
        assert first == second


def test_hostile_names_are_plain_words(tmp_path: Path) -> None:
    # Warnings are errors here: a letter that no font has, or a formula, would fail.
    analysis_figures(
        hostile_analysis(["重み<script>", "$\\frac{$", "\x00\u202e", "a" * 999]), tmp_path
    )
    root = ElementTree.parse(tmp_path / "distribution.svg").getroot()
    assert not [node for node in root.iter() if node.tag.endswith(("script", "image", "}a"))]


def test_experts_and_weights_outside_the_layers_are_drawn(tmp_path: Path) -> None:
    made = made_analysis(layers=2, experts=3)
    head = replace(made.weights[0], layer=None, module="lm_head", family="head")
    assert len(analysis_figures(replace(made, weights=(*made.weights, head)), tmp_path)) == 6


def test_what_there_is_nothing_of_is_left_out(tmp_path: Path) -> None:
    made = made_analysis(layers=1)
    bare = [
        replace(w, layer=None, delta=replace(w.delta, singular_values=None)) for w in made.weights
    ]
    written = analysis_figures(replace(made, weights=tuple(bare)), tmp_path)
    assert [path.stem for path in written] == ["distribution"] * 2


@pytest.mark.parametrize("values", [(0.0,) * 8, (1.0,) + (0.0,) * 7])
def test_a_delta_of_zeros_has_a_figure(values: tuple[float, ...], tmp_path: Path) -> None:
    made = made_analysis(layers=1)
    weight = made.weights[0]
    still = replace(
        weight, rows=8, columns=8, delta=replace(weight.delta, singular_values=values),
        bulk=replace(weight.bulk, noise_scale=0.0, edge=0.0), cut=replace(weight.cut, cut=0),
    )  # fmt: skip
    assert len(analysis_figures(replace(made, weights=(still,)), tmp_path)) == 6
