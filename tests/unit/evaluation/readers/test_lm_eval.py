"""Samples as lm-evaluation-harness 0.4.13 writes them, with every kind of metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from timberkit.errors import InputError, UsageError
from timberkit.evaluation.readers import read_any
from timberkit.rollouts import Rollout

DATE = "2026-08-11T02-03-04.123456"


def sample(doc_id: int, **fields: Any) -> dict[str, Any]:
    """A line as ``save_results_samples`` writes it."""
    metrics = [name for name in fields if name not in ("resps", "filtered_resps", "filter")]
    return {
        "doc_id": doc_id,
        "doc": {"question": "2+2?"},
        "target": "4",
        "arguments": {"gen_args_0": {"arg_0": "2+2?", "arg_1": {"until": ["\n"]}}},
        "resps": [["so 4"]],
        "filtered_resps": ["4"],
        "filter": "strict-match",
        "metrics": metrics,
        "doc_hash": "0123456789abcdef",
        "prompt_hash": "1" * 64,
        "target_hash": "2" * 64,
        **fields,
    }


def write(folder: Path, lines: list[dict[str, Any]], *, task: str = "gsm8k") -> Path:
    """``<folder>/org__model/samples_<task>_<date>.jsonl`` with the results beside it."""
    own = folder / "org__model"
    own.mkdir(parents=True, exist_ok=True)
    results = {"results": {task: {"alias": task}}, "model_name": "org/model"}
    (own / f"results_{DATE}.json").write_text(json.dumps(results, indent=2))
    path = own / f"samples_{task}_{DATE}.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def rollouts(path: Path, *scorers: str) -> list[Rollout]:
    return list(read_any(path, scorers).rollouts)


def test_exact_match_gives_grade_answer_and_names(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        [
            sample(0, exact_match=1.0),
            sample(1, exact_match=0.0, filtered_resps=["[invalid]"]),
        ],
        task="gsm8k_cot_zeroshot",
    )
    first, second = rollouts(path)
    assert first == Rollout(
        "org/model", "gsm8k_cot_zeroshot", "", "0:01234567", 1, True, "4", stop="unknown"
    )
    assert (second.correct, second.answer) == (False, None)


def test_a_folder_holds_many_models_and_tasks(tmp_path: Path) -> None:
    write(tmp_path, [sample(0, exact_match=1.0)])
    write(tmp_path, [sample(0, acc=0.0, filter="none")], task="other_task")
    found = rollouts(tmp_path)
    assert [(rollout.task, rollout.correct) for rollout in found] == [
        ("gsm8k", True),
        ("other_task", False),
    ]


def test_without_results_the_model_is_named_as_its_folder(tmp_path: Path) -> None:
    path = write(tmp_path, [sample(0, exact_match=1)])
    for results in path.parent.glob("results_*.json"):
        results.write_text("[1, 2")
    assert rollouts(path)[0].model == "org__model"


def test_two_filters_are_two_scorers_named_as_in_the_results(tmp_path: Path) -> None:
    lines = [
        sample(0, exact_match=0.0),
        sample(0, exact_match=1.0, filter="flexible-extract"),
    ]
    path = write(tmp_path, lines)
    with pytest.raises(
        UsageError, match="'exact_match,strict-match', 'exact_match,flexible-extract'"
    ):
        rollouts(path)
    assert [r.correct for r in rollouts(path, "exact_match,strict-match")] == [False]
    assert [r.correct for r in rollouts(path, "flexible-extract")] == [True]


def test_ifeval_is_judged_by_prompt_not_by_instruction(tmp_path: Path) -> None:
    lines = [
        sample(
            i,
            filter="none",
            prompt_level_strict_acc=i == 0,
            inst_level_strict_acc=[True, i == 0],
            prompt_level_loose_acc=True,
            inst_level_loose_acc=[True, True],
        )
        for i in range(3)
    ]
    path = write(tmp_path, lines, task="ifeval")
    found = rollouts(path, "prompt_level_strict_acc")
    assert [rollout.correct for rollout in found] == [True, False, False]
    # The whole text is no answer that could be voted on.
    assert {rollout.answer for rollout in found} == {None}
    with pytest.raises(UsageError, match="prompt_level_loose_acc,none") as error:
        rollouts(path)
    assert "inst_level" not in str(error.value)


def test_multiple_choice_has_grades_and_no_answers(tmp_path: Path) -> None:
    line = sample(
        3,
        filter="none",
        resps=[[["-1.5", "False"]], [["-0.5", "True"]]],
        filtered_resps=[["-1.5", "False"], ["-0.5", "True"]],
        acc=1.0,
        acc_norm=0.0,
    )
    path = write(tmp_path, [line], task="hellaswag")
    (found,) = rollouts(path, "acc_norm")
    assert (found.correct, found.answer) == (False, None)


def test_pass_at_1_of_many_repeats_is_worked_back_to_counts(tmp_path: Path) -> None:
    lines = [
        sample(
            i,
            filter="create_test",
            resps=[["code"] * 10],
            filtered_resps=[["def f(): pass"] * 10],
            **{"pass@1": right / 10, "pass@5": 1.0},
        )
        for i, right in enumerate([0, 3, 10])
    ]
    path = write(tmp_path, lines, task="humaneval_10")
    found = rollouts(path)
    assert [sum(r.correct for r in found if r.problem.startswith(f"{i}:")) for i in range(3)] == [
        0,
        3,
        10,
    ]
    assert [rollout.rollout for rollout in found[:10]] == list(range(1, 11))


def test_pass_at_2_is_worked_back_where_it_is_unambiguous(tmp_path: Path) -> None:
    # 1 - C(7, 2) / C(10, 2) = 1 - 21 / 45: three of ten were right.
    good = sample(0, filter="f", resps=[["c"] * 10], **{"pass@2": 1 - 21 / 45})
    path = write(tmp_path, [good])
    assert sum(rollout.correct for rollout in rollouts(path)) == 3
    both = sample(1, filter="f", resps=[["c"] * 10], **{"pass@2": 1.0})
    with pytest.raises(InputError, match="no metric that says of each answer"):
        rollouts(write(tmp_path, [good, both]))


def test_a_list_of_grades_is_one_for_each_repeat(tmp_path: Path) -> None:
    line = sample(0, resps=[["a", "b", "c"]], filtered_resps=[["4", "5", "4"]], em=[1, 0, 1])
    found = rollouts(write(tmp_path, [line]))
    assert [(r.rollout, r.correct, r.answer) for r in found] == [
        (1, True, "4"),
        (2, False, "5"),
        (3, True, "4"),
    ]


def test_repeats_of_which_one_is_graded_are_said(tmp_path: Path) -> None:
    lines = [sample(i, resps=[["a", "b", "c", "d"]], exact_match=1.0) for i in range(2)]
    source = read_any(write(tmp_path, lines))
    assert len(list(source.rollouts)) == 2
    assert "2 problems have several answers, of which the log grades one" in source.notices[0]


def test_metrics_that_grade_nothing_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, [sample(0, bleu=0.37, word_perplexity=[-1.5, 3])])
    with pytest.raises(InputError, match=r"metrics: bleu,strict-match, word_perplexity"):
        rollouts(path)


def test_a_grade_that_changes_its_kind_is_refused_with_its_line(tmp_path: Path) -> None:
    lines = [sample(i, exact_match=1.0) for i in range(300)]
    lines[250]["exact_match"] = "yes"
    path = write(tmp_path, lines)
    with pytest.raises(InputError, match=r"line 251: exact_match: found 'yes'"):
        rollouts(path)


def test_two_evaluations_of_one_model_are_not_mixed(tmp_path: Path) -> None:
    path = write(tmp_path, [sample(0, exact_match=1.0)])
    later = path.with_name(f"samples_gsm8k_{DATE.replace('2026', '2027')}.jsonl")
    later.write_bytes(path.read_bytes())
    (path.parent / f"results_{DATE}.json").unlink()
    with pytest.raises(InputError, match="is a second evaluation of org__model on gsm8k"):
        rollouts(tmp_path)


def test_other_data_is_another_problem(tmp_path: Path) -> None:
    first = rollouts(write(tmp_path / "a", [sample(0, exact_match=1)]))[0]
    other = rollouts(write(tmp_path / "b", [sample(0, exact_match=1) | {"doc_hash": "f" * 64}]))[0]
    assert first.problem != other.problem


def test_the_results_file_itself_is_refused_with_advice(tmp_path: Path) -> None:
    path = write(tmp_path, [sample(0, exact_match=1)])
    with pytest.raises(InputError, match="holds means only; give the samples"):
        read_any(path.parent / f"results_{DATE}.json")
