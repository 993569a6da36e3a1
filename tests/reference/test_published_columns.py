"""Every published number of a pair stands in its tables, in the right cell, beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from timberkit.findings import PaperTable
from timberkit.pairs import PAIRS, Pair
from timberkit.study.published import published
from timberkit.study.reproduce.catalogue import catalogue
from timberkit.study.reproduce.effects import Drawing
from timberkit.study.reproduce.paper_tables import Measured, paper_tables
from timberkit.study.reproduce.protocol import protocol, temperatures
from timberkit.study.reproduce.scores import Scores
from timberkit.study_recipe import build_study_recipe

ON_PAPER = [pair for pair in PAIRS if pair.paper_model is not None]


def tables_of(pair: Pair) -> dict[str, PaperTable]:
    """The tables of a study of this pair whose models all score the same."""
    recipe = build_study_recipe({"pair": pair.name, "base": pair.base, "instruct": pair.instruct})
    entries = catalogue(recipe, temperatures(recipe))
    benchmarks = protocol(recipe, pair)
    scores = {}
    for bench in benchmarks:
        rollouts = bench.task.rollouts or 1
        n = np.full(6, rollouts)
        c = np.array([0, 1, rollouts // 2, rollouts // 3, rollouts, 0])
        for entry in entries:
            if bench.is_put_to(entry):
                scores[entry.key, bench.key] = Scores(tuple("abcdef"), None, n, c)
    measured = Measured(
        entries, benchmarks, scores, published(), pair.paper_model, "timber_lam0.5",
        Drawing(resamples=50),
    )  # fmt: skip
    return {table.key: table for table in paper_tables(measured)}


def column(table: PaperTable, name: str) -> dict[str, float | None]:
    place = table.columns.index(name)
    return {row.label: row.cells[place].published for row in table.rows}


def line(table: PaperTable, label: str) -> list[float | None]:
    (row,) = [row for row in table.rows if row.label == label]
    return [cell.published for cell in row.cells]


@pytest.mark.parametrize("pair", ON_PAPER, ids=lambda pair: pair.name)
def test_tables_2_and_5_have_the_published_averages_of_the_pair(pair: Pair) -> None:
    tables = tables_of(pair)
    assert (
        column(tables["table-2"], "Average") == published()["mean_at_k_table_2"][pair.paper_model]
    )
    sweep = published()["lambda_sweep_table_5"][pair.paper_model]
    assert line(tables["table-5"], "Average") == [
        sweep[name] for name in ("instruct", "0.0", "0.2", "0.5", "0.8")
    ]
    ours = [cell.ours for row in tables["table-5"].rows for cell in row.cells]
    assert all(interval is not None for interval in ours)


@pytest.mark.parametrize("pair", ON_PAPER, ids=lambda pair: pair.name)
def test_figure_4_has_the_published_lambdas_where_the_paper_shows_them(pair: Pair) -> None:
    figure = tables_of(pair)["figure-4"]
    shown: Mapping[str, Any] = published()["thinking_lambda_figure_4"].get(pair.paper_model, {})
    for label, name in (("AIME'24, thinking", "AIME24"), ("HumanEval, thinking", "HumanEval")):
        if shown:
            wanted = [shown[name][key] for key in ("instruct", "0.0", "0.2", "0.5", "0.8")]
            assert line(figure, label) == wanted
    if not shown:
        assert all(cell.published is None for row in figure.rows for cell in row.cells)


def test_table_3_has_energies_and_averages_of_its_model_and_of_no_other() -> None:
    by_name = {pair.name: pair for pair in ON_PAPER}
    table = tables_of(by_name["qwen3-8b"])["table-3"]
    truth = published()["truncation_table_3"]
    wanted = {"Timber": truth["Timber"]["average"]}
    energy: dict[str, float] = {"Timber": truth["Timber"]["energy"]}
    for row in truth["Truncate-R"]:
        wanted[f"Truncate-R {row['rank_ratio']:g}"] = row["average"]
        energy[f"Truncate-R {row['rank_ratio']:g}"] = row["energy"]
    for row in truth["Truncate-E"]:
        wanted[f"Truncate-E {row['energy']:g} %"] = row["average"]
        energy[f"Truncate-E {row['energy']:g} %"] = row["energy"]
    assert column(table, "Average") == wanted
    assert column(table, "Energy kept") == energy
    other = tables_of(by_name["qwen3-14b"])["table-3"]
    assert set(column(other, "Average").values()) == {None}


def test_figure_5_has_the_published_curves_at_their_own_k() -> None:
    (pair,) = [pair for pair in ON_PAPER if pair.name == "qwen3-0.6b"]
    tables = tables_of(pair)
    for key, name in (
        ("figure-5-aime24-released-thinking", "AIME24"),
        ("figure-5-gpqa-diamond-released-thinking", "GPQA-Diamond"),
    ):
        truth = published()["pass_at_k_qwen3_0_6b_thinking"][name]
        table = tables[key]
        assert table.axis == tuple(map(float, truth["k"]))
        for method in ("Instruct", "Timber-L", "Timber"):
            assert line(table, method) == truth[method]
        assert set(line(table, "Base")) == {None}
        assert all(cell.ours is not None for row in table.rows for cell in row.cells)


@pytest.mark.parametrize("pair", ON_PAPER, ids=lambda pair: pair.name)
def test_every_table_says_where_its_published_numbers_stand(pair: Pair) -> None:
    for table in tables_of(pair).values():
        assert "2509.23595" in table.source
        assert table.over


def test_a_pair_that_is_not_in_the_paper_has_only_ours() -> None:
    (pair,) = [pair for pair in PAIRS if pair.paper_model is None]
    recipe = build_study_recipe({"pair": pair.name, "base": pair.base, "instruct": pair.instruct})
    benchmarks = protocol(recipe)
    entries = catalogue(recipe)
    p = np.linspace(0.1, 0.9, 5)
    scores = {
        (entry.key, bench.key): Scores(tuple("abcde"), p)
        for entry in entries
        for bench in benchmarks[:2]
    }
    measured = Measured(entries, benchmarks, scores, published(), None, "timber_lam0.2",
                        Drawing(resamples=50))  # fmt: skip
    found = paper_tables(measured)
    assert {table.key.split("-sapling")[0] for table in found} == {
        "table-2", "table-3", "table-5", "figure-5", "figure-6",
    }  # fmt: skip
    cells = [cell for table in found for row in table.rows for cell in row.cells]
    assert {cell.published for cell in cells} == {None}
