"""The folder of an evaluation: what lies in it, who may write to it, and whether it fits.

::

    RUN/
    ├── timberkit.json        every unit with its settings, the data's SHA-256, versions; written
    │                         before the first request of a unit
    ├── logs/<model>/         inspect_ai logs: where rollouts are kept (``inspect_log``)
    ├── journal/<model>/      rollouts that are in no log yet (``journal``)
    ├── rollouts.parquet      all rollouts in one table, made from the logs
    ├── summary.json          means, Pass@k and rates, likewise
    └── lock                  held (flock) by the run that is alive

A run folder grows: more rollouts, problems, models or tasks may be asked for later. What may not
change is a unit's settings, for its answers could not be told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from timberkit.checkpoint.manifest import MANIFEST_NAME, SCHEMA_VERSION, read_manifest
from timberkit.checkpoint.run_folder import differing_fields, hold_folder, write_json
from timberkit.errors import (
    CheckpointError,
    StageConflictError,
    UsageError,
)
from timberkit.evaluation.units import Unit

KIND = "evaluation"
SUMMARY_NAME = "summary.json"


@dataclass(slots=True)
class RunFolder:
    """A run folder that is held. ``units``: those that it has, by their keys.

    ``problems``: the keys of each benchmark's problems in their order, by ``task:setting``.
    """

    path: Path
    units: dict[str, Unit] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def logs(self) -> Path:
        """Where the logs are."""
        return self.path / "logs"

    @property
    def journal(self) -> Path:
        """Where the journal is."""
        return self.path / "journal"

    def refuse_other_settings(self, unit: Unit, *, but: tuple[str, ...] = ()) -> None:
        """Raise StageConflictError, naming the fields, for a unit that has other settings here.

        ``but``: settings that are not known yet, and not compared.
        """
        self._refuse_other_data(unit)
        old = self.units.get(unit.key)
        if old is None:
            return
        before = {name: value for name, value in old.settings.items() if name not in but}
        now = {name: value for name, value in unit.settings.items() if name not in but}
        differing = differing_fields(before, now)
        if differing:
            raise StageConflictError(
                f"{self.path}: has rollouts of {unit.key} with other settings:\n  "
                + "\n  ".join(differing)
                + "\ngive the settings from before, or another folder"
            )

    def _refuse_other_data(self, unit: Unit) -> None:
        """One benchmark is one set of problems for all models of a run."""
        for other in self.units.values():
            same = (other.task, other.setting) == (unit.task, unit.setting)
            if same and other.settings.get("data") != unit.settings.get("data"):
                raise StageConflictError(
                    f"{self.path}: {other.model} answered {unit.task} from other data:\n  "
                    + "\n  ".join(
                        differing_fields(
                            {"data": other.settings.get("data")}, {"data": unit.settings["data"]}
                        )
                    )
                    + "\ngive the file from before (--data), or another folder"
                )

    def add(self, units: list[Unit], problems: Mapping[str, list[str]]) -> None:
        """Note units in the manifest, before anything is asked for them.

        Raises StageConflictError as ``refuse_other_settings``, InterruptedRunError without room.
        """
        for unit in units:
            self.refuse_other_settings(unit)
            self.units[unit.key] = unit
        self.problems |= problems
        self.write()

    def write(self) -> None:
        """Write the manifest, whole or not at all."""
        fields = {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {name: _version(name) for name in ("timberkit", "inspect_ai")},
            "recipe": dict(self.recipe),
            "units": [unit.as_json() for unit in self.units.values()],
            "problems": self.problems,
        }
        write_json(self.path / MANIFEST_NAME, fields)


@contextmanager
def hold_run(path: Path) -> Iterator[RunFolder]:
    """Open a run folder, made if missing, for this process alone.

    Raises StageConflictError where a run is alive in it, OutputExistsError where something else
    than an evaluation stands there, UsageError where nothing can be created.
    """
    with hold_folder(path, kind=KIND, doing="evaluating into"):
        _remove_drafts(path)
        yield _read(path)


def read_run(path: Path) -> RunFolder:
    """What a run folder holds, for readers: nothing is locked or made.

    Raises CheckpointError for a folder that is no evaluation or whose manifest is broken.
    """
    if not (path / MANIFEST_NAME).exists():
        raise CheckpointError(f"{path}: no {MANIFEST_NAME}, expected a folder of timberkit eval")
    return _read(path)


def _remove_drafts(path: Path) -> None:
    """Files that a killed run left half written."""
    # Of the logs whatever is hidden: inspect_ai has temporary names of its own as well.
    for pattern in ("logs/*/.*", ".*.part", "*.draft"):
        for draft in path.glob(pattern):
            draft.unlink(missing_ok=True)


def _read(path: Path) -> RunFolder:
    if not (path / MANIFEST_NAME).exists():
        return RunFolder(path)
    fields = read_manifest(path)
    try:
        if fields["kind"] != KIND:
            raise UsageError(f"{path}: is no evaluation")
        units = [_unit(each) for each in fields["units"]]
        problems = {
            str(name): [str(key) for key in keys] for name, keys in fields["problems"].items()
        }
        recipe = dict(fields["recipe"])
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise CheckpointError(
            f"{path / MANIFEST_NAME}: is not what timberkit eval writes ({error}); restore the"
            " file, or give the run a folder of its own"
        ) from None
    return RunFolder(path, {unit.key: unit for unit in units}, problems, recipe)


def _unit(fields: Mapping[str, Any]) -> Unit:
    names = ("model", "folder", "task", "setting", "stem")
    for name in names:
        value = fields[name]
        if not isinstance(value, str) or not value or "/" in value or value.startswith("."):
            raise ValueError(f"unit: {name} is {value!r:.80}")
    unit = Unit(**{name: fields[name] for name in names}, settings=dict(fields["settings"]))
    if unit.digest != fields["digest"]:
        raise ValueError(f"unit {unit.key!r:.80}: its digest is that of other settings")
    return unit


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
