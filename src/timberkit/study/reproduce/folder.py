"""The folder of a study: its recipe, its lock, its ledger of what is done.

::

    STUDY/
    ├── timberkit.json     the recipe; a folder belongs to one
    ├── ledger.jsonl       what is done, line by line: steps with their cost, facts of every model,
    │                      exact probabilities (``checkpoint.journal``)
    ├── analysis/          as of ``timberkit analyze``
    ├── models/            the models that are kept
    ├── passes/            a pass over the weights that is under way
    ├── rollouts/<mode>/   runs of ``timberkit eval``: plain, thinking, or the models' own mode
    ├── results.json       what was found (``findings``); tables/, figures/, report.html beside it
    └── lock               held by the run that is alive

Every step that the ledger does not name is done, or done again; steps continue by themselves what
they had begun. So a study may be killed anywhere, and the same command goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from timberkit.checkpoint.journal import Journal
from timberkit.checkpoint.manifest import MANIFEST_NAME, SCHEMA_VERSION, read_manifest
from timberkit.checkpoint.run_folder import differing_fields, hold_folder, write_json
from timberkit.engine.finish import TOOL_VERSION
from timberkit.errors import CheckpointError, StageConflictError
from timberkit.findings import Cost
from timberkit.home import from_home
from timberkit.study_recipe import StudyRecipe

KIND = "study"
LEDGER_NAME = "ledger.jsonl"
_COST = TypeAdapter(Cost)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What writing a model told of it: see ``findings.StudyModel``."""

    correction: float | None
    energy: float | None


@dataclass(slots=True)
class StudyFolder:
    """A study's folder, held by this process: what the ledger says, and where things lie.

    ``asked``: by model and task, how many requests failed for good. ``sources``: what the files of
    Base and Instruct look like (``OpenPair.fingerprint``), None before a step needed them.
    """

    path: Path
    journal: Journal
    costs: dict[str, Cost] = field(default_factory=dict)
    facts: dict[str, ModelFacts] = field(default_factory=dict)
    exact: dict[tuple[str, str], NDArray[np.float64]] = field(default_factory=dict)
    asked: dict[tuple[str, str], int] = field(default_factory=dict)
    sources: Mapping[str, Any] | None = None
    revisions: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def analysis(self) -> Path:
        """Of ``analyze``."""
        return self.path / "analysis"

    @property
    def models(self) -> Path:
        """A folder for each model that is kept."""
        return self.path / "models"

    @property
    def passes(self) -> Path:
        """Passes over the weights that are under way; nothing in it is the only copy."""
        return self.path / "passes"

    def rollouts(self, mode: str) -> Path:
        """The evaluation run of one mode."""
        return self.path / "rollouts" / mode

    def finish(self, cost: Cost) -> None:
        """Note that a step is done, and what it took."""
        self.journal.append([{"step": asdict(cost)}])
        self.costs[cost.step] = cost

    def note_models(self, facts: Mapping[str, ModelFacts]) -> None:
        """Note what is known of models that were written."""
        self.journal.append([{"model": key, **asdict(each)} for key, each in facts.items()])
        self.facts |= facts

    def note_exact(self, model: str, task: str, p: NDArray[np.float64]) -> None:
        """Keep the success probabilities of a model on a benchmark."""
        self.journal.append([{"exact": [model, task], "p": p.tolist()}])
        self.exact[model, task] = p

    def note_asked(self, model: str, task: str, failed: int = 0) -> None:
        """Note that a model was asked a benchmark as often as is wanted, and how often in vain."""
        self.journal.append([{"asked": [model, task], "failed": failed}])
        self.asked[model, task] = failed

    def note_sources(
        self, fingerprint: Mapping[str, Any], revisions: Mapping[str, str | None]
    ) -> None:
        """Note what the files of Base and Instruct look like, and which revisions of the hub's they
        are: a study is of these alone."""
        entry = {"sources": dict(fingerprint), "revisions": dict(revisions)}
        self.journal.append([entry])
        self.sources, self.revisions = entry["sources"], dict(revisions)

    def _read(self) -> None:
        for entry in self.journal.entries():
            try:
                self._take(entry)
            except (KeyError, TypeError, ValueError, ValidationError) as error:
                raise CheckpointError(
                    f"{self.journal.path}: holds an entry that no study writes ({error!s:.200});"
                    " it was changed, or is of another version of timberkit: give the study a new"
                    " folder"
                ) from None

    def _take(self, entry: Mapping[str, Any]) -> None:
        if "step" in entry:
            cost = _COST.validate_python(entry["step"])
            self.costs[cost.step] = cost
        elif "model" in entry:
            self.facts[str(entry["model"])] = ModelFacts(entry["correction"], entry["energy"])
        elif "exact" in entry:
            model, task = entry["exact"]
            p = np.array(entry["p"], dtype=np.float64)
            if p.ndim != 1 or not bool(((p >= 0) & (p <= 1)).all()):
                raise ValueError(f"probabilities of {model} on {task}")
            self.exact[str(model), str(task)] = p
        elif "sources" in entry:
            if set(entry["sources"]) != {"base", "instruct"}:
                raise ValueError("sources: expected base and instruct")
            self.sources, self.revisions = dict(entry["sources"]), dict(entry["revisions"])
        else:
            model, task = entry["asked"]
            self.asked[str(model), str(task)] = int(entry["failed"])


@contextmanager
def hold_study(path: Path, recipe: StudyRecipe) -> Iterator[StudyFolder]:
    """Open a study's folder, made if missing, for this process alone.

    Raises StageConflictError where a run is alive in it or it belongs to another recipe,
    OutputExistsError where something else stands there, CheckpointError for a broken ledger.
    """
    with hold_folder(path, kind=KIND, doing="running a study in"):
        _claim(path, recipe)
        journal = Journal(path / LEDGER_NAME)
        try:
            folder = StudyFolder(path, journal)
            folder._read()
            yield folder
        finally:
            journal.close()


def comparable(recipe: StudyRecipe) -> dict[str, Any]:
    """What must not change within one folder, as JSON values.

    Where a ready-made pair and the files of benchmarks lie is another place on every machine:
    weights and benchmark files are known by what is in them, not by where they lie.
    """
    fields = recipe.model_dump(mode="json", exclude={"unsandboxed", "tasks"})
    if recipe.pair is not None:
        del fields["base"], fields["instruct"]
    fields["tasks"] = sorted(
        f"{task.name}:{task.setting}" if task.setting else task.name for task in recipe.tasks
    )
    return dict(from_home(fields))


def _claim(path: Path, recipe: StudyRecipe) -> None:
    """Write the recipe into a new folder, or compare it with that of the folder."""
    fields = comparable(recipe)
    if not (path / MANIFEST_NAME).exists():
        note = {"kind": KIND, "version": TOOL_VERSION, "recipe": fields}
        write_json(path / MANIFEST_NAME, {"schema_version": SCHEMA_VERSION, **note})
        return
    there = read_manifest(path)
    before = from_home({**dict(there.get("recipe") or {}), "version": there.get("version")})
    now = {**fields, "version": TOOL_VERSION}
    differing = differing_fields(before, now)
    if differing:
        raise StageConflictError(
            f"{path}: is a study of another recipe:\n  "
            + "\n  ".join(differing)
            + "\ngive the options from before, or another folder"
        )
