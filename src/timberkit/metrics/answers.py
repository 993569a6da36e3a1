"""What the rollouts of a problem say, apart from being right: votes, variety, failures.

``answers`` is one list a problem, one entry a rollout: the answer as the grader normalised it (so
that "0.5" and "1/2" are one answer if the grader says so), or None where there is none. Whoever has
no answer does not vote. All values are one a problem; their mean is the benchmark's.

A rollout is one of three: cut off (``truncation_rate``), finished without an answer that can be
read (``format_failure_rate``), or answered; two rates and the share answered add up to one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from timberkit.metrics.counts import pass_at_k
from timberkit.metrics.distributions import binomial

Answers = Sequence[Sequence[Hashable | None]]
Flags = Sequence[Sequence[bool]]
Scores = NDArray[np.float64]


def majority_vote(answers: Answers, right: Flags, k: int | None = None) -> Scores:
    """Chance that the most frequent answer among k rollouts is right, a tie shared equally.

    If t answers share the first place and g of them are right, the problem scores g / t. With k
    below the number of rollouts it is the mean over all subsets of k rollouts, hence unbiased.

    Args:
        answers: see the module header.
        right: the grade of each rollout; the grade of an answer is the mean grade of its rollouts.
        k: rollouts that vote; None for all.

    Returns:
        (problems,), in [0, 1]: 0.0 where nobody voted, NaN where there are fewer than k rollouts
        (or none).

    Raises:
        ValueError: answers and grades that do not pair up, no problem, k < 1.

    Exact, without drawing subsets: for each height t of the first place, the counts of the other
    answers are convolved, the number of ties carried along. Cost: O(rollouts) a problem with k
    None; else products of k x k matrices, 5 ms for 32 of 64 rollouts and 80 ms for 128 of 320.
    Source: Wang et al. 2022, Self-Consistency Improves Chain of Thought Reasoning
    (arXiv 2203.11171); as a curve over k: Brown et al. 2024, Large Language Monkeys
    (arXiv 2407.21787).

    >>> majority_vote([["4", "4", "5"], ["1", "2"]], [[True, True, False], [True, False]]).tolist()
    [1.0, 0.5]
    """
    _check_paired(answers, right)
    if k is not None and k < 1:
        raise ValueError(f"k: found {k}, expected at least 1")
    return np.array([_vote(*pair, k) for pair in zip(answers, right, strict=True)])


def distinct_answers(answers: Answers, k: int | None = None) -> Scores:
    """Number of different answers among k rollouts, its mean over all subsets of k.

    ``sum_a 1 - C(n - m_a, k) / C(n, k)`` with m_a rollouts for answer a of n. It grows with the
    number of rollouts: compare models at one k. ``k`` None counts all rollouts.

    Returns (problems,): 0.0 where nobody answered, NaN where there are fewer than k rollouts.
    ValueError for no problem or k < 1. O(rollouts) a problem. Source: rarefaction, Hurlbert 1971,
    Ecology 52.

    >>> distinct_answers([["4", "4", "5", None]]).tolist()
    [2.0]
    """
    _check_not_empty(answers)
    found = []
    for voiced in answers:
        sizes = list(_votes(voiced).values())
        if k is None:
            found.append(float(len(sizes)))
        elif not sizes:
            found.append(float(pass_at_k(len(voiced), [0], k)[0]))
        else:
            found.append(float(pass_at_k(len(voiced), sizes, k).sum()))
    return np.array(found)


def answer_entropy(answers: Answers) -> Scores:
    """Shannon entropy of the answers of each problem, ``-sum_a q_a ln q_a``, in nats.

    ``q_a`` is the share of answer a among the rollouts with an answer. Between 0 (all agree) and
    the logarithm of ``distinct_answers``; ``exp`` of it is an effective number of answers. Too low
    by about (distinct - 1) / (2 n) with n rollouts (Miller 1955): compare models at one n.

    Returns (problems,), NaN where nobody answered. ValueError for no problem. O(rollouts).
    Source: Shannon 1948.

    >>> answer_entropy([["4", "4", "5", "5"]]).round(12).tolist()
    [0.69314718056]
    """
    _check_not_empty(answers)
    found = []
    for voiced in answers:
        sizes = np.array(list(_votes(voiced).values()), dtype=np.float64)
        shares = sizes / sizes.sum() if sizes.size else np.array([np.nan])
        found.append(abs(float(-(shares * np.log(shares)).sum())))
    return np.array(found)


def truncation_rate(truncated: Flags) -> Scores:
    """Share of rollouts that hit the token limit, per problem; NaN without rollouts.

    A truncated rollout is a wrong answer; where models differ in this rate, a difference in Pass@k
    may be one of length. ValueError for no problem. O(rollouts).

    >>> truncation_rate([[True, False], [False, False]]).tolist()
    [0.5, 0.0]
    """
    _check_not_empty(truncated)
    return np.array([_share(flags) for flags in truncated])


def format_failure_rate(answers: Answers, truncated: Flags) -> Scores:
    """Share of rollouts that ended by themselves but hold no answer that could be read.

    Of all rollouts, truncated ones included, so that rates of one problem add up; NaN without
    rollouts. ValueError for lists that do not pair up or no problem. O(rollouts).

    >>> format_failure_rate([["4", None, None, "5"]], [[False, False, True, False]]).tolist()
    [0.25]
    """
    _check_paired(answers, truncated)
    return np.array(
        [
            _share([a is None and not cut for a, cut in zip(voiced, flags, strict=True)])
            for voiced, flags in zip(answers, truncated, strict=True)
        ]
    )


def _vote(voiced: Sequence[Hashable | None], right: Sequence[bool], k: int | None) -> float:
    rollouts = len(voiced)
    wanted = rollouts if k is None else k
    if rollouts < max(wanted, 1):
        return float("nan")
    votes = _votes(voiced)
    if not votes:
        return 0.0
    good = Counter(a for a, grade in zip(voiced, right, strict=True) if grade and a is not None)
    sizes = np.array(list(votes.values()))
    grades = np.array([good[answer] / size for answer, size in votes.items()])
    if wanted == rollouts:
        return float(grades[sizes == sizes.max()].mean())
    return _vote_of_subsets(rollouts, sizes, grades, wanted)


def _vote_of_subsets(n: int, sizes: NDArray[np.int64], grades: Scores, k: int) -> float:
    # Subsets of k of n: independent binomials of chance k / n, given that they add up to k.
    counts = np.stack([_up_to(k, binomial(int(size), k / n)) for size in sizes])
    total = 0.0
    for height in range(1, min(k, int(sizes.max())) + 1):
        tall = sizes >= height
        if grades[tall].any():
            others = n - int(sizes[tall].sum())  # too few to reach this height, or silent
            rest = _up_to(k, binomial(others, k / n))
            total += _first_place_at(height, counts[tall], grades[tall], rest)
    return float(min(1.0, total / binomial(n, k / n)[k]))


def _first_place_at(height: int, counts: Scores, grades: Scores, rest: Scores) -> float:
    """Chance that the first place has ``height`` votes, times the mean grade of who shares it."""
    k = rest.size - 1
    # Row w: weight of w answers at this height; column: rollouts used up so far.
    weight = np.zeros((k // height + 1, k + 1))
    weight[0] = rest
    graded = np.zeros_like(weight)
    more = np.arange(k + 1) - np.arange(k + 1)[:, None]
    for count, grade in zip(counts, grades, strict=True):
        below = np.where((more >= 0) & (more < height), count[more], 0.0)
        joined = np.zeros_like(weight)
        joined[1:, height:] = weight[:-1, : k + 1 - height] * count[height]
        carried = np.zeros_like(graded)
        carried[1:, height:] = graded[:-1, : k + 1 - height] * count[height]
        weight, graded = weight @ below + joined, graded @ below + carried + grade * joined
    return float((graded[1:, k] / np.arange(1, weight.shape[0])).sum())


def _up_to(k: int, chances: Scores) -> Scores:
    return np.pad(chances[: k + 1], (0, max(0, k + 1 - len(chances))))


def _votes(voiced: Sequence[Hashable | None]) -> Counter[Hashable]:
    return Counter(answer for answer in voiced if answer is not None)


def _share(flags: Sequence[bool]) -> float:
    return sum(map(bool, flags)) / len(flags) if len(flags) else float("nan")


def _check_not_empty(problems: Sequence[object]) -> None:
    if not len(problems):
        raise ValueError("found no problems, expected at least one")


def _check_paired(answers: Answers, flags: Flags) -> None:
    _check_not_empty(answers)
    lengths, others = [len(row) for row in answers], [len(row) for row in flags]
    if lengths != others:
        raise ValueError(
            f"found {sum(lengths)} answers of {len(lengths)} problems and {sum(others)} flags of"
            f" {len(others)}, expected one flag for each answer, in the same order"
        )
