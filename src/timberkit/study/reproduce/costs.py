"""Costs of single steps, added up to what a reader wants to know."""

from __future__ import annotations

from collections.abc import Iterable

from timberkit.findings import Cost

_WORDS = {
    "analysis": "every weight measured",
    "models": "models written",
    "exact": "exact probabilities",
    "rollouts": "rollouts asked and judged",
}
"""First word of a step to what all steps that begin with it are."""


def summed(costs: Iterable[Cost]) -> tuple[Cost, ...]:
    """One cost for each kind of step: seconds, bytes and counts added, the largest memory.

    >>> [c.seconds for c in summed([Cost("models a", "a", 1.0, 5), Cost("models b", "b", 2.0, 5)])]
    [3.0]
    """
    groups: dict[str, list[Cost]] = {}
    for cost in costs:
        groups.setdefault(cost.step.partition(" ")[0], []).append(cost)
    return tuple(_together(kind, parts) for kind, parts in groups.items())


def _together(kind: str, parts: list[Cost]) -> Cost:
    what = _WORDS.get(kind, kind)
    return Cost(
        kind,
        what if len(parts) > 1 else f"{what}: {parts[0].what}" if kind != "analysis" else what,
        sum(part.seconds for part in parts),
        sum(part.written_bytes for part in parts),
        max((part.peak_bytes for part in parts if part.peak_bytes is not None), default=None),
        _added(part.rollouts for part in parts),
        _added(part.output_tokens for part in parts),
    )


def _added(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
