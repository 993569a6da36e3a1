"""What a run found: one table of all rollouts, and a summary, both made from the logs.

    summary = write_results(run, stores)

Rows of ``rollouts.parquet`` stand in the order of the units, then rollout by rollout, then in the
benchmark's order of problems, whenever each was asked; so a run that was killed and continued gives
the same rows as one that was not, but for the seconds. Texts pass through a few at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from timberkit.checkpoint.run_folder import write_json
from timberkit.evaluation.inspect_log import read_rollouts_of
from timberkit.evaluation.journal import Key
from timberkit.evaluation.run_files import SUMMARY_NAME, RunFolder
from timberkit.evaluation.store import UnitStore
from timberkit.metrics import mean_at_k, mean_interval, pass_intervals
from timberkit.rollouts import ROLLOUTS_NAME, Rollout, write_rollouts

RESAMPLES_TOGETHER = 20_000_000
"""Bootstrap draws for one interval: fewer resamples where a benchmark has many problems."""
_WINDOW = 64
"""Rollouts read together: answers come in another order than asked, so a window's rollouts may lie
in several logs, each of which is opened once for it."""


@dataclass(slots=True)
class _Counts:
    """Sums over the rollouts of one unit."""

    rollouts: dict[str, int] = field(default_factory=dict)
    correct: dict[str, int] = field(default_factory=dict)
    truncated: int = 0
    no_answer: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    def count(self, rollout: Rollout) -> None:
        problem = rollout.problem
        self.rollouts[problem] = self.rollouts.get(problem, 0) + 1
        self.correct[problem] = self.correct.get(problem, 0) + rollout.correct
        cut = rollout.stop == "length"
        self.truncated += cut
        # Of those that ended by themselves, as ``metrics.format_failure_rate`` has it.
        self.no_answer += rollout.answer is None and rollout.error is None and not cut
        self.failed += rollout.error is not None
        self.input_tokens += rollout.input_tokens or 0
        self.output_tokens += rollout.output_tokens or 0
        self.seconds += rollout.seconds or 0.0


def write_results(run: RunFolder, stores: Mapping[str, UnitStore]) -> dict[str, Any]:
    """Write ``rollouts.parquet`` and ``summary.json`` of everything in a run, whole or not at all.

    ``stores``: of every unit of the run, by unit key, all of it packed. Returns the summary. About
    2 ms a rollout; memory for some tens of megabytes of texts.
    """
    logs = log_sizes(run)
    counts = {key: _Counts() for key in run.units}
    write_rollouts(run.path / ROLLOUTS_NAME, _all_rollouts(run, stores, counts))
    summary = {
        "schema_version": 1,
        "logs": logs,
        "units": [
            summarise_unit(run, key, found) for key, found in counts.items() if found.rollouts
        ],
    }
    write_json(run.path / SUMMARY_NAME, summary)
    return summary


def log_sizes(run: RunFolder) -> dict[str, int]:
    """Every log of a run and its bytes; as none ever changes, it says what a summary is of."""
    return {
        path.relative_to(run.path).as_posix(): path.stat().st_size
        for path in sorted(run.logs.glob("*/*.eval"))
        if not path.name.startswith(".")
    }


def _all_rollouts(
    run: RunFolder, stores: Mapping[str, UnitStore], counts: Mapping[str, _Counts]
) -> Iterator[Rollout]:
    for key, unit in run.units.items():
        store = stores[key]
        places = store.keys()
        order = {name: i for i, name in enumerate(run.problems[f"{unit.task}:{unit.setting}"])}
        keys = sorted(places, key=lambda place: (place[1], order.get(place[0], len(order))))
        for start in range(0, len(keys), _WINDOW):
            for rollout in _read_window(store, keys[start : start + _WINDOW], places):
                counts[key].count(rollout)
                yield rollout


def _read_window(
    store: UnitStore, window: Sequence[Key], places: Mapping[Key, int]
) -> Iterator[Rollout]:
    found: dict[Key, Rollout] = {}
    by_log: dict[int, list[Key]] = {}
    for key in window:
        by_log.setdefault(places[key], []).append(key)
    for number, keys in by_log.items():
        for rollout in read_rollouts_of(store.logs[number], store.unit, keys):
            found[rollout.problem, rollout.rollout] = rollout
    for key in window:
        yield found.pop(key)


def summarise_unit(run: RunFolder, key: str, found: _Counts) -> dict[str, Any]:
    """Means, Pass@k at powers of two, rates and tokens of one unit, as JSON values.

    Pass@k goes to the fewest rollouts that a problem has; rates are shares of all rollouts.
    """
    unit = run.units[key]
    problems = list(found.rollouts)
    n = [found.rollouts[problem] for problem in problems]
    c = [found.correct[problem] for problem in problems]
    total = sum(n)
    resamples = max(1_000, min(10_000, RESAMPLES_TOGETHER // len(problems)))
    ks = powers_of_two(min(n))
    return {
        "model": unit.model,
        "task": unit.task,
        "setting": unit.setting,
        "problems": len(problems),
        "rollouts": total,
        "rollouts_per_problem": [min(n), max(n)],
        "mean": asdict(mean_interval(mean_at_k(n, c), resamples=resamples)),
        "pass_at_k": {
            str(k): asdict(interval)
            for k, interval in pass_intervals(n, c, ks, resamples=resamples).items()
        },
        "truncated": found.truncated / total,
        "no_answer": found.no_answer / total,
        "failed": found.failed / total,
        "input_tokens": found.input_tokens,
        "output_tokens": found.output_tokens,
        "output_tokens_per_rollout": found.output_tokens / total,
        "seconds_per_rollout": found.seconds / total,
    }


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, … up to ``most``, and ``most`` itself.

    >>> powers_of_two(6)
    [1, 2, 4, 6]
    """
    found = [1 << i for i in range(most.bit_length())]
    return found if found[-1] == most else [*found, most]
