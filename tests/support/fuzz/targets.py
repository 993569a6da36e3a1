"""Every parser of a stranger's file, as a function of that file alone.

A target is told its seed's bytes as a file and calls what the commands call; it may raise
``TimberkitError`` and nothing else. What a target needs besides is made once, by its ``setup``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timberkit
from fuzz.make_corpus import write_pair
from timberkit.checkpoint.companions import compare_files
from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.journal import Journal, holds_entries
from timberkit.checkpoint.manifest import hash_file
from timberkit.checkpoint.model_card import read_licence, read_pipeline_tag
from timberkit.checkpoint.sidecars import copy_sidecars
from timberkit.checkpoint.stage_folder import read_note
from timberkit.cli_push import push_fields
from timberkit.config import build_analyze_recipe, build_recipe, parse_variant, read_recipe
from timberkit.engine.analysis_files import read_analysis
from timberkit.engine.plan import plan_refinement
from timberkit.engine.push import plan_push
from timberkit.engine.verify import verify
from timberkit.errors import TimberkitError
from timberkit.evaluation.data import locate, rows
from timberkit.evaluation.journal import Segment
from timberkit.evaluation.model_files import ModelFiles, read_facts
from timberkit.evaluation.models import parse_model
from timberkit.evaluation.readers import read_any
from timberkit.evaluation.run_files import read_run
from timberkit.evaluation.sampling import resolve_sampling
from timberkit.evaluation_recipe import build_evaluation_recipe
from timberkit.rollouts import count_rollouts, read_rollouts
from timberkit.study.reproduce.files import read_results
from timberkit.study.texts import read_texts, speaks_sapling
from timberkit.study_recipe import build_study_recipe

Run = Callable[[Path], None]
"""Gets a folder that holds the mutated file under the name of ``Target.name``."""


@dataclass(frozen=True)
class Target:
    """One parser: ``name`` is that of the file ("" for its seed's own), ``make`` the rest."""

    name: str
    run: Run
    make: Callable[[Path], object] = lambda _folder: None


@contextmanager
def refusing() -> Iterator[None]:
    """Errors of ours are an answer: what is tried after them is tried too."""
    try:
        yield
    except TimberkitError as error:
        # A message that cannot be written to a terminal or a log would be the next crash.
        str(error).encode(errors="backslashreplace")
        if len(str(error)) > 20_000:
            raise RuntimeError("a message of the size of the file") from None


def _open(folder: Path) -> None:
    with refusing():
        checkpoint = open_checkpoint(folder / "instruct")
        with refusing():
            recipe = build_recipe({"base": "b", "instruct": "i"})
            base = open_checkpoint(folder / "base")
            plan_refinement(base, checkpoint, recipe)
            plan_refinement(checkpoint, checkpoint, recipe)
        copied = folder / "copied"
        copied.mkdir(exist_ok=True)
        copy_sidecars(checkpoint, copied, dtype="F32")


def _config(folder: Path) -> None:
    _open(folder)
    compare_files(folder / "base", folder / "instruct")
    facts = read_facts(ModelFiles(parse_model(str(folder / "instruct")), folder / "instruct"))
    resolve_sampling(facts)
    with refusing():
        speaks_sapling(folder / "instruct")


def _output(folder: Path) -> None:
    base, instruct = write_pair(folder)
    timberkit.refine(base, instruct, folder / "out", workers=1)


def _manifest(folder: Path) -> None:
    out = folder / "out"
    _rehash(out)
    with refusing():
        verify(out, base=folder / "base", instruct=folder / "instruct")
    with refusing():
        verify(out, sources=False)
    with refusing():
        json.dumps(push_fields(plan_push(out, "org/x"), None), allow_nan=False)
    with refusing():
        fields, origin = read_recipe(out / "timberkit.json")
        build_recipe(fields, where=origin)
    with refusing():
        read_any(out)


def _rehash(out: Path) -> None:
    """Make the manifest's hashes fit the files, where it can be read, as a forger would."""
    try:
        fields = json.loads((out / "timberkit.json").read_bytes())
    except (ValueError, RecursionError):
        return
    if isinstance(fields, dict) and isinstance(fields.get("files"), dict):
        for name in fields["files"].keys() & {"README.md", "config.json"}:
            fields["files"][name] = hash_file(out / name)
        (out / "timberkit.json").write_text(json.dumps(fields))


def _push_card(folder: Path) -> None:
    read_licence(folder / "out")
    read_pipeline_tag(folder / "out")
    _rehash(folder / "out")
    plan = plan_push(folder / "out", "org/x")
    text = json.dumps(push_fields(plan, None), allow_nan=False)
    assert len(text) < 10_000_000, "the card was expanded"


def _journal(folder: Path) -> None:
    path = folder / "journal.jsonl"
    holds_entries(path)
    read_note(path)
    journal = Journal(path)
    found = list(journal.entries())
    journal.append([{"key": "c"}])
    assert list(journal.entries()) == [*found, {"key": "c"}]
    journal.close()


def _segment(folder: Path) -> None:
    """Its lines are checked by a hash, so the changes are made inside them."""
    path = folder / "segment.jsonl"
    entries = []
    for line in path.read_bytes().split(b"\n"):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        entry = found.get("entry") if isinstance(found, dict) else found
        entries.append(entry if isinstance(entry, dict) else {"entry": entry})
    path.unlink()
    journal = Journal(path)
    journal.append([_without_constants(entry) for entry in entries[:50]])
    journal.close()
    segment = Segment(path, number=1, digest="d")
    try:
        list(segment.generations())
    finally:
        segment.close()


def _without_constants(entry: dict[str, Any]) -> dict[str, Any]:
    """The same without NaN and infinity, which the journal would not write."""
    return dict(json.loads(json.dumps(entry), parse_constant=lambda _: 0))


def _recipe(folder: Path) -> None:
    for path in sorted(folder.glob("mutated.*")):
        fields, origin = read_recipe(path)
        for build in (
            build_recipe, build_analyze_recipe, build_evaluation_recipe, build_study_recipe,
        ):  # fmt: skip
            with refusing():
                build(fields, where=origin)


def _variant(folder: Path) -> None:
    for path in folder.glob("mutated.*"):
        parse_variant(path.read_bytes().decode(errors="surrogateescape"))


def _analysis(folder: Path) -> None:
    read_analysis(folder)


def _make_analysis(folder: Path) -> None:
    for kind, name in (("spectra", "spectra.parquet"), ("summary", "summary.json")):
        (seed,) = (CORPUS / kind).glob("seed.*")
        shutil.copy(seed, folder / name)


def _rollouts(folder: Path) -> None:
    path = folder / "rollouts.parquet"
    with refusing():
        count_rollouts(path)
    with refusing():
        list(read_any(path).rollouts)
    list(read_rollouts(path))


def _results(folder: Path) -> None:
    read_results(folder)


def _any(folder: Path) -> None:
    for path in folder.glob("mutated.*"):
        source = read_any(path, ("match", "exact_match"))
        list(source.rollouts)
        for notice in source.notices:
            notice.encode(errors="backslashreplace")


def _run(folder: Path) -> None:
    with refusing():
        read_run(folder)
    read_any(folder)


def _benchmark(folder: Path) -> None:
    for path in folder.glob("mutated.*"):
        rows("task", locate("task", str(path)), ("problem", "answer"))
    for path in folder.glob("mutated.jsonl"):
        read_texts(path)


def _generation(folder: Path) -> None:
    for path in list(folder.glob("mutated.json")):
        for name in ("generation_config.json", "tokenizer_config.json"):
            shutil.copy(path, folder / name)
    resolve_sampling(read_facts(ModelFiles(parse_model(str(folder)), folder)))


CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus"
TARGETS: dict[str, Target] = {
    "shard": Target("instruct/model-00002-of-00002.safetensors", _open, write_pair),
    "index": Target("instruct/model.safetensors.index.json", _open, write_pair),
    "config": Target("instruct/config.json", _config, write_pair),
    "manifest": Target("out/timberkit.json", _manifest, _output),
    "card": Target("out/README.md", _push_card, _output),
    "journal": Target("journal.jsonl", _journal),
    "segment": Target("segment.jsonl", _segment),
    "recipe": Target("", _recipe),
    "variant": Target("", _variant),
    "spectra": Target("spectra.parquet", _analysis, _make_analysis),
    "summary": Target("summary.json", _analysis, _make_analysis),
    "rollouts": Target("rollouts.parquet", _rollouts),
    "results": Target("results.json", _results),
    "eval-log": Target("", _any),
    "samples": Target("", _any),
    "run": Target("timberkit.json", _run),
    "benchmark": Target("", _benchmark),
    "generation": Target("", _generation),
}


def seeds_of(target: str) -> dict[str, bytes]:
    """Name and content of every file in the corpus of a target: seeds and earlier findings."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / target).iterdir())}


def place(target: Target, folder: Path, suffix: str, data: bytes) -> None:
    """Put the bytes where the target looks for them, and nothing of an earlier one."""
    for old in folder.glob("mutated.*"):
        old.unlink()
    path = folder / (target.name or f"mutated{suffix}")
    path.write_bytes(data)


def exercise(target: Target, folder: Path, suffix: str, data: bytes) -> None:
    """Give a parser the bytes; whatever is raised but an error of ours is a finding."""
    place(target, folder, suffix, data)
    with refusing():
        target.run(folder)


def memory_bytes() -> dict[str, int]:
    """Address space of this process now, and the most that it has had."""
    status: dict[str, Any] = dict(
        line.split(":", 1) for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    )
    return {name: int(status[name].split()[0]) << 10 for name in ("VmSize", "VmPeak", "VmHWM")}
