"""Rollouts from inspect_ai logs (``.eval`` or ``.json``), of ``timberkit eval`` or anyone's.

Logs are read by inspect_ai's own functions, an ``.eval`` log a few samples at a time. In a log of
``timberkit eval`` the header says which model, task and setting it is of, and the summaries of the
samples are enough. In others the model and the task are those that inspect_ai names, ``epoch`` is
the rollout, and one scorer counts: ``C``, 1, True or "yes" is right, everything else that has a
grade is wrong (partly right too, with a notice). A score that is a mapping is named
``scorer/key``. Samples with an error count as wrong; those that have neither grade nor error are
left out, with a notice.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timberkit.errors import InputError, MissingExtraError, TimberkitError
from timberkit.evaluation.readers.source import Source, choose_scorer
from timberkit.rollouts import STOPS, Rollout, storable

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalSampleSummary

OURS = "timberkit"
"""Key of the unit in the metadata of our logs, and name of our scorer."""
MOST_JSON_BYTES = 2 << 30
"""Of a log in JSON, which is read whole; ``.eval`` logs may be of any size."""
MOST_MEMBER_BYTES = 1 << 30
"""Of one member of an ``.eval`` log, unpacked."""
_TOGETHER = 32
_NOT_NEEDED = {"events", "store", "attachments", "messages", "metadata", "timelines", "events_data"}
_STOPS = {"stop": "stop", "max_tokens": "length", "model_length": "length"}
_RIGHT = {"C", "1", "1.0", "true", "yes"}
_WRONG = {"I", "N", "0", "0.0", "false", "no"}
_AGAIN = "it is broken, or no log that inspect_ai wrote"


def open_inspect_logs(files: Sequence[Path], path: Path, scorers: Sequence[str]) -> Source:
    """The rollouts of some logs, found at ``path``.

    ``scorers``: those that the user wants counted. Raises MissingExtraError without the extra
    ``eval``; reading raises InputError for logs that cannot be read, and UsageError where several
    scorers could be counted and none is chosen. About a second for 2,000 samples of others, for
    10,000 of ours.
    """
    try:
        import inspect_ai.log  # noqa: F401
    except ImportError:
        raise MissingExtraError("inspect_ai", extra="eval") from None
    notices: list[str] = []
    return Source(path, "inspect_ai logs", _all(files, scorers, notices), notices)


def is_inspect_json(path: Path) -> bool:
    """Whether a JSON file begins as a log of inspect_ai does."""
    if not path.is_file():  # a pipe would block who opens it
        return False
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError:
        return False
    return start.lstrip().startswith(b"{") and b'"status"' in start and b'"eval"' in start


def _all(files: Sequence[Path], scorers: Sequence[str], notices: list[str]) -> Iterator[Rollout]:
    for file in files:
        with _readable(file):
            header = _header(file)
        if header.status not in ("success", None):
            notices.append(f"{file.name}: its run ended with status {header.status!r}")
        unit = (header.eval.metadata or {}).get(OURS)
        if isinstance(unit, dict):
            yield from _ours(file, unit)
        else:
            yield from _theirs(file, header, scorers, notices)


def _header(file: Path) -> EvalLog:
    from inspect_ai.log import read_eval_log

    if not file.is_file():
        raise InputError(f"{file}: is no plain file, expected a log; take it out of the folder")
    if file.suffix == ".json":
        if file.stat().st_size > MOST_JSON_BYTES:
            raise InputError(
                f"{file}: over {MOST_JSON_BYTES >> 30} GiB of JSON, which would be read whole;"
                " convert it: inspect log convert --to eval"
            )
        return read_eval_log(file, resolve_attachments=False)
    with zipfile.ZipFile(file) as archive:
        largest = max((member.file_size for member in archive.infolist()), default=0)
    if largest > MOST_MEMBER_BYTES:
        raise InputError(f"{file}: holds a member of {largest} bytes unpacked; {_AGAIN}")
    return read_eval_log(file, header_only=True)


def _ours(file: Path, unit: Mapping[str, Any]) -> Iterator[Rollout]:
    with _readable(file):
        from inspect_ai.log import read_eval_log_sample_summaries

        names = [unit[name] for name in ("model", "task", "setting")]
        if not all(isinstance(name, str) for name in names):
            raise InputError(f"{file}: names no model and task; {_AGAIN}")
        model, task, setting = map(storable, names)
        found = [
            _of_summary(summary, model, task, setting)
            for summary in read_eval_log_sample_summaries(file)
        ]
    yield from found


def _of_summary(summary: EvalSampleSummary, model: str, task: str, setting: str) -> Rollout:
    score = (summary.scores or {})[OURS]
    stop = str(summary.metadata.get("stop"))
    return Rollout(
        model,
        task,
        setting,
        storable(str(summary.id)),
        summary.epoch,
        score.value == "C",
        None if score.answer is None else storable(score.answer),
        stop=stop if stop in STOPS else "unknown",
        input_tokens=_count(summary.metadata.get("input_tokens")),
        output_tokens=_count(summary.metadata.get("output_tokens")),
        error=None if summary.error is None else storable(summary.error),
    )


def _theirs(
    file: Path, header: EvalLog, scorers: Sequence[str], notices: list[str]
) -> Iterator[Rollout]:
    model, task = storable(header.eval.model), storable(header.eval.task)
    chosen: str | None = None
    unscored = partly = 0
    for sample in _samples(file, header):
        values = _values(sample)
        if values and chosen is None:
            chosen = choose_scorer(file, sorted(values), scorers)
        grade = _grade(file, sample, chosen, values)
        if grade is None and sample.error is None:
            unscored += 1
            continue
        partly += grade is not None and 0 < grade < 1
        yield _rollout(sample, model, task, chosen, grade)
    if unscored:
        notices.append(f"{file.name}: {unscored} samples have no grade and are left out")
    if partly:
        notices.append(f"{file.name}: {partly} samples are graded as partly right: they are wrong")


def _samples(file: Path, header: EvalLog) -> Iterator[EvalSample]:
    if header.samples is not None:
        yield from header.samples
        return
    from inspect_ai.log import read_eval_log_sample_summaries, read_eval_log_samples_by_id

    with _readable(file):
        keys = [(sample.id, sample.epoch) for sample in read_eval_log_sample_summaries(file)]
    for start in range(0, len(keys), _TOGETHER):
        with _readable(file):
            found = read_eval_log_samples_by_id(
                file, keys[start : start + _TOGETHER], exclude_fields=_NOT_NEEDED
            )
        yield from found


def _values(sample: EvalSample) -> dict[str, object]:
    """Every value that could be the grade, by name."""
    values: dict[str, object] = {}
    for name, score in (sample.scores or {}).items():
        if isinstance(score.value, Mapping):
            values |= {f"{name}/{key}": value for key, value in score.value.items()}
        else:
            values[name] = score.value
    return values


def _grade(
    file: Path, sample: EvalSample, chosen: str | None, values: Mapping[str, object]
) -> float | None:
    """1 for right, 0 for wrong, between them for partly right; None without a grade."""
    value = None if chosen is None else values.get(chosen)
    if value is None:
        return None
    if isinstance(value, str):
        word = value if value in ("C", "I", "P", "N") else value.lower()
        found = 1.0 if word in _RIGHT else 0.0 if word in _WRONG else 0.5 if word == "P" else None
    else:
        found = float(value) if isinstance(value, bool | int | float) else None
    if found is not None and math.isnan(found):
        return None
    if found is None or not 0 <= found <= 1:
        raise InputError(
            f"{file}: sample {str(sample.id)[:60]!r}, epoch {sample.epoch}: scorer {chosen!r:.60}"
            f" gave {str(value)[:60]!r}, expected C or I, true or false, or a number from 0 to 1"
        )
    return found


def _rollout(
    sample: EvalSample, model: str, task: str, chosen: str | None, grade: float | None
) -> Rollout:
    scores = sample.scores or {}
    score = scores.get(chosen) if chosen is not None and chosen in scores else None
    if score is None and chosen is not None:
        score = scores.get(chosen.rpartition("/")[0])
    answer = None if score is None else score.answer
    usage = list(sample.model_usage.values())
    return Rollout(
        model,
        task,
        "",
        storable(str(sample.id)),
        sample.epoch,
        grade == 1.0 and sample.error is None,
        None if answer is None else storable(answer),
        stop=_stop(sample),
        input_tokens=sum(part.input_tokens for part in usage) if usage else None,
        output_tokens=sum(part.output_tokens for part in usage) if usage else None,
        error=None if sample.error is None else storable(sample.error.message),
    )


def _stop(sample: EvalSample) -> str:
    if sample.error is not None:
        return "error"
    if sample.limit is not None and sample.limit.type in ("token", "context"):
        return "length"
    if not sample.output.choices:
        return "unknown"
    reason = sample.output.stop_reason
    return "content_filter" if reason == "content_filter" else _STOPS.get(reason, "unknown")


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever a broken log makes inspect_ai raise becomes an InputError."""
    try:
        yield
    except TimberkitError:
        raise
    # What its readers of zip, zstd and JSON raise has no common root: tried with damaged logs.
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read as a log of inspect_ai ({type(error).__name__}:"
            f" {str(error)[:200]}); {_AGAIN}"
        ) from None
