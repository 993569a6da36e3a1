"""Comparisons: numbers worked out by hand, effects that are there found, others not."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_rollouts import counted, drawn, source

from timberkit.errors import OutputExistsError, UsageError
from timberkit.metrics.macro import macro_mean
from timberkit.report.tables import latex, markdown
from timberkit.rollouts import Rollout
from timberkit.study.compare import choose_reference, compare
from timberkit.study.compare_files import comparison_fields, write_comparison
from timberkit.study.compare_tables import all_tables, scores_table
from timberkit.study.compare_words import about_pair
from timberkit.study.comparison import CompareOptions, Comparison
from timberkit.study.rollout_counts import collect


def compared(*models: Sequence[Rollout], **options: object) -> Comparison:
    sources = [(None, source(rows, f"{i}.jsonl")) for i, rows in enumerate(models)]
    return compare(collect(sources), CompareOptions(**options))  # type: ignore[arg-type]


def small(**options: object) -> Comparison:
    """Two models, four problems, four rollouts: c = 4, 2, 1, 0 against 2, 0, 1, 0."""
    return compared(
        list(counted("instruct", 4, [2, 0, 1, 0])),
        list(counted("timber", 4, [4, 2, 1, 0])),
        **options,
    )


def test_scores_are_those_worked_out_by_hand() -> None:
    instruct, timber = small().results
    values = {name: found and found.value for name, found in timber.scores.items()}
    assert values["mean"] == pytest.approx(7 / 16)
    assert values["pass@1"] == pytest.approx(7 / 16)
    # Two of four: 1, 1 - C(2,2)/C(4,2), 1 - C(3,2)/C(4,2), 0.
    assert values["pass@2"] == pytest.approx((1 + 5 / 6 + 1 / 2) / 4)
    assert values["pass@4"] == pytest.approx(3 / 4)
    assert values["cover@0.5"] == pytest.approx(2 / 4)
    assert values["g-pass@4/1"] == pytest.approx(1 / 4)
    # yes x4; yes x2, two others; a tie of four with one right; a tie of four, all wrong.
    assert values["majority@4"] == pytest.approx((1 + 1 + 1 / 4 + 0) / 4)
    assert values["distinct@4"] == pytest.approx((1 + 3 + 4 + 4) / 4)
    entropy = (0 + (0.5 * math.log(2) + 0.5 * math.log(4)) + 2 * math.log(4)) / 4
    assert values["entropy"] == pytest.approx(entropy)
    assert (values["truncated"], values["no_answer"], values["failed"]) == (0, 0, 0)
    assert "output_tokens" not in values
    assert (instruct.problems, instruct.rollouts, instruct.fewest, instruct.most) == (4, 16, 4, 4)


def test_differences_are_the_model_less_the_reference_on_the_same_problems() -> None:
    (pair,) = small().pairs
    assert (pair.model, pair.reference, pair.problems, pair.left_out) == (
        "timber",
        "instruct",
        4,
        0,
    )
    assert [row.k for row in pair.pass_at_k] == [1, 2, 4]
    assert pair.pass_at_k[0].difference.value == pytest.approx(4 / 16)
    assert pair.pass_at_k[2].difference.value == pytest.approx(1 / 4)
    # Two differences, both +1/2: two of four sign patterns reach their sum, one each way.
    assert pair.pass_at_k[0].p_value == pytest.approx(0.5)
    assert pair.pass_at_k[0].verdict == "not distinguishable"
    assert pair.others["majority@4"].value == pytest.approx(
        (1 + 1 + 1 / 4) / 4 - (1 + 0 + 1 / 4) / 4
    )


def test_truncation_format_failures_and_errors_are_kept_apart() -> None:
    base = Rollout("m", "t", "", "p", 1, False, None, stop="stop")
    rows = [
        base,
        replace(base, rollout=2, stop="length"),
        replace(base, rollout=3, stop="error", error="503"),
        replace(base, rollout=4, correct=True, answer="4"),
    ]
    scores = compared(rows).results[0].scores
    for name in ("truncated", "no_answer", "failed"):
        found = scores[name]
        assert found is not None
        assert found.value == 0.25


def test_what_was_not_recorded_is_left_out() -> None:
    bare = [replace(rollout, answer=None, stop="unknown") for rollout in counted("m", 4, [1, 2])]
    names = set(compared(bare).results[0].scores)
    assert not names & {"truncated", "no_answer", "entropy", "majority@4", "output_tokens"}


def test_unequal_rollouts_have_no_pass_at_k_beyond_the_fewest_and_say_so() -> None:
    comparison = compared(list(counted("a", [8, 3], [1, 1])), list(counted("b", [8, 8], [2, 2])))
    (a, b) = comparison.results
    assert a.scores["pass@2"] is not None
    assert a.scores["pass@8"] is None
    assert b.scores["pass@8"] is not None
    (pair,) = comparison.pairs
    assert [row.k for row in pair.pass_at_k] == [1, 2, 3]
    assert not any(name.startswith("cover@") for name in pair.others)
    assert any("a on t: problems have 3 to 8 rollouts" in notice for notice in comparison.notices)
    assert "–" in scores_table(comparison, "t").rows[0]
    fields = comparison_fields(comparison)
    assert fields["results"][0]["scores"]["pass@8"] is None


def test_only_common_problems_are_paired_and_the_rest_is_counted() -> None:
    first = list(counted("a", 2, [1, 1, 1]))
    second = [rollout for rollout in counted("b", 2, [1, 1, 1, 1, 1]) if rollout.problem != "0"]
    comparison = compared(first, second)
    (pair,) = comparison.pairs
    assert (pair.problems, pair.left_out) == (2, 3)
    assert any("2 problems in common; 3 that only one" in notice for notice in comparison.notices)


def test_models_without_a_common_problem_or_task_are_refused() -> None:
    first = list(counted("a", 2, [1, 1]))
    other = [replace(rollout, problem=f"x{rollout.problem}") for rollout in counted("b", 2, [1, 1])]
    with pytest.raises(UsageError, match="'b' and 'a' have no problem in common"):
        compared(first, other)
    with pytest.raises(UsageError, match="'b' and the reference 'a' have no task in common"):
        compared(first, list(counted("b", 2, [1, 1], task="u")))


def test_a_planted_gain_is_found_at_large_k_only() -> None:
    # The second solves ten more problems of sixty, once in a while; the others alike.
    base = [0.9] * 25 + [0.5] * 10 + [0.0] * 25
    wider = [0.9] * 25 + [0.5] * 10 + [0.05] * 15 + [0.0] * 10
    comparison = compared(drawn("instruct", base, 64, seed=1), drawn("timber", wider, 64, seed=2))
    rows = comparison.pairs[0].pass_at_k
    assert rows[0].verdict == "not distinguishable"
    assert rows[-1].verdict == "better"
    assert rows[-1].corrected_p_value < 0.01
    words = " ".join(about_pair(comparison.pairs[0]))
    assert "Pass@1 not distinguishable" in words
    assert "Pass@64 better" in words


def test_models_that_are_alike_are_not_told_apart() -> None:
    generator = np.random.default_rng(5)
    wrong = 0
    for seed in range(12):
        chances = generator.beta(0.3, 1.0, size=30).tolist()
        comparison = compared(
            drawn("a", chances, 16, seed=2 * seed), drawn("b", chances, 16, seed=2 * seed + 1)
        )
        rows = comparison.pairs[0].pass_at_k
        wrong += any(row.verdict != "not distinguishable" for row in rows)
    assert wrong <= 3


def test_a_crossing_is_found_from_the_side_that_is_behind() -> None:
    narrow = [1.0] * 10 + [0.0] * 10
    wide = [0.2] * 20
    comparison = compared(drawn("instruct", narrow, 32, seed=1), drawn("base", wide, 32, seed=2))
    overtaking = comparison.pairs[0].overtaking
    assert overtaking is not None
    assert (overtaking.behind, overtaking.ahead) == ("base", "instruct")
    # 1 - 0.8^k passes one half between 3 and 4.
    assert overtaking.crossing.k is not None
    assert 3 <= overtaking.crossing.k <= 5
    turned = compared(drawn("base", wide, 32, seed=2), drawn("instruct", narrow, 32, seed=1))
    assert turned.reference == "instruct"
    assert turned.pairs[0].overtaking == overtaking


def test_power_tells_what_a_point_would_take() -> None:
    generator = np.random.default_rng(0)
    chances = generator.beta(0.5, 0.5, size=50).tolist()
    comparison = compared(
        drawn("a", chances, 8, seed=1), drawn("b", chances, 8, seed=2), points=2.0
    )
    first = comparison.pairs[0].power[0]
    assert (first.k, first.points) == (1, 2.0)
    assert first.resolvable > 0.02
    assert first.problems_needed > 50
    words = " ".join(about_pair(comparison.pairs[0]))
    assert "2 points would take" in words


def test_rollouts_drawn_with_the_same_seeds_are_not_taken_for_independent() -> None:
    chances = np.random.default_rng(0).beta(0.5, 0.5, size=60).tolist()
    first = drawn("a", chances, 16, seed=1)
    apart = compared(first, drawn("b", chances, 16, seed=2)).pairs[0]
    assert not any(power.coupled for power in apart.power)
    # The same randomness, another answer now and then: far better known than the noise says.
    same = [
        replace(rollout, model="b", correct=rollout.correct and i % 97 != 0)
        for i, rollout in enumerate(first)
    ]
    pair = compared(first, same).pairs[0]
    assert pair.power[0].coupled
    assert pair.power[0].resolvable < apart.power[0].resolvable / 3
    assert pair.power[0].rollouts_needed is None
    assert "(same seeds, nearly the same answers)" in " ".join(about_pair(pair))


def test_one_rollout_a_problem_still_compares() -> None:
    comparison = compared(list(counted("a", 1, [1, 0, 1, 0])), list(counted("b", 1, [1, 1, 1, 0])))
    (pair,) = comparison.pairs
    assert (pair.overtaking, pair.power) == (None, ())
    assert pair.pass_at_k[0].difference.value == 0.25
    assert about_pair(pair)


def test_identical_models_are_not_distinguishable_and_need_no_power() -> None:
    rows = list(counted("a", 4, [4, 4]))
    comparison = compared(rows, [replace(rollout, model="b") for rollout in rows])
    (pair,) = comparison.pairs
    assert pair.power == ()
    assert {row.verdict for row in pair.pass_at_k} == {"not distinguishable"}
    assert "does not pass" in " ".join(about_pair(pair))


def test_chosen_ks_are_those_and_ones_too_large_are_said() -> None:
    comparison = small(ks=(1, 3, 9))
    assert comparison.plans["t"].ks == (1, 3, 9)
    assert [row.k for row in comparison.pairs[0].pass_at_k] == [1, 3]
    assert "instruct on t: 4 rollouts; no Pass@k for k = 9" in comparison.notices
    none = small(ks=(9,))
    assert none.pairs[0].pass_at_k == ()
    assert about_pair(none.pairs[0])


def test_the_reference_is_instruct_by_name_or_the_first() -> None:
    assert choose_reference(["a", "Instruct", "instruct-timber"], None) == "Instruct"
    assert choose_reference(["base", "qwen-instruct", "timber"], None) == "qwen-instruct"
    assert choose_reference(["b", "instruct-1", "instruct-2"], None) == "b"
    assert choose_reference(["a", "b"], "b") == "b"
    with pytest.raises(UsageError, match="--reference 'c': is none of the models"):
        choose_reference(["a", "b"], "c")


def test_averages_are_over_tasks_that_all_models_have() -> None:
    a = [*counted("a", 2, [2, 0]), *counted("a", 2, [1, 1, 1], task="u")]
    b = [*counted("b", 2, [2, 2]), *counted("b", 2, [1, 1, 1], task="u")]
    comparison = compared(a, [*b, *counted("b", 2, [0], task="only b")])
    assert comparison.average_over == ("t", "u")
    first, second = comparison.averages
    assert (first.mean.value, second.mean.value) == (0.5, 0.75)
    assert first.difference is None
    assert second.difference is not None
    assert second.difference.value == 0.25
    assert any("not every model has only b" in notice for notice in comparison.notices)
    assert compared(a).average_over == ("t", "u")
    assert small().averages == ()


def test_the_macro_mean_counts_every_task_the_same() -> None:
    found = macro_mean([[0.0, 1.0], [0.5] * 100])
    assert found.value == 0.5
    # Only the first varies: its mean is 0, 1/2 or 1, and half of that moves.
    assert (found.low, found.high) == (0.25, 0.75)
    equal = macro_mean([np.linspace(0, 1, 50)] * 2, seed=3)
    single = macro_mean([np.linspace(0, 1, 50)], seed=3)
    # Two tasks of equal problems are drawn apart: narrower by the root of two.
    ratio = (equal.high - equal.low) / (single.high - single.low)
    assert ratio == pytest.approx(2**-0.5, rel=0.05)
    with pytest.raises(ValueError, match="found none"):
        macro_mean([])


def test_files_hold_everything_and_are_the_same_bytes_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        write_comparison(small(), tmp_path / name)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two
    assert set(one) == {
        "comparison.json", "differences.parquet", "pass_at_k.csv", "pass_at_k.parquet",
        "pass_at_k_t.png", "pass_at_k_t.svg", "tables.md", "tables.tex", "timberkit.json",
    }  # fmt: skip
    fields = json.loads(one["comparison.json"])
    assert fields == comparison_fields(small())
    assert fields["pairs"][0]["pass_at_k"][0]["verdict"] == "not distinguishable"
    curves = pq.read_table(tmp_path / "one" / "pass_at_k.parquet").to_pylist()
    assert [row["k"] for row in curves if row["model"] == "timber"] == [1, 2, 4]
    differences = pq.read_table(tmp_path / "one" / "differences.parquet").to_pylist()
    assert {row["score"] for row in differences} >= {"pass@1", "mean", "majority@4"}


def test_another_seed_gives_other_intervals_and_the_same_values() -> None:
    first, second = small(seed=0), small(seed=1)
    values = [
        [found.value for found in c.results[1].scores.values() if found] for c in (first, second)
    ]
    assert values[0] == values[1]
    wide, narrow = small(confidence=0.99), small(confidence=0.5)
    spans = [
        c.pairs[0].pass_at_k[0].simultaneous.high - c.pairs[0].pass_at_k[0].simultaneous.low
        for c in (wide, narrow)
    ]
    assert spans[0] > spans[1]


def test_an_output_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    write_comparison(small(), tmp_path / "out")
    before = (tmp_path / "out" / "comparison.json").read_bytes()
    with pytest.raises(OutputExistsError):
        write_comparison(small(seed=1), tmp_path / "out")
    assert (tmp_path / "out" / "comparison.json").read_bytes() == before
    write_comparison(small(seed=1), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "comparison.json").read_bytes() != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(OutputExistsError, match="was not made by timberkit"):
        write_comparison(small(), tmp_path / "mine", overwrite=True)


HOSTILE = ["=cmd|'/C calc'!A0", "a|b`c`\n# h", "$x^2$ 100% \\input{/etc/passwd} a_b & {~}"]


def test_hostile_names_are_shown_as_text_in_every_form(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    models = [
        [replace(rollout, model=name, task="<img src=x>/../\x1b[31m") for rollout in
         counted("m", 4, [2, 1])]
        for name in HOSTILE
    ]  # fmt: skip
    comparison = compared(*models)
    write_comparison(comparison, tmp_path / "out")
    text = (tmp_path / "out" / "tables.md").read_text()
    assert "\x1b" not in text
    assert "<img" not in text.replace("\\<img", "")
    assert r"a\|b\`c\`\\u000a\# h" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in rows[:5]}) == 1
    tex = (tmp_path / "out" / "tables.tex").read_text()
    assert r"\textbackslash{}input\{/etc/passwd\}" in tex
    assert r"\$x\textasciicircum{}2\$ 100\%" in tex
    csv = (tmp_path / "out" / "pass_at_k.csv").read_text()
    assert "\n=cmd" not in csv
    assert sorted(path.name for path in (tmp_path / "out").glob("*.svg")) == [
        "pass_at_k_img_src_x_31m.svg"
    ]


def test_tables_of_words_have_one_width() -> None:
    for table in all_tables(small()):
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert markdown(all_tables(small())).count("### ") == 3
    assert latex(all_tables(small())).count(r"\begin{tabular}") == 3
