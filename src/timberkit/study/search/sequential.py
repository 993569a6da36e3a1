"""The sequential search: Optuna's CMA-ES, one generation on one part of the problems.

Every generation is ranked on the next block of the search problems, the same for all its members:
CMA-ES only compares within a generation, so the part may change between them. Thus a small share of
the problems is asked of each candidate, and yet all of them have their say; and what fits one part
by chance is forgotten at the next.

The sampler is told the stored values again when a search is continued: it is seeded, so it asks for
the same candidates, and the journal answers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from timberkit.errors import MissingExtraError
from timberkit.study.search.candidates import Candidate, Space, Vector

Judge = Callable[[Candidate, int], float]
"""Value of a candidate in a generation."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """How CMA-ES is run. ``low`` and ``high`` bound every gain; ``sigma``: its first step."""

    evaluations: int
    population: int
    sigma: float
    low: float
    high: float
    seed: int


def population_of(size: int) -> int:
    """CMA-ES's own choice for so many numbers, ``4 + floor(3 ln size)``.

    >>> population_of(42)
    15
    """
    return 4 + int(3 * np.log(max(size, 1)))


def search_by_cma(
    space: Space, start: Vector, how: Sequence, judge: Judge
) -> list[list[tuple[Vector, float]]]:
    """Run generation after generation; whole ones only.

    Args:
        space: what the numbers mean; start: the mean of the first generation (size,).
        how: see ``Sequence``. judge: called with a candidate and the number of its generation.

    Returns:
        For every generation its vectors with their values, in the order asked.

    Raises:
        MissingExtraError: optuna or cmaes is not installed.
    """
    names = [f"{place:05d}" for place in range(space.size)]
    found: list[list[tuple[Vector, float]]] = []
    with _quiet_optuna():
        try:
            import optuna
            from optuna.samplers import CmaEsSampler
        except ImportError:
            raise MissingExtraError("optuna", extra="search") from None
        try:
            import cmaes  # noqa: F401
        except ImportError:
            raise MissingExtraError("cmaes", extra="search") from None
        ranges: dict[str, Any] = {
            name: optuna.distributions.FloatDistribution(how.low, how.high) for name in names
        }
        inside = np.clip(start, how.low + 1e-6, how.high - 1e-6)
        sampler = CmaEsSampler(
            x0=dict(zip(names, map(float, inside), strict=True)),
            sigma0=how.sigma / (how.high - how.low),  # of ranges stretched to [0, 1]
            n_startup_trials=0,
            popsize=how.population,
            seed=how.seed,
            use_separable_cma=space.size > MOST_FULL,
            warn_independent_sampling=False,
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        # The sampler learns the ranges from a finished trial; this one is no guess of its own.
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(zip(names, map(float, inside), strict=True)),
                distributions=ranges,
                value=0.0,
            )
        )
        for generation in range(how.evaluations // how.population):
            members: list[tuple[Vector, float]] = []
            for member in range(how.population):
                trial = study.ask(ranges)
                vector = np.array([trial.params[name] for name in names])
                value = judge(space.candidate(f"cma {generation}.{member}", vector), generation)
                study.tell(trial, value)
                members.append((vector, value))
            found.append(members)
    return found


MOST_FULL = 300
"""Numbers above which CMA-ES learns their scales only, not how they go together."""


def centres(generations: list[list[tuple[Vector, float]]]) -> list[tuple[str, Vector]]:
    """Means of the better halves of the last generations: of 1, of a tenth and of a third of all.

    A mean over many members has less of what each owed to chance than the best of them has.
    """
    total = len(generations)
    found = []
    for count in sorted({1, max(total // 10, 1), max(total // 3, 1)} if total else set()):
        chosen: list[Vector] = []
        for members in generations[-count:]:
            ranked = sorted(members, key=lambda member: -member[1])
            chosen.extend(vector for vector, _ in ranked[: max(len(ranked) // 2, 1)])
        found.append((f"centre of {count} generations", np.mean(chosen, axis=0)))
    return found


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Without Optuna's line a trial, and its warnings that a sampler's options may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import optuna
        except ImportError:
            yield
            return
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)
