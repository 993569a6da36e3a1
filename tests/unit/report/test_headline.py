"""The first lines of the page say what the summary says."""

from __future__ import annotations

from typing import Any

import pytest
from made_analysis import made_analysis

from timberkit.measurements import Analysis
from timberkit.report.headline import NUMBERS, headline, shown, side_by_side


def summary_with(**changes: Any) -> Analysis:
    """An analysis whose summary says something else of the whole model."""
    analysis = made_analysis(layers=1)
    model = {**analysis.summary["model"], **changes}
    return Analysis("t", {}, {"model": model}, analysis.weights)


def spread(value: float) -> dict[str, float]:
    return {"mean": value, "median": value}


def test_every_number_is_one_of_the_summary() -> None:
    analysis = made_analysis(layers=3)
    found = headline(analysis)
    for key in NUMBERS:
        value: Any = analysis.summary["model"]
        for word in key.split("."):
            value = value[word]
        assert found.numbers[key] == (value["mean"], value["median"])
    assert found.extent == "21 matrices in 3 layers"


@pytest.mark.parametrize(
    ("delta", "said"),
    [(0.8, "more concentrated"), (0.905, "looks like random noise"), (0.95, "more evenly")],
)
def test_the_delta_is_judged_beside_noise(delta: float, said: str) -> None:
    analysis = summary_with(delta_ratio=spread(delta), null_ratio=spread(0.9))
    title, text = headline(analysis).verdicts[1]
    assert said in title
    assert f"{delta:.3f} of full rank, noise has 0.900" in text


@pytest.mark.parametrize(
    ("times", "said"), [(5.0, "stands clear"), (2.0, "of the order"), (0.5, "drowns")]
)
def test_the_correction_is_judged_beside_rounding(times: float, said: str) -> None:
    rounding = made_analysis(layers=1).summary["model"]["rounding"]
    analysis = summary_with(rounding={**rounding, "correction_over_rounding": times})
    title, text = headline(analysis).verdicts[3]
    assert said in title
    assert f"{times:.1f} times the error of storing it" in text


def test_what_cannot_be_judged_is_said_so() -> None:
    rounding = made_analysis(layers=1).summary["model"]["rounding"]
    for changed, said in (
        (None, "not measured"),
        ({**rounding, "corrected": 0}, "changes nothing"),
        ({**rounding, "correction_over_rounding": None}, "without rounding"),
    ):
        assert said in headline(summary_with(rounding=changed)).verdicts[3][0]


def test_no_spikes_and_no_lost_matrix_are_said_in_words() -> None:
    rounding = made_analysis(layers=1).summary["model"]["rounding"]
    analysis = summary_with(spikes=spread(0.0), rounding={**rounding, "below_rounding": 0})
    verdicts = headline(analysis).verdicts
    assert "No direction stands above the random bulk." in verdicts[1][1]
    assert "larger in no matrix" in verdicts[3][1]


def test_side_by_side_leaves_out_what_no_run_measured() -> None:
    full, bare = (headline(made_analysis(layers=1, measured=m)) for m in (True, False))
    assert len(side_by_side([bare])) == len(NUMBERS) - 2
    both = dict(side_by_side([full, bare]))
    assert both["Rounding error, over the correction"][1] == ("–", "–")


def test_numbers_are_shown_in_the_words_of_their_kind() -> None:
    assert shown(0.85512, "ratio") == "0.855"
    assert shown(0.0123, "share") == "1.23\u00a0%"
    assert [shown(x, "count") for x in (12.0, 9.4, None)] == ["12", "9.4", "–"]
