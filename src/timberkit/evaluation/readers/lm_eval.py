"""Rollouts from the samples that lm-evaluation-harness logs (``--log_samples``, version 0.4).

A run of it leaves ``<output>/<model>/results_<date>.json`` and, for each task,
``samples_<task>_<date>.jsonl`` with one line for each document and filter. Give one such file, or a
folder of them. The model is named as ``results_<date>.json`` says, else as the folder is; the
problem by ``doc_id`` and the first letters of ``doc_hash``, so that other data is another problem.

What counts as right is a metric and, where there are several, a filter, written as in the results:
``exact_match,strict-match``. A metric can be

* true or false, 1 or 0 (``exact_match``, ``acc``, ``prompt_level_strict_acc``): one rollout a
  document, also where ``repeats`` drew more, because the log grades only what the filter left;
* a list of those, one for each repeat;
* ``pass@k`` over the repeats, from which the number of right ones is worked back. The log does not
  say which ones they were: the first are counted as right.

Answers are what the filter left, none where it left ``[invalid]``; the filter ``none`` names no
answers. Lengths and reasons for stopping are not in these logs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from timberkit.errors import InputError
from timberkit.evaluation.readers.json_lines import read_json_lines
from timberkit.evaluation.readers.source import Source, choose_scorer
from timberkit.metrics import pass_at_k
from timberkit.rollouts import Rollout, storable

LINES_LOOKED_AT = 200
"""Lines that decide which metrics could be counted."""
MOST_RESULTS_BYTES = 256 << 20
_EXPECTED = "a sample of lm-evaluation-harness with doc_id, resps and metrics"
_NAME = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl")
_PASS_AT = re.compile(r"pass@(\d{1,6})")
_INVALID = "[invalid]"


def is_lm_eval(first: Mapping[str, Any]) -> bool:
    """Whether a file whose first line is this object holds samples of lm-evaluation-harness."""
    return "doc_id" in first and ("filtered_resps" in first or "resps" in first)


def open_lm_eval(files: Sequence[Path], path: Path, scorers: Sequence[str]) -> Source:
    """The rollouts of some sample files, found at ``path``.

    ``scorers``: metrics, ``metric,filter`` or filters that the user wants counted.

    Reading raises InputError, naming file and line, for what is no sample; and UsageError where
    several metrics could be counted and none is chosen.
    """
    notices: list[str] = []
    return Source(path, "lm-eval samples", _all(files, scorers, notices), notices)


@dataclass(frozen=True, slots=True)
class _Metric:
    """A way to count: metric ``name``, in the lines of filter ``filter``."""

    name: str
    filter: str

    @property
    def full(self) -> str:
        return f"{self.name},{self.filter}"


def _all(files: Sequence[Path], scorers: Sequence[str], notices: list[str]) -> Iterator[Rollout]:
    seen: dict[tuple[str, str], Path] = {}
    for file in files:
        found = _NAME.fullmatch(file.name)
        task = found["task"] if found else file.stem
        model = _model(file, found["date"] if found else None)
        if (model, task) in seen:
            raise InputError(
                f"{file}: is a second evaluation of {model} on {task}, after"
                f" {seen[model, task].name}; give one of the two files, or name them apart:"
                " NAME=FILE"
            )
        seen[model, task] = file
        yield from _rollouts(file, model, task, scorers, notices)


def _rollouts(
    file: Path, model: str, task: str, scorers: Sequence[str], notices: list[str]
) -> Iterator[Rollout]:
    metric = _chosen(file, scorers)
    ungraded = 0
    for number, line in read_json_lines(file, expected=_EXPECTED):
        where = f"{file}: line {number}"
        if not is_lm_eval(line):
            raise InputError(f"{where}: found no doc_id or no responses, expected {_EXPECTED}")
        if _filter(line) != metric.filter:
            continue
        grades = _grades(line, metric.name)
        if grades is None:
            raise InputError(
                f"{where}: {metric.name}: found {str(line.get(metric.name))[:60]!r}, from which"
                " right and wrong rollouts cannot be told; choose another metric: --scorer NAME"
            )
        ungraded += _repeats(line) > len(grades) == 1
        answers = _answers(line, len(grades))
        for i, (correct, answer) in enumerate(zip(grades, answers, strict=True), start=1):
            yield Rollout(
                model, task, "", _problem(where, line), i, correct, answer, stop="unknown"
            )
    if ungraded:
        notices.append(
            f"{file.name}: {ungraded} problems have several answers, of which the log grades one"
            f" ({metric.full}); that one counts"
        )


def _chosen(file: Path, scorers: Sequence[str]) -> _Metric:
    lines = [line for _, line in islice(read_json_lines(file, expected=_EXPECTED), LINES_LOOKED_AT)]
    usable: dict[_Metric, bool] = {}
    for line in lines:
        for name in _metric_names(line):
            metric = _Metric(name, _filter(line))
            usable[metric] = usable.get(metric, True) and _grades(line, name) is not None
    found = _without_larger_k([metric for metric, good in usable.items() if good])
    if not found:
        names = ", ".join(sorted({metric.full for metric in usable}))[:200] or "none"
        raise InputError(
            f"{file}: found no metric that says of each answer whether it is right (metrics:"
            f" {names}), expected one such as exact_match, acc or pass@1"
        )
    by_name = {metric.full: metric for metric in found}
    return by_name[choose_scorer(file, list(by_name), scorers)]


def _without_larger_k(metrics: list[_Metric]) -> list[_Metric]:
    """Of pass@1, pass@8, … of one filter only the smallest k: all count the same answers."""
    smallest: dict[str, int] = {}
    for metric in metrics:
        if k := _k(metric.name):
            smallest[metric.filter] = min(k, smallest.get(metric.filter, k))
    return [metric for metric in metrics if _k(metric.name) in (0, smallest.get(metric.filter))]


def _metric_names(line: Mapping[str, Any]) -> list[str]:
    names = line.get("metrics")
    if not isinstance(names, list):
        return []
    return [name for name in names if isinstance(name, str) and name in line]


def _filter(line: Mapping[str, Any]) -> str:
    return str(line.get("filter", "none"))


def _k(name: str) -> int:
    found = _PASS_AT.fullmatch(name)
    return int(found[1]) if found else 0


def _repeats(line: Mapping[str, Any]) -> int:
    """How many answers were drawn for a document."""
    outer = line.get("resps")
    # A multiple choice has one request for each choice, and no answers.
    first = outer[0] if isinstance(outer, list) and len(outer) == 1 else None
    return len(first) if isinstance(first, list) else 1


def _grades(line: Mapping[str, Any], name: str) -> list[bool] | None:
    """The grade of each rollout, None where the metric does not tell."""
    value = line.get(name)
    if _is_binary(value):
        # pass@k = 1 of several answers says that one is right, not how many.
        if _k(name) and _repeats(line) > 1:
            return _worked_back(float(value), _repeats(line), _k(name))  # type: ignore[arg-type]
        return [bool(value)]
    if isinstance(value, list):
        good = len(value) == _repeats(line) and all(map(_is_binary, value))
        return [bool(one) for one in value] if good else None
    if _k(name) and isinstance(value, float):
        return _worked_back(value, _repeats(line), _k(name))
    return None


def _is_binary(value: object) -> bool:
    return isinstance(value, bool | int | float) and value in (0, 1)


def _worked_back(value: float, n: int, k: int) -> list[bool] | None:
    """Grades of n rollouts whose pass@k is this value; None where no or several counts have it."""
    if k > n:
        return None
    scores = pass_at_k(n, np.arange(n + 1), k)
    found = np.flatnonzero(np.abs(scores - value) < 1e-9)
    return [i < found[0] for i in range(n)] if found.size == 1 else None


def _answers(line: Mapping[str, Any], count: int) -> list[str | None]:
    responses = line.get("filtered_resps")
    # Log-likelihoods of choices, the whole text, or the code of a program: no answers.
    named = _filter(line) != "none" and isinstance(responses, list) and len(responses) == 1
    first = responses[0] if named and responses else None
    each = first if isinstance(first, list) else [first]
    if len(each) != count:
        return [None] * count
    return [storable(one) if isinstance(one, str) and one != _INVALID else None for one in each]


def _problem(where: str, line: Mapping[str, Any]) -> str:
    number, digest = line["doc_id"], line.get("doc_hash")
    if not isinstance(number, int | str) or isinstance(number, bool):
        raise InputError(f"{where}: doc_id: found {number!r:.60}, expected a number")
    return storable(f"{number}:{digest[:8]}" if isinstance(digest, str) else str(number))


def _model(file: Path, date: str | None) -> str:
    """As the results of the same date beside the file name it, else as the folder is named."""
    results = sorted(file.parent.glob("*.json"))
    for path in results:
        if date is not None and path.name.endswith(f"_{date}.json"):
            try:
                if not path.is_file() or path.stat().st_size > MOST_RESULTS_BYTES:
                    continue
                found = json.loads(path.read_bytes())
            except (OSError, ValueError, RecursionError):
                continue
            name = found.get("model_name") if isinstance(found, dict) else None
            if isinstance(name, str) and name:
                return storable(name)
    return file.resolve().parent.name or "model"
