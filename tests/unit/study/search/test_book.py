"""Nothing is judged twice, and the confirm split is opened once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from timberkit.errors import UsageError
from timberkit.study.search.book import Book, SearchProgress
from timberkit.study.search.candidates import Candidate
from timberkit.study.search.evaluators import FULL, Effort, Split, scores


class Counting:
    """Chances that follow the first gain, and a list of what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Effort]] = []

    def sizes(self) -> Mapping[Split, int]:
        return {"search": 2, "constraint": 2, "confirm": 2}

    def plan(self, effort: Effort) -> Effort:
        return Effort(effort.share, effort.block % 2) if effort.share < 1 else FULL

    def outcome(self, candidate: Candidate, split: Split, effort: Effort) -> dict[str, Any]:
        self.asked.append((candidate.label, split, effort))
        return {"p": [candidate.gains["x"][0], 0.5]}

    def close(self) -> None:
        pass


def candidate(gain: float) -> Candidate:
    return Candidate(f"at {gain}", (), {"x": (gain,)})


def book(path: Path, evaluator: Counting, **more: Any) -> Book:
    return Book(path / "journal.jsonl", evaluator, (1, 64), **more)


def test_what_was_judged_is_not_judged_again_nor_after_a_restart(tmp_path: Path) -> None:
    evaluator = Counting()
    first = book(tmp_path, evaluator)
    found = first.scores(candidate(0.25), "search")
    again = first.scores(Candidate("other label", (), {"x": (0.25,)}), "search")
    np.testing.assert_array_equal(found, again)
    first.scores(candidate(0.25), "constraint")
    first.scores(candidate(0.25), "search", Effort(0.5, 1))
    first.scores(candidate(0.25), "search", Effort(0.5, 3))  # the same block
    assert len(evaluator.asked) == 3
    first.close()
    second = book(tmp_path, evaluator)
    np.testing.assert_array_equal(second.scores(candidate(0.25), "search"), found)
    assert len(evaluator.asked) == 3
    assert (second.asked, second.known) == (0, 3)
    second.close()


def test_a_torn_last_line_is_judged_again(tmp_path: Path) -> None:
    evaluator = Counting()
    first = book(tmp_path, evaluator)
    first.scores(candidate(0.1), "search")
    first.scores(candidate(0.2), "search")
    first.close()
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    second = book(tmp_path, evaluator)
    second.scores(candidate(0.1), "search")
    assert len(evaluator.asked) == 2
    second.scores(candidate(0.2), "search")
    assert len(evaluator.asked) == 3
    second.close()


def test_confirm_is_closed_until_it_is_opened_and_only_for_those_named(tmp_path: Path) -> None:
    evaluator = Counting()
    kept = book(tmp_path, evaluator)
    with pytest.raises(UsageError, match="opened once"):
        kept.scores(candidate(0.1), "confirm")
    kept.open_confirm([candidate(0.1), candidate(1.0)])
    kept.scores(candidate(0.1), "confirm")
    kept.scores(candidate(1.0), "confirm")
    with pytest.raises(UsageError, match="without having been opened"):
        kept.scores(candidate(0.3), "confirm")
    assert [label for label, _, _ in evaluator.asked] == ["at 0.1", "at 1.0"]
    kept.close()


def test_a_second_opening_is_refused_unless_asked_for_and_is_told(tmp_path: Path) -> None:
    first = book(tmp_path, Counting())
    first.open_confirm([candidate(0.1)])
    first.close()
    second = book(tmp_path, Counting())
    second.open_confirm([candidate(0.1)])  # the same search, continued
    assert len(second.openings) == 1
    with pytest.raises(UsageError, match=r"opened on .* for 'at 0\.1'.*--open-again"):
        second.open_confirm([candidate(0.2)])
    with pytest.raises(UsageError, match="confirm split"):
        second.scores(candidate(0.2), "confirm")
    second.open_confirm([candidate(0.2)], again=True)
    second.scores(candidate(0.2), "confirm")
    assert [opening["label"] for opening in second.openings] == ["at 0.1", "at 0.2"]
    second.close()
    third = book(tmp_path, Counting())
    assert len(third.openings) == 2
    third.close()


def test_progress_counts_what_is_done_and_guesses_the_rest(tmp_path: Path) -> None:
    told: list[SearchProgress] = []
    kept = book(tmp_path, Counting(), total=4, on_progress=told.append)
    kept.begin("first")
    assert told[-1].seconds_left is None
    kept.scores(candidate(0.1), "search")
    kept.scores(candidate(0.1), "search")
    assert (told[-1].doing, told[-1].done, told[-1].total, told[-1].asked) == ("first", 1, 4, 1)
    left = told[-1].seconds_left
    assert left is not None
    assert left == pytest.approx(3 * told[-1].seconds)
    kept.close()


def test_counts_with_fewer_rollouts_than_k_stand_in_with_the_most_there_are() -> None:
    found = scores({"n": [4, 4], "c": [0, 2]}, (1, 64))
    np.testing.assert_allclose(found, [[0, 0], [0.5, 1.0]])
    exact = scores({"p": [0.5]}, (1, 2))
    np.testing.assert_allclose(exact, [[0.5, 0.75]])
