"""What ``timberkit eval`` costs beside the model: time and memory of a rollout, and its agreement.

    python benchmarks/evaluation.py                  # an instant model, 1,000 and 10,000 rollouts
    python benchmarks/evaluation.py --inspect        # the same through inspect_ai's own eval_set
    python benchmarks/evaluation.py --agreement      # sampled against exact probabilities

Overhead: a model in the engine's process answers at once with reasoning of a chosen length and a
puzzle's answer; each size is a process of its own, measured with its graders. What a rollout costs
is the slope between the sizes, which leaves start and imports out. Agreement: 100 puzzles, 128
rollouts of the embedded pair and two merges of it, against the exact success probabilities, in a
band that holds all puzzles of a model with 99.9 %. Tables, then the result as one line of JSON;
``--write-docs`` rewrites the section of ``docs/evaluate.md``. Linux only. Not here: how fast any
real model answers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from machine import describe
from process_meter import measure
from rich.console import Console
from rich.table import Table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "evaluate.md"
SIZES = (1_000, 10_000)
MOST_MILLISECONDS, MOST_GROWTH = 25.0, 1.25
"""What is asked of a rollout more, and of peak memory at ten times the rollouts."""
PROBLEMS, ROLLOUTS, CONFIDENCE = 100, 128, 0.999


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agreement", action="store_true", help="sampled against exact")
    parser.add_argument("--inspect", action="store_true", help="also through inspect_ai's eval_set")
    parser.add_argument("--characters", type=int, nargs="+", default=[2_000, 100_000])
    parser.add_argument("--sizes", type=int, nargs=2, default=SIZES, metavar="ROLLOUTS")
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--write-docs", action="store_true", help="rewrite docs/evaluate.md")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"· {text}", file=sys.stderr, flush=True)


@cache
def filler() -> str:
    """Two million characters that compress about as prose does."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlucmfw", k=draw.randint(1, 9))) for _ in range(4_000)]
    return " ".join(draw.choices(words, k=400_000))[:2_000_000]


def text_of(seed: int, characters: int) -> str:
    """An answer with reasoning of about this length."""
    start = seed % 1_000_000
    return f"<think>{filler()[start : start + characters]}</think>\n7 * 3 = 21"


