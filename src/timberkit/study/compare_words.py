"""A comparison in plain sentences: what may be said, and what it would take to say more."""

from __future__ import annotations

from itertools import pairwise

from timberkit.metrics import PairedDifference
from timberkit.report.tables import interval_of, name_of, p_of, signed
from timberkit.study.comparison import Overtaking, Pair, Power


def about_pair(pair: Pair) -> list[str]:
    """What may be said of a model and the reference on a task, a sentence each.

    Differences at the smallest and the largest k and where the verdict changes; from which k one
    passes the other; what the run could have seen at the smallest k.
    """
    said = []
    if pair.pass_at_k:
        said.append("; ".join(_verdict(row) for row in _worth_telling(pair.pass_at_k)) + ".")
    if pair.overtaking is not None:
        said.append(_crossing(pair.overtaking))
    said += [_power(power, pair) for power in pair.power[:1]]
    return said


def _worth_telling(rows: tuple[PairedDifference, ...]) -> list[PairedDifference]:
    """The smallest and the largest k, and where the verdict is another than just before."""
    told = [rows[0]]
    for before, row in pairwise(rows):
        if row.verdict != before.verdict or row is rows[-1]:
            told.append(row)
    return told


def _verdict(row: PairedDifference) -> str:
    return (
        f"Pass@{row.k} {row.verdict} ({signed(row.difference.value)}"
        f" {interval_of(row.simultaneous, signed)}, p {_with_sign(p_of(row.corrected_p_value))})"
    )


def _with_sign(p: str) -> str:
    return f"< {p[1:]}" if p.startswith("<") else f"= {p}"


def _crossing(overtaking: Overtaking) -> str:
    behind, ahead = name_of(overtaking.behind), name_of(overtaking.ahead)
    crossing = overtaking.crossing
    if crossing.k is None:
        sure = f" ({crossing.share:.0%} of resamples)" if crossing.share >= 0.005 else ""
        return f"{behind} does not pass {ahead} up to k = {crossing.up_to}" + (
            f", but may on other problems{sure}." if sure else "."
        )
    changes = crossing.lead_changes
    more = f"; the lead changes {changes} times" if changes > 1 else ""
    return f"{behind} passes {ahead} from k = {crossing.text}{more}."


def _power(power: Power, pair: Pair) -> str:
    points = f"{power.points:g} point{'' if power.points == 1 else 's'}"
    why = " (same seeds, nearly the same answers)" if power.coupled else ""
    seen = f"At Pass@{power.k} this run resolves {percent_points(power.resolvable)}{why}"
    if 100 * power.resolvable <= power.points:
        return f"{seen}."
    problems = f"{power.problems_needed:,} problems with as many rollouts"
    if power.coupled:
        return f"{seen}; {points} would take {problems}."
    if power.rollouts_needed is None:
        return (
            f"{seen}; {points} would take {problems}, and no number of rollouts on these"
            f" {pair.problems}."
        )
    return f"{seen}; {points} would take {power.rollouts_needed:,} rollouts each, or {problems}."


def percent_points(share: float) -> str:
    """A difference without its sign, in points.

    >>> percent_points(0.0312)
    '3.1 points'
    """
    return f"{100 * share:.2g} points" if share < 0.01 else f"{100 * share:.1f} points"
