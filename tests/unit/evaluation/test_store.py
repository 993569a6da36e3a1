"""A unit's rollouts between journal and logs: counted once, in one place, whatever was cut off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from timberkit.errors import InputError
from timberkit.evaluation import store as store_module
from timberkit.evaluation.inspect_log import Judged
from timberkit.evaluation.journal import Generation, Segment
from timberkit.evaluation.reasoning import split_response
from timberkit.evaluation.store import UnitStore
from timberkit.evaluation.task import Grade, Problem
from timberkit.evaluation.units import Unit

pytest.importorskip("inspect_ai")

UNIT = Unit(
    model="before@T=1.0",
    folder="before",
    task="aime24",
    setting="released",
    stem="aime24_released_T1.0",
    settings={"sampling": {"temperature": 1.0, "max_tokens": 9}, "prompt": "chat", "seed": 0},
)


def opened(folder: Path, unit: Unit = UNIT) -> UnitStore:
    return UnitStore.open(unit, logs=folder / "logs", journal=folder / "journal")


def generation(problem: str, rollout: int, text: str = "x", error: str | None = None) -> Generation:
    return Generation(problem, rollout, 5, text=text, stop="stop", output_tokens=2, error=error)


def add(store: UnitStore, *generations: Generation, correct: bool = True) -> Segment:
    segment = store.open_segment()
    segment.append(generations)
    for each in generations:
        grade = Grade(correct and each.error is None, each.text or None)
        store.note_grade(segment, each, split_response(each.text), grade)
    return segment


def judged(generation: Generation, grade: Grade) -> Judged:
    problem = Problem(generation.problem, {"answer": "1"})
    return Judged(generation, split_response(generation.text), grade, problem, "how many?")


def pack(store: UnitStore, *, whole: bool = True) -> None:
    for segment in store.packable(whole=whole):
        store.begin_packing(segment)(judged)
        store.end_packing(segment)


def test_packed_rollouts_are_found_again_and_the_journal_is_empty(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, generation("60", 1), generation("60", 2))
    pack(store)
    add(store, generation("61", 1), correct=False)
    pack(store)
    store.close()
    again = opened(tmp_path)
    assert again.keys() == {("60", 1): 1, ("60", 2): 1, ("61", 1): 2}
    assert (again.tally.rollouts, again.tally.correct, again.tally.output_tokens) == (3, 2, 6)
    assert again.is_done(("61", 1))
    assert not again.is_done(("61", 2))
    assert list((tmp_path / "journal" / "before").iterdir()) == []


def test_unpacked_rollouts_wait_for_their_grades_and_are_not_asked_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, generation("60", 1, "one"), generation("60", 2, "two"))
    store.close()
    again = opened(tmp_path)
    assert again.is_done(("60", 1))
    assert again.tally.rollouts == 0
    assert [each.text for _, each in again.unjudged()] == ["one", "two"]
    assert again.packable(whole=True) == []
    for segment, each in again.unjudged():
        again.note_grade(segment, each, split_response(each.text), Grade(True, each.text))
    pack(again)
    assert again.tally.correct == 2


def test_kill_between_log_and_journal_counts_each_rollout_once(tmp_path: Path) -> None:
    store = opened(tmp_path)
    segment = add(store, generation("60", 1), generation("60", 2))
    store.begin_packing(segment)(judged)  # and no end_packing
    store.close()
    again = opened(tmp_path)
    assert (again.tally.rollouts, again.has_segments) == (2, False)
    assert again.keys() == {("60", 1): 1, ("60", 2): 1}


def test_request_that_failed_is_asked_again_and_its_answer_takes_its_place(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, generation("60", 1, "", error="500"), generation("60", 2))
    pack(store)
    assert (store.tally.failed, store.tally.rollouts, store.tally.correct) == (1, 2, 1)
    store.close()
    again = opened(tmp_path)
    assert not again.is_done(("60", 1))
    add(again, generation("60", 1))
    assert (again.tally.failed, again.tally.rollouts, again.tally.correct) == (0, 2, 2)
    pack(again)
    again.close()
    last = opened(tmp_path)
    assert last.keys() == {("60", 1): 2, ("60", 2): 1}
    assert (last.tally.failed, last.tally.rollouts, last.tally.correct) == (0, 2, 2)


def test_full_segment_is_packed_while_the_next_takes_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MOST_TOGETHER", 2)
    store = opened(tmp_path)
    first = add(store, generation("60", 1))
    assert store.packable(whole=False) == []
    add(store, generation("60", 2))
    assert store.packable(whole=False) == [first]
    write = store.begin_packing(first)
    second = add(store, generation("60", 3))
    assert second.number == 2
    write(judged)
    store.end_packing(first)
    assert store.packable(whole=False) == []
    assert store.packable(whole=True) == [second]


def test_long_texts_close_a_segment_before_it_has_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MOST_CHARACTERS", 10)
    store = opened(tmp_path)
    segment = add(store, generation("60", 1, "x" * 20))
    assert store.packable(whole=False) == [segment]


def test_log_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, generation("60", 1))
    pack(store)
    store.close()
    other = replace(UNIT, settings={**UNIT.settings, "seed": 1})
    with pytest.raises(InputError, match=r"aime24_released_T1\.0_0001\.eval: is no log of this"):
        opened(tmp_path, other)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"{}"])
def test_broken_log_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "logs" / "before"
    folder.mkdir(parents=True)
    (folder / "aime24_released_T1.0_0001.eval").write_bytes(content)
    with pytest.raises(InputError, match=r"0001\.eval: cannot be read"):
        opened(tmp_path)
