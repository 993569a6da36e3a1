"""Which problems and rollouts are looked at: the same ones each time, within bounds."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import pytest
from made_cases import CHANCES, again, made_collection, made_rollouts, texts_of
from made_rollouts import counted

from timberkit.errors import UsageError
from timberkit.report import cases as module
from timberkit.report.cases import collect_cases, keep_text
from timberkit.rollouts import Rollout


def numbers(collection: module.CaseCollection, problem: int, model: str) -> list[int]:
    return [one.rollout for one in collection.cases[problem].models[model].shown]


def test_counts_are_over_all_rollouts_and_texts_of_a_few() -> None:
    collection = made_collection()
    assert collection.tasks == {"aime24": 6}
    assert [case.why for case in collection.cases] == ["all"] * 6
    found = collection.cases[0].models["instruct"]
    assert (found.n, found.c, found.first_right, found.rate) == (10, 6, 1, 0.6)
    assert "The answer is" in found.shown[0].response.text
    assert found.shown[0].reasoning.text
    assert collection.cases[1].models["instruct"].first_right is None
    assert collection.cases[0].text.target == "100"


@pytest.mark.parametrize(
    ("c", "most", "expected"),
    [
        (5, 4, [1, 2, 6, 7]),
        (1, 4, [1, 2, 3, 4]),
        (9, 4, [1, 2, 3, 10]),
        (10, 4, [1, 2, 3, 4]),
        (0, 3, [1, 2, 3]),
        (5, 1, [1]),
        (0, 1, [1]),
        (5, 3, [1, 2, 6]),
        (10, 20, [*range(1, 11)]),
    ],
)
def test_the_first_right_and_the_first_wrong_rollouts_are_shown(
    c: int, most: int, expected: list[int]
) -> None:
    collection = collect_cases(
        again(list(counted("m", 10, [c]))), reference="m", rollouts_each=most
    )
    assert numbers(collection, 0, "m") == expected


def test_the_order_of_the_rollouts_does_not_matter() -> None:
    rollouts = made_rollouts()
    shuffled = random.Random(4).sample(rollouts, len(rollouts))
    one, other = (made_collection(each, most_cases=4) for each in (rollouts, shuffled))
    assert {case.problem: case.why for case in one.cases} == {
        case.problem: case.why for case in other.cases
    }
    by_problem = {case.problem: case for case in other.cases}
    for case in one.cases:
        assert case.models == by_problem[case.problem].models
    assert one == made_collection(rollouts, most_cases=4)


def test_of_too_many_problems_the_telling_ones_and_some_by_lot_are_taken() -> None:
    a, b = [5] * 100, [5] * 100
    for place in range(10):
        b[place] = 10  # changed
    a[20:23], b[20:23] = [0] * 3, [1] * 3  # only b
    rollouts = [*counted("a", 10, a), *counted("b", 10, b)]
    collection = collect_cases(again(rollouts), reference="a", most_cases=24)
    why = {int(case.problem): case.why for case in collection.cases}
    assert len(why) == 24
    assert collection.tasks == {"t": 100}
    assert {place for place in range(10) if why.get(place) == "changed"} == set(range(10))
    assert set(range(20, 23)) <= set(why)
    drawn = {place for place, reason in why.items() if reason == "random"}
    assert drawn - set(range(10)) - set(range(20, 23))
    other = collect_cases(again(rollouts), reference="a", most_cases=24, seed=1)
    assert {int(case.problem) for case in other.cases if case.why == "random"} != drawn


def test_small_benchmarks_are_shown_whole_and_leave_their_room_to_large_ones() -> None:
    rollouts = [
        *counted("m", 1, [1] * 3, task="small"),
        *counted("m", 1, [1] * 50, task="large"),
        *counted("m", 1, [1] * 50, task="huge"),
    ]
    collection = collect_cases(again(rollouts), reference="m", most_cases=21)
    shown = [case.task for case in collection.cases]
    assert {task: shown.count(task) for task in collection.tasks} == {
        "small": 3, "large": 9, "huge": 9,
    }  # fmt: skip


def test_settings_of_a_benchmark_are_told_apart_and_share_their_prompts() -> None:
    rollouts = [
        *counted("m", 1, [1], task="math", setting="paper"),
        *counted("m", 1, [1], task="math", setting="released"),
    ]
    texts = {
        ("math", "0"): module.ProblemText("both"),
        ("math:paper", "0"): module.ProblemText("paper"),
    }
    collection = collect_cases(again(rollouts), texts, reference="m")
    assert [(case.task, case.text.prompt) for case in collection.cases] == [
        ("math:paper", "paper"),
        ("math:released", "both"),
    ]


def test_the_model_beside_the_reference_is_the_one_that_solves_most() -> None:
    assert made_collection().focus == "timber"
    assert made_collection(focus="base").focus == "base"
    alone = made_collection(models=["instruct"])
    assert (alone.models, alone.focus) == (("instruct",), "instruct")
    assert made_collection(models=["timber", "instruct"]).models == ("timber", "instruct")


def test_models_need_not_have_been_asked_the_same() -> None:
    rollouts = [*counted("a", 2, [1, 1, 1]), *counted("b", 2, [0])]
    collection = collect_cases(again(rollouts), reference="b", most_cases=2)
    assert [len(case.models) for case in collection.cases].count(2) <= 1


@pytest.mark.parametrize(
    "options", [{"reference": "none"}, {"focus": "none"}, {"models": ["none"]}]
)
def test_a_model_without_rollouts_is_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="has no rollouts, expected one of"):
        made_collection(**({"reference": "instruct"} | options))  # type: ignore[arg-type]


def test_an_answer_of_ten_megabytes_is_cut_and_says_so() -> None:
    kept = keep_text("begin " + "x" * 10_000_000 + " end")
    assert kept.left_out == 10_000_010 - module.MOST_TEXT_CHARACTERS
    assert kept.text.startswith("begin x")
    assert kept.text.endswith("x end")
    assert f"[… {kept.left_out:,} characters left out …]" in kept.text
    assert len(kept.text) < module.MOST_TEXT_CHARACTERS + 100
    assert keep_text("\ud800 whole").text == "\ud800 whole"


def test_what_was_generated_is_shown_where_its_parts_are_not_known() -> None:
    one = Rollout("m", "t", "", "p", 1, True, "a", text="all of it")
    shown = collect_cases(again([one]), reference="m").cases[0].models["m"].shown[0]
    assert (shown.response.text, shown.reasoning.text) == ("all of it", "")


def test_many_texts_share_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CHARACTERS", 10_000)
    monkeypatch.setattr(module, "FEWEST_TEXT_CHARACTERS", 50)
    collection = made_collection()
    for case in collection.cases:
        for model in case.models.values():
            for one in model.shown:
                assert one.response.left_out
                assert len(one.response.text) < 200


def test_memory_does_not_grow_with_rollouts() -> None:
    def stream(n: int) -> module.Rollouts:
        def read(*, texts: bool) -> Iterator[Rollout]:
            for problem in range(5):
                for i in range(1, n + 1):
                    text = f"{i} " * 500 if texts else ""
                    yield Rollout("m", "t", "", str(problem), i, i % 3 == 0, None, response=text)

        return read

    def peak(n: int) -> int:
        tracemalloc.start()
        try:
            collect_cases(stream(n), reference="m")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(8000) < 1.5 * peak(400) + 20_000


def test_chances_of_the_made_rollouts_are_exact() -> None:
    collection = made_collection()
    for model, chances in CHANCES.items():
        assert [case.models[model].rate for case in collection.cases] == list(chances)
    assert len(texts_of(made_rollouts())) == 6
