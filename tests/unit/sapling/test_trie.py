"""The prefix tree holds every answer once, and its layout is consistent."""

from __future__ import annotations

import numpy as np
import pytest

from timberkit.sapling import Problem, correct_answers
from timberkit.sapling.trie import TrieRow, trie_rows
from timberkit.sapling.vocabulary import chat_prompt, encode

PROBLEM = Problem((2, 4, 8, 4), 24)
PROMPT = chat_prompt(PROBLEM)
ANSWERS = [encode(answer) for answer in correct_answers(PROBLEM)]


def paths(row: TrieRow) -> list[list[int]]:
    """The answers of a row, read back from its ends along the parents."""
    found = []
    for end in row.ends:
        path, place = [], end
        while place >= row.prompt_length:
            path.append(row.tokens[place])
            place = row.parents[place]
        assert place == row.prompt_length - 1
        found.append(path[::-1])
    return found


@pytest.mark.parametrize("longest", [1, 40, 100, 10_000])
def test_rows_hold_every_answer_exactly_once(longest: int) -> None:
    rows = list(trie_rows(0, PROMPT, ANSWERS, longest=longest))
    found = [path for row in rows for path in paths(row)]
    assert sorted(found) == sorted(ANSWERS)
    assert all(len(row.tokens) < longest + max(map(len, ANSWERS)) + len(PROMPT) for row in rows)


def test_one_row_holds_each_distinct_prefix_once() -> None:
    (row,) = trie_rows(0, PROMPT, ANSWERS, longest=10_000)
    prefixes = {tuple(answer[:end]) for answer in ANSWERS for end in range(1, len(answer) + 1)}
    assert len(row.tokens) == len(PROMPT) + len(prefixes)


def test_visible_tokens_are_the_ancestors_and_positions_count_them() -> None:
    (row,) = trie_rows(0, PROMPT, ANSWERS, longest=10_000)
    visible = row.visible()
    assert np.array_equal(row.positions() + 1, visible.sum(axis=1))
    for index, parent in enumerate(row.parents):
        expected = {index} if parent < 0 else {index, *np.flatnonzero(visible[parent])}
        assert set(np.flatnonzero(visible[index])) == expected


def test_no_answers_give_no_rows() -> None:
    assert list(trie_rows(0, PROMPT, [])) == []
