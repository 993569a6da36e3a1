"""How far an evaluation is: counts of every unit, tokens, and how long it has been at it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from timberkit.evaluation.store import Tally

INTERVAL_SECONDS = 0.1
"""The caller hears of progress no more often."""


@dataclass(slots=True)
class UnitProgress:
    """One unit: how many rollouts it is to have, and counts of those that are judged.

    ``tally`` also counts rollouts of earlier runs, and may exceed ``planned``.
    """

    model: str
    task: str
    planned: int
    tally: Tally

    @property
    def mean(self) -> float | None:
        """Share of rollouts that are right, None where there are none."""
        return self.tally.correct / self.tally.rollouts if self.tally.rollouts else None


@dataclass(frozen=True, slots=True)
class EvaluationProgress:
    """How far a run is.

    ``doing``: what is done at this moment, in words. ``answered``: rollouts judged in this run, of
    ``lacking`` that it began without. ``output_tokens``, ``seconds``: of this run, since it began
    to ask.
    """

    doing: str
    units: tuple[UnitProgress, ...]
    answered: int
    lacking: int
    output_tokens: int
    seconds: float

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None before there is one."""
        if not self.answered:
            return None
        return self.seconds / self.answered * max(self.lacking - self.answered, 0)


ProgressCallback = Callable[[EvaluationProgress], None]


@dataclass(slots=True)
class ProgressMeter:
    """Tells the caller how far a run is, at most every ``INTERVAL_SECONDS``."""

    on_progress: ProgressCallback | None
    units: list[UnitProgress] = field(default_factory=list)
    lacking: int = 0
    doing: str = "reading"
    _answered: int = 0
    _output_tokens: int = 0
    _asking_seconds: float = 0.0
    _asking_since: float | None = None
    _told: float = float("-inf")

    def begin(self, doing: str) -> None:
        """Say what is done now; nothing is asked meanwhile."""
        self.doing = doing
        self.pause()
        self.tell()

    def begin_asking(self, doing: str) -> None:
        """Say whom is asked now; the clock runs."""
        self.doing = doing
        self._asking_since = time.monotonic()
        self.tell()

    def pause(self) -> None:
        """Stop the clock."""
        self._asking_seconds = self.seconds
        self._asking_since = None

    def answer(self, output_tokens: int) -> None:
        """Count a rollout of this run."""
        self._answered += 1
        self._output_tokens += output_tokens
        if time.monotonic() - self._told >= INTERVAL_SECONDS:
            self.tell()

    @property
    def seconds(self) -> float:
        """How long models have been asked."""
        since = self._asking_since
        return self._asking_seconds + (0.0 if since is None else time.monotonic() - since)

    @property
    def answered(self) -> int:
        """Rollouts of this run."""
        return self._answered

    def tell(self) -> None:
        """Tell the caller now."""
        if self.on_progress is None:
            return
        self._told = time.monotonic()
        self.on_progress(
            EvaluationProgress(
                doing=self.doing,
                units=tuple(self.units),
                answered=self._answered,
                lacking=self.lacking,
                output_tokens=self._output_tokens,
                seconds=self.seconds,
            )
        )
