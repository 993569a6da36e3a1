"""Rollouts from wherever they were made, through one door.

    source = read_any(Path("run"))
    for rollout in source.rollouts: ...

=================  ===============================================================================
``run_folder``     a run folder of ``timberkit eval``, finished or not
``inspect_logs``   inspect_ai logs, ``.eval`` or ``.json``, of any task and scorer
``lm_eval``        ``samples_*.jsonl`` of lm-evaluation-harness
``jsonl``          JSON lines with model, task, problem and correct
=================  ===============================================================================

``rollouts.parquet`` is read by ``timberkit.rollouts``. Kinds are told apart by what is inside, not
by the name alone. Whole texts are never kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from timberkit.checkpoint.manifest import MANIFEST_NAME
from timberkit.errors import InputError
from timberkit.evaluation.readers.inspect_logs import is_inspect_json, open_inspect_logs
from timberkit.evaluation.readers.json_lines import read_json_lines
from timberkit.evaluation.readers.jsonl import is_jsonl, open_jsonl
from timberkit.evaluation.readers.lm_eval import is_lm_eval, open_lm_eval
from timberkit.evaluation.readers.run_folder import open_run
from timberkit.evaluation.readers.source import Source
from timberkit.rollouts import ROLLOUTS_NAME, read_rollouts

__all__ = ["Source", "read_any"]

_EXPECTED = (
    "a run folder of timberkit eval, rollouts.parquet, inspect_ai logs (.eval, .json), samples of"
    " lm-evaluation-harness (samples_*.jsonl), or JSON lines with model, task, problem and correct"
)
MOST_FILES = 100_000
"""Logs in one folder."""


def read_any(path: Path, scorers: Sequence[str] = ()) -> Source:
    """Recognise what lies at a path and open it; its rollouts are read when they are iterated.

    ``scorers``: what counts as right where a log has several grades (``inspect_logs``,
    ``lm_eval``). Raises InputError for what is missing or not known, and as the readers do.
    """
    if path.is_dir():
        return _read_folder(path, scorers)
    if not path.is_file():
        raise InputError(f"{path}: found no such file or folder, expected {_EXPECTED}")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror}; look at the permissions"
        ) from None
    if start == b"PAR1":
        rollouts = read_rollouts(path, texts=False)
        return Source(
            path, "rollouts of timberkit eval", rollouts, answers_recorded=True, table=path
        )
    if start.startswith(b"PK"):
        return open_inspect_logs([path], path, scorers)
    if path.suffix == ".json" and is_inspect_json(path):
        return open_inspect_logs([path], path, scorers)
    if path.suffix == ".json" and any(path.parent.glob("samples_*.jsonl")):
        raise InputError(
            f"{path}: holds means only; give the samples_*.jsonl beside it (lm-eval writes them"
            " with --log_samples), or their folder"
        )
    first = next((line for _, line in read_json_lines(path, expected=_EXPECTED)), None)
    if first is None:
        raise InputError(f"{path}: is empty, expected {_EXPECTED}")
    if is_lm_eval(first):
        return open_lm_eval([path], path, scorers)
    if is_jsonl(first):
        return open_jsonl(path)
    names = ", ".join(map(repr, list(first)[:6]))[:200] or "none"
    raise InputError(f"{path}: found JSON with the fields {names}, expected {_EXPECTED}")


def _read_folder(path: Path, scorers: Sequence[str]) -> Source:
    if (path / MANIFEST_NAME).exists():
        return open_run(path)
    if (path / ROLLOUTS_NAME).is_file():
        return read_any(path / ROLLOUTS_NAME)
    files = sorted(path.rglob("samples_*.jsonl"))
    logs = sorted(path.rglob("*.eval"))
    logs += [file for file in sorted(path.rglob("*.json")) if is_inspect_json(file)]
    if files and logs:
        raise InputError(
            f"{path}: holds logs of inspect_ai and of lm-evaluation-harness; give their folders"
            " one by one"
        )
    if max(len(files), len(logs)) > MOST_FILES:
        raise InputError(f"{path}: holds over {MOST_FILES} logs, expected a folder of fewer")
    if logs:
        return open_inspect_logs(logs, path, scorers)
    if files:
        return open_lm_eval(files, path, scorers)
    raise InputError(f"{path}: found no rollouts in this folder, expected {_EXPECTED}")
