"""What the problems of a run said, read from its logs: prompts and right answers.

    asked = read_asked(Path("run"), [("aime24", "60")], model="instruct")
    asked["aime24", "60"].prompt

``rollouts.parquet`` keeps what models answered and not what they were asked, which is the same for
all rollouts of a problem; the logs have it.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from timberkit.evaluation.inspect_log import READ_TOGETHER, _readable, read_logged
from timberkit.evaluation.journal import Key
from timberkit.evaluation.run_files import read_run

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample


@dataclass(frozen=True, slots=True)
class Asked:
    """One problem as it was put to a model; ``target`` is empty where there is no one answer."""

    prompt: str
    target: str


def read_asked(
    path: Path, problems: Iterable[tuple[str, str]], *, model: str | None = None
) -> dict[tuple[str, str], Asked]:
    """Prompts of some problems of a run folder.

    ``problems``: (task, problem), the task with or without its setting (``math500:paper``).
    ``model``: whose prompts are wanted, for a chat and a raw prompt differ; another's where it has
    none. Returns what is there: problems that no log has are left out. Needs inspect_ai.

    Raises CheckpointError for a folder that is no run, InputError for a log that cannot be read.
    About 5 ms a problem, and as much for each hundred rollouts of the logs that are opened.
    """
    run = read_run(path)
    missing = dict.fromkeys(problems)
    found: dict[tuple[str, str], Asked] = {}
    for unit in sorted(run.units.values(), key=lambda unit: unit.model != model):
        for label in (unit.task, f"{unit.task}:{unit.setting}"):
            wanted = {problem for task, problem in missing if task == label}
            pattern = f"{glob.escape(unit.stem)}_[0-9]*.eval"
            for log in sorted((run.logs / unit.folder).glob(pattern)) if wanted else ():
                keys = {key[0]: key for key in (one.key for one in read_logged(log, unit.digest))}
                for problem, asked in _read(log, [keys[name] for name in wanted & set(keys)]):
                    found[label, problem] = asked
                    wanted.discard(problem)
                    missing.pop((label, problem), None)
    return found


def _read(log: Path, keys: Sequence[Key]) -> Iterable[tuple[str, Asked]]:
    from inspect_ai.log import read_eval_log_samples_by_id

    for start in range(0, len(keys), READ_TOGETHER):
        with _readable(log):
            samples = read_eval_log_samples_by_id(
                log, keys[start : start + READ_TOGETHER], resolve_attachments="full"
            )
            asked = {str(one.id): Asked(_prompt(one), _target(one)) for one in samples}
        yield from asked.items()


def _prompt(sample: EvalSample) -> str:
    """One message as it is; of several, each below the name of its role."""
    if isinstance(sample.input, str):
        return sample.input
    if len(sample.input) == 1:
        return sample.input[0].text
    return "\n\n".join(f"[{message.role}]\n{message.text}" for message in sample.input)


def _target(sample: EvalSample) -> str:
    return sample.target if isinstance(sample.target, str) else ", ".join(sample.target)
