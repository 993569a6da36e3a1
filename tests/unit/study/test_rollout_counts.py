"""Rollouts of many sources become counts; nothing counts twice, nothing is mixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_rollouts import counted, source

from timberkit.errors import InputError, UsageError
from timberkit.rollouts import Rollout
from timberkit.study.rollout_counts import collect

ONE = Rollout("m", "t", "", "p", 1, True, "4", stop="stop", output_tokens=10)


def test_counts_by_problem_in_sorted_order() -> None:
    rollouts = [*counted("m", [3, 2], [1, 2]), Rollout("m", "t", "", "10", 5, False, None)]
    counts = collect([(None, source(reversed(rollouts)))]).counts["m", "t"]
    assert counts.problems == ("0", "1", "10")
    assert counts.n.tolist() == [3, 2, 1]
    assert counts.c.tolist() == [1, 2, 0]
    assert (counts.fewest, counts.most) == (1, 3)
    assert counts.right == ((True, False, False), (True, True), (False,))
    assert counts.answers == (("yes", "no 2", "no 3"), ("yes", "yes"), (None,))


def test_tokens_are_means_of_what_is_known() -> None:
    rows = [ONE, replace(ONE, rollout=2, output_tokens=20), replace(ONE, rollout=3)]
    rows[2] = replace(rows[2], output_tokens=None)
    counts = collect([(None, source(rows))]).counts["m", "t"]
    assert counts.output_tokens.tolist() == [15.0]
    assert np.isnan(counts.input_tokens).all()


def test_what_no_log_recorded_is_none_and_not_zero() -> None:
    bare = replace(ONE, answer=None, stop="unknown")
    counts = collect([(None, source([bare]))]).counts["m", "t"]
    assert counts.answers is None
    assert counts.truncated is None
    recorded = source([bare])
    recorded.answers_recorded = True
    assert collect([(None, recorded)]).counts["m", "t"].answers == ((None,),)


def test_a_name_renames_the_only_model_and_stands_before_several() -> None:
    one = source([ONE])
    two = source([ONE, replace(ONE, model="other")])
    assert collect([("new", one), ("run", two)]).models == ("new", "run/m", "run/other")


def test_the_same_rollout_from_two_sources_counts_once_and_is_said() -> None:
    again = replace(ONE, seconds=3.0, reason="other words")
    found = collect([(None, source([ONE], "a")), (None, source([again], "b"))])
    assert found.counts["m", "t"].n.tolist() == [1]
    assert found.notices == ("b: 1 rollouts are also in a; they count once",)


@pytest.mark.parametrize("change", [{"correct": False}, {"answer": "5"}, {"stop": "length"}])
def test_two_contents_of_one_rollout_are_an_error_that_names_both(
    change: dict[str, object],
) -> None:
    other = replace(ONE, **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"a and b: two different rollouts are model 'm'"):
        collect([(None, source([ONE], "a")), (None, source([other], "b"))])
    with pytest.raises(InputError, match=r"^a: two different rollouts"):
        collect([(None, source([ONE, other], "a"))])
    assert collect([("x", source([ONE])), ("y", source([other]))]).models == ("x", "y")


def test_an_answer_takes_the_place_of_a_failed_request_in_any_order() -> None:
    failed = replace(ONE, correct=False, answer=None, stop="error", error="503")
    for first, second in ((failed, ONE), (ONE, failed)):
        counts = collect([(None, source([first])), (None, source([second]))]).counts["m", "t"]
        assert (counts.c.tolist(), counts.failed) == ([1], ((False,),))


def test_settings_of_one_task_are_tasks_of_their_own() -> None:
    rows = [ONE, replace(ONE, setting="paper")]
    assert collect([(None, source(rows))]).tasks == ("t:", "t:paper")
    assert collect([(None, source(rows[1:]))]).tasks == ("t",)
    assert collect([(None, source(rows))], tasks=["t:paper"]).tasks == ("t:paper",)
    assert collect([(None, source(rows))], tasks=["t"]).tasks == ("t:", "t:paper")


def test_only_the_models_and_tasks_wanted() -> None:
    rows = [replace(ONE, model=m, task=t) for m in "ab" for t in ("x", "y")]
    found = collect([(None, source(rows))], models=["b"], tasks=["y"])
    assert (found.models, found.tasks, list(found.counts)) == (("b",), ("y",), [("b", "y")])
    with pytest.raises(UsageError, match=r"model 'c': is in none of the sources, expected of a, b"):
        collect([(None, source(rows))], models=["c"])
    with pytest.raises(UsageError, match="task 'z'"):
        collect([(None, source(rows))], tasks=["z"])


def test_nothing_at_all_is_an_error() -> None:
    with pytest.raises(UsageError, match="found no rollouts"):
        collect([(None, source([], "empty"))])


def test_long_names_are_refused_and_long_answers_kept_apart() -> None:
    with pytest.raises(InputError, match=r"model 'xxx.*found 1000 characters"):
        collect([(None, source([replace(ONE, model="x" * 1000)]))])
    long = [replace(ONE, rollout=i, answer="9" * 1000 + str(i)) for i in (1, 2)]
    ((first, second),) = collect([(None, source(long))]).counts["m", "t"].answers or ()
    assert first != second
    assert first is not None
    assert len(first) < 200
