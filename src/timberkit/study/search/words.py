"""What a search may say of what it found, in plain sentences, from intervals alone."""

from __future__ import annotations

from collections.abc import Sequence

from timberkit.metrics import Interval
from timberkit.study.search.findings import Point


def sentences(
    points: Sequence[Point],
    *,
    objective: int,
    keep: int,
    tolerance: float,
    openings: int,
) -> list[str]:
    """The outcome, its honesty, and how simple rules compare.

    ``points``: of all splits, a winner among them. ``openings``: how often the confirm split was
    opened.
    """
    of = {(point.name, point.split): point for point in points}
    winner = of["winner", "confirm"]
    found = []
    if winner.label == "instruct":
        found.append(
            f"No edit was found that surely keeps Pass@{keep} within {tolerance:g} points: the"
            " winner is Instruct itself. A null result."
        )
        return found
    found.append(
        f"On {_problems('confirm')}, the winner is at {_percent(winner.low)} Pass@{keep}"
        f" ({_points(winner.difference)} against Instruct) and {_percent(winner.high)}"
        f" Pass@{objective}."
    )
    found.append(_above(winner, objective, keep))
    found.append(_lost(winner, keep, tolerance))
    gaps = {split: of["winner", split].gap for split in ("search", "constraint", "confirm")}
    found.append(
        "Above the merges on the problems searched on, held to, and confirmed on:"
        f" {', '.join(_points(gap) if gap else 'unknown' for gap in gaps.values())}."
        f" {_survived(gaps['search'], gaps['confirm'])}"
    )
    rules = [point for point in points if point.role == "rule" and point.split == "confirm"]
    if rules:
        best = max(rules, key=lambda point: point.gap.value if point.gap else float("-inf"))
        found.append(
            f"The best simple rule there, {best.label}:"
            f" {_points(best.gap) if best.gap else 'unknown'} above the merges,"
            f" {_points(best.difference)} at Pass@{keep}."
        )
    if openings > 1:
        found.append(
            f"The confirm split was opened {openings} times: what it says of this edit is weaker"
            " than it looks."
        )
    return found


def _problems(split: str) -> str:
    return {"confirm": "problems never searched on"}[split]


def _above(winner: Point, objective: int, keep: int) -> str:
    if winner.gap is None:
        return (
            f"Its Pass@{keep} lies outside that of the merges asked: nothing can be said of how far"
            " it is above them; ask more merges."
        )
    where = {
        "within": f"the merge of equal Pass@{keep}",
        "above": f"Instruct (no merge has its Pass@{keep})",
    }[winner.place or "within"]
    verdict = (
        "above" if winner.gap.low > 0 else "below" if winner.gap.high < 0 else "not told apart from"
    )
    return f"At Pass@{objective} it is {verdict} {where}: {_points(winner.gap)}."


def _lost(winner: Point, keep: int, tolerance: float) -> str:
    lost = -winner.difference.value
    if lost > tolerance:
        return (
            f"It misses its constraint there: {lost:.2f} points lost at Pass@{keep}, {tolerance:g}"
            " were allowed."
        )
    sure = "surely " if winner.difference.low >= -tolerance else ""
    return f"It {sure}keeps its constraint there: at most {tolerance:g} points of Pass@{keep} lost."


def _survived(search: Interval | None, confirm: Interval | None) -> str:
    if search is None or confirm is None or search.value <= 0:
        return "What share survives cannot be told."
    return f"{max(confirm.value, 0.0) / search.value:.0%} of the gain survives."


def _percent(interval: Interval) -> str:
    return f"{interval.value:.1f} %"


def _points(interval: Interval | None) -> str:
    """``+3.1 [+1.2, +5.0]`` points."""
    if interval is None:
        return "unknown"
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"