def stub_class() -> type:
    """A provider of inspect_ai that answers at once."""
    from inspect_ai.model import GenerateConfig, ModelAPI, ModelOutput, ModelUsage, modelapi

    @modelapi(name="instant")
    class Instant(ModelAPI):
        def __init__(
            self,
            model_name: str,
            base_url: str | None = None,
            api_key: str | None = None,
            config: GenerateConfig | None = None,
        ) -> None:
            super().__init__(model_name, config=config or GenerateConfig())

        async def generate(
            self, input: Any, tools: Any, tool_choice: Any, config: Any
        ) -> ModelOutput:
            output = ModelOutput.from_content("instant", text_of(config.seed, int(self.model_name)))
            output.usage = ModelUsage(input_tokens=9, output_tokens=int(self.model_name) // 4)
            return output

    return Instant


class InstantModel:
    """What ``open_model`` is to find."""

    fingerprint: dict[str, str] = {"weights": "instant"}  # noqa: RUF012

    def __init__(self, characters: int) -> None:
        self._characters = characters

    def opens_reasoning(self, sampling: Any, *, raw: bool) -> bool:
        """No."""
        return False

    def inspect_model(self, sampling: Any, *, raw: bool) -> Any:
        """A model for inspect_ai."""
        from inspect_ai.model import GenerateConfig, get_model

        stub_class()
        config = GenerateConfig(max_connections=64, max_retries=0)
        return get_model(f"instant/{self._characters}", config=config, memoize=False)


def run_one(engine: str, rollouts: int, characters: int, folder: Path) -> None:
    """One size in this process."""
    (run_inspect if engine == "inspect" else run_timberkit)(rollouts, characters, folder)


def run_timberkit(rollouts: int, characters: int, folder: Path) -> None:
    """Through the engine."""
    from timberkit.evaluation import planning, run
    from timberkit.evaluation.sampling import ModelFacts
    from timberkit.evaluation_recipe import build_evaluation_recipe

    @contextmanager
    def opened(*_: Any, **__: Any) -> Iterator[InstantModel]:
        yield InstantModel(characters)

    run.open_model = opened  # type: ignore[assignment]
    planning.describe = lambda source: ModelFacts((source.name,))
    recipe = build_evaluation_recipe(
        {
            "models": ["instant=sapling:base"],
            "tasks": ["sapling"],
            "limit": 100,
            "rollouts": rollouts // 100,
        }
    )
    result = run.evaluate(recipe, folder, options=run.EvaluationOptions(grade_workers=1))
    assert result.summary["units"][0]["rollouts"] == rollouts


def run_inspect(rollouts: int, characters: int, folder: Path) -> None:
    """Through inspect_ai's own loop, with the same prompts and an equally simple scorer."""
    from inspect_ai import Epochs, Task, eval_set
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import GenerateConfig, get_model
    from inspect_ai.scorer import CORRECT, INCORRECT, Score, accuracy, scorer
    from inspect_ai.solver import solver

    from timberkit.evaluation.tasks import make_task
    from timberkit.evaluation.units import rollout_seed

    stub_class()
    task = make_task("sapling")
    problems = {problem.key: problem for problem in task.load().problems[:100]}

    @solver
    def rollout() -> Any:
        async def solve(state: Any, generate: Any) -> Any:
            seed = rollout_seed(0, "sapling", str(state.sample_id), state.epoch)
            return await generate(state, seed=seed)

        return solve

    @scorer(metrics=[accuracy()])
    def judge() -> Any:
        async def score(state: Any, target: Any) -> Score:
            answer = state.output.completion.rpartition("</think>")[2]
            grade = task.grade(problems[str(state.sample_id)], answer)
            return Score(value=CORRECT if grade.correct else INCORRECT, answer=grade.answer)

        return score

    samples = [
        Sample(id=key, input=task.messages(each)[0]["content"]) for key, each in problems.items()
    ]
    success, _ = eval_set(
        [Task(MemoryDataset(samples), solver=rollout(), scorer=judge(), name="sapling")],
        model=get_model(f"instant/{characters}", config=GenerateConfig(max_connections=64)),
        epochs=Epochs(rollouts // 100, ["mean"]),
        log_dir=str(folder),
        log_realtime=False,
        log_dir_allow_dirty=True,
        display="none",
        ctl_server=False,
    )
    assert success


def measure_overhead(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Each engine, length and size in a process of its own."""
    found = []
    engines = ["timberkit", *(["inspect"] if given.inspect else [])]
    for engine in engines:
        for characters in given.characters:
            runs = [_measured(given, engine, rollouts, characters) for rollouts in given.sizes]
            few, many = runs
            apart = given.sizes[1] - given.sizes[0]
            found.append(
                {
                    "engine": engine,
                    "characters": characters,
                    "runs": runs,
                    "milliseconds": 1e3 * (many["wall_seconds"] - few["wall_seconds"]) / apart,
                    "cpu_milliseconds": 1e3 * (many["cpu_seconds"] - few["cpu_seconds"]) / apart,
                    "memory_growth": many["peak_pss_bytes"] / few["peak_pss_bytes"],
                }
            )
    return found


def _measured(
    given: argparse.Namespace, engine: str, rollouts: int, characters: int
) -> dict[str, Any]:
    say(f"{engine}: {rollouts} rollouts of {characters} characters")
    given.folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=given.folder))
    errors = place / "stderr"
    try:
        command = [sys.executable, __file__, "--one", engine, str(rollouts), str(characters)]
        # eval_set keeps traces and more in the home folder: here one of its own.
        home = {"HOME": str(place), "XDG_DATA_HOME": str(place / "data"), "OMP_NUM_THREADS": "1"}
        usage = measure([*command, str(place / "run")], stderr=errors, environment=home)
        if usage.exit_code:
            sys.exit(f"error: {engine} failed:\n{errors.read_text()[-2000:]}")
        stored = sum(path.stat().st_size for path in (place / "run").rglob("*") if path.is_file())
        return {
            "rollouts": rollouts,
            **{
                name: value
                for name, value in asdict(usage).items()
                if name not in ("command", "exit_code", "timed_out")
            },
            "cpu_seconds": usage.cpu_seconds,
            "stored_bytes": stored,
        }
    finally:
        shutil.rmtree(place)


def measure_agreement(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Sampled counts of four models beside the probabilities of the exact evaluator."""
    import timberkit
    from timberkit.evaluation.run import EvaluationOptions, evaluate
    from timberkit.evaluation_recipe import build_evaluation_recipe
    from timberkit.metrics import binomial_band
    from timberkit.rollouts import read_rollouts
    from timberkit.sapling import (
        base_folder,
        instruct_folder,
        load_model,
        load_problems,
        success_probabilities,
    )

    given.folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        variants = place / "variants"
        timberkit.refine(
            str(base_folder()), str(instruct_folder()), variants,
            variants=["timber:lam=0.2", "merge:mu=0.6"],
        )  # fmt: skip
        folders = {
            "base": base_folder(),
            "instruct": instruct_folder(),
            **{path.name: path for path in sorted(variants.iterdir()) if path.is_dir()},
        }
        recipe = build_evaluation_recipe(
            {
                "models": [f"{name}={folder}" for name, folder in folders.items()],
                "tasks": ["sapling"],
                "limit": PROBLEMS,
                "rollouts": ROLLOUTS,
                "temperatures": [1.0],
                "max_tokens": 64,
            }
        )
        say(f"{len(folders)} models, {PROBLEMS} puzzles, {ROLLOUTS} rollouts")
        result = evaluate(recipe, place / "run", options=EvaluationOptions(grade_workers=1))
        say(f"sampled in {result.seconds:.0f} s")
        right: dict[str, dict[str, int]] = {}
        for rollout in read_rollouts(place / "run" / "rollouts.parquet", texts=False):
            counts = right.setdefault(rollout.model, {})
            counts[rollout.problem] = counts.get(rollout.problem, 0) + rollout.correct
        problems = load_problems(n=PROBLEMS)
        found = []
        for name, folder in folders.items():
            exact = success_probabilities(load_model(folder), problems)
            counts = [right[name][problem.prompt] for problem in problems]
            band = binomial_band(ROLLOUTS, exact, level=CONFIDENCE)
            found.append(
                {
                    "model": name,
                    "exact": float(sum(exact)) / len(problems),
                    "sampled": sum(counts) / ROLLOUTS / len(problems),
                    "within": band.holds(counts),
                }
            )
        return found
    finally:
        shutil.rmtree(place)


def floors(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked, and what was found."""
    found = []
    for row in result["overhead"]:
        if row["engine"] != "timberkit":
            continue
        of = f"rollouts of {row['characters']:,} characters"
        found.append(
            {
                "name": f"milliseconds beside the model, {of}",
                "asked": f"under {MOST_MILLISECONDS:g}",
                "found": f"{row['milliseconds']:.1f}",
                "passed": row["milliseconds"] < MOST_MILLISECONDS,
            }
        )
        found.append(
            {
                "name": f"peak memory at ten times the {of}",
                "asked": f"flat: under {MOST_GROWTH:g} times",
                "found": f"{row['memory_growth']:.2f} times",
                "passed": row["memory_growth"] < MOST_GROWTH,
            }
        )
    for row in result["agreement"]:
        found.append(
            {
                "name": f"{row['model']}: counts agree with exact probabilities",
                "asked": f"all {PROBLEMS} puzzles in one {CONFIDENCE:.1%} band",
                "found": f"sampled {row['sampled']:.2%}, exact {row['exact']:.2%}",
                "passed": row["within"],
            }
        )
    return found


Rows = list[tuple[str, ...]]


def all_tables(result: dict[str, Any]) -> Iterator[tuple[str, tuple[str, ...], Rows]]:
    """Title, columns and rows of each table."""
    yield (
        "Asked and found",
        ("", "asked", "found", "held"),
        [
            (row["name"], row["asked"], row["found"], "yes" if row["passed"] else "no")
            for row in result["floors"]
        ],
    )
    if result["overhead"]:
        columns = ("engine", "characters", "rollouts", "wall", "processor", "peak PSS", "stored")
        yield (
            "Whole processes",
            columns,
            [
                (
                    row["engine"],
                    f"{row['characters']:,}",
                    f"{run['rollouts']:,}",
                    f"{run['wall_seconds']:.1f} s",
                    f"{run['cpu_seconds']:.1f} s",
                    f"{run['peak_pss_bytes'] / 1e6:.0f} MB",
                    f"{run['stored_bytes'] / 1e6:.0f} MB",
                )
                for row in result["overhead"]
                for run in row["runs"]
            ],
        )
        yield (
            "A rollout more",
            ("engine", "characters", "wall", "processor"),
            [
                (
                    row["engine"],
                    f"{row['characters']:,}",
                    f"{row['milliseconds']:.1f} ms",
                    f"{row['cpu_milliseconds']:.1f} ms",
                )
                for row in result["overhead"]
            ],
        )


def show(result: dict[str, Any]) -> None:
    """The tables, on stdout."""
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 120)
    for title, columns, rows in all_tables(result):
        table = Table(title=title, title_justify="left")
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def write_docs(result: dict[str, Any], command: str, page: Path = PAGE) -> None:
    """Rewrite what stands between the markers of a page."""
    machine = result["machine"]
    lines = [
        f"{result['date']}, `{command}`, {machine['processor']}, {machine['cores']} cores, load"
        f" before the start {result['load_before']:.1f}.",
        "",
    ]
    for title, columns, rows in all_tables(result):
        lines += [f"**{title}**", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        lines.append("")
    name = "agreement" if result["agreement"] else "overhead"
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text = page.read_text()
    if not pattern.search(text):
        sys.exit(f"error: {page} has no place for it: {begin}")
    body = "\n".join([begin, *lines, end])
    page.write_text(pattern.sub(lambda _: body, text))


def main() -> None:
    """Measure and show; the last line is the result as JSON."""
    given = parse()
    if given.one:
        engine, rollouts, characters, folder = given.one
        run_one(engine, int(rollouts), int(characters), Path(folder))
        return
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe(),
        "load_before": os.getloadavg()[0],
        "overhead": [] if given.agreement else measure_overhead(given),
        "agreement": measure_agreement(given) if given.agreement else [],
    }
    result["floors"] = floors(result)
    if given.write_docs:
        words = ["python benchmarks/evaluation.py", *(["--agreement"] if given.agreement else [])]
        write_docs(result, " ".join([*words, *(["--inspect"] if given.inspect else [])]))
    show(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
