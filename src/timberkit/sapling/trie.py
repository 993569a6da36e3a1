"""The correct answers of a problem as a tree of shared prefixes, laid out as one sequence.

All correct answers begin with the same prompt and many share their first steps. A row holds the
prompt and then every distinct prefix of the answers once; ``visible`` says which earlier tokens a
token may attend to (its own ancestors only), so one forward pass of a causal model over the row
gives the next-token distribution after every prefix. Long trees are cut into several rows.

Only NumPy is needed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LONGEST_ROW = 512
"""Tokens after which a tree is continued in another row: attention costs grow with the square."""


@dataclass(slots=True)
class TrieRow:
    """Part of the answers of one problem.

    ``problem``: its index; ``tokens``: the prompt, then one token per distinct prefix;
    ``parents``: for each token the index of the one before it, -1 for the first;
    ``prompt_length``: how many tokens are prompt; ``ends``: indices after which the answer ends.
    """

    problem: int
    prompt_length: int
    tokens: list[int]
    parents: list[int]
    ends: list[int] = field(default_factory=list)

    @classmethod
    def start(cls, problem: int, prompt: Sequence[int]) -> TrieRow:
        """A row that holds only the prompt."""
        return cls(problem, len(prompt), list(prompt), list(range(-1, len(prompt) - 1)))

    def positions(self) -> NDArray[np.int64]:
        """Distance of each token from the start of its own sequence, ``(tokens,)``."""
        positions = np.zeros(len(self.tokens), dtype=np.int64)
        for index, parent in enumerate(self.parents[1:], start=1):
            positions[index] = positions[parent] + 1
        return positions

    def visible(self) -> NDArray[np.bool_]:
        """Which tokens (columns) each token (row) follows or is, ``(tokens, tokens)``."""
        visible = np.eye(len(self.tokens), dtype=np.bool_)
        for index, parent in enumerate(self.parents[1:], start=1):
            visible[index] |= visible[parent]
        return visible


def trie_rows(
    problem: int,
    prompt: Sequence[int],
    answers: Sequence[list[int]],
    *,
    longest: int = LONGEST_ROW,
) -> Iterator[TrieRow]:
    """Rows that together hold every answer exactly once.

    ``prompt`` and ``answers``: token ids, answers distinct, non-empty and without the end token.
    A row takes no further answer once it has ``longest`` tokens. Neighbours in sorted order share
    most, so answers are taken in that order. No answers give no rows. O(total answer length).
    """
    row = TrieRow.start(problem, prompt)
    known: dict[tuple[int, int], int] = {}
    for answer in sorted(answers):
        if len(row.tokens) >= longest and row.ends:
            yield row
            row, known = TrieRow.start(problem, prompt), {}
        place = row.prompt_length - 1
        for token in answer:
            edge = (place, token)
            if edge not in known:
                known[edge] = len(row.tokens)
                row.tokens.append(token)
                row.parents.append(place)
            place = known[edge]
        row.ends.append(place)
    if row.ends:
        yield row
