"""The public benchmark files, whole: what is right is graded right, what is not is not.

The files are no part of this repository. They are looked for in the folder that TIMBERKIT_DATA
names, else in ``../shared/data`` beside the checkout; without them these tests skip. Every test
prints what it counted.
"""

from __future__ import annotations

import bz2
import gzip
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from timberkit.errors import ResourceError, UsageError
from timberkit.evaluation.grading import Graders
from timberkit.evaluation.sandbox import require_sandbox
from timberkit.evaluation.task import Grade, Problem
from timberkit.evaluation.tasks import make_task

BESIDE = Path(__file__).parents[3] / "shared" / "data"
FOLDER = Path(os.environ.get("TIMBERKIT_DATA", BESIDE))
WORKERS = 2
BOXES = ("\\boxed", "\\fbox", "\\framebox")


def file(name: str) -> Path:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name}: not in {FOLDER}; set TIMBERKIT_DATA to the folder that has it")
    return path


def raw_rows(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return [json.loads(line) for line in text.split("\n") if line]


def cut(solution: str) -> str:
    """A solution up to its first answer."""
    found = [place for box in BOXES if (place := solution.find(box)) >= 0]
    return solution[: min(found)]


def judge_all(
    graders: Graders, problems: Sequence[Problem], answers: Sequence[str], *, raw: bool = False
) -> list[Grade]:
    with ThreadPoolExecutor(2 * WORKERS) as threads:
        return list(
            threads.map(
                lambda pair: graders.grade(*pair, raw=raw), zip(problems, answers, strict=True)
            )
        )


@pytest.fixture
def tell(capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print past the capture, and past the workers of a parallel run."""

    def say(text: str) -> None:
        with capfd.disabled():
            print(f"\n[benchmarks] {text}", file=sys.stderr, flush=True)

    return say


def count(grades: Sequence[Grade]) -> int:
    return sum(grade.correct for grade in grades)


def not_right(problems: Sequence[Problem], grades: Sequence[Grade]) -> list[tuple[str, Grade]]:
    pairs = zip(problems, grades, strict=True)
    return [(problem.key, grade) for problem, grade in pairs if not grade.correct]


@pytest.mark.slow
def test_gold_solutions_of_math500_are_right_and_cut_ones_wrong(
    tell: Callable[[str], None],
) -> None:
    path = file("math500_test.jsonl")
    loaded = make_task("math500").load(str(path))
    assert loaded.notices == ()
    solutions = [row["solution"] for row in raw_rows(path)]
    with Graders("math500", workers=WORKERS) as graders:
        whole = judge_all(graders, loaded.problems, solutions)
        short = judge_all(graders, loaded.problems, [cut(text) for text in solutions])
    tell(f"MATH-500: {count(whole)} of {len(whole)} gold solutions right, {count(short)} cut ones")
    assert not_right(loaded.problems, whole) == []
    assert (len(whole), count(short)) == (500, 0)


def test_gold_solutions_of_aime_are_right_and_cut_ones_wrong(tell: Callable[[str], None]) -> None:
    path = file("aime24_with_solutions.jsonl")
    loaded = make_task("aime24").load(str(path))
    rows = raw_rows(path)
    # The solution of item 60 has a frame, but no box: its answer is graded instead.
    solutions = [
        rf"\boxed{{{row['answer']}}}" if row["id"] == 60 else row["solution"] for row in rows
    ]
    with Graders("aime24", workers=WORKERS) as graders:
        whole = judge_all(graders, loaded.problems, solutions)
        short = judge_all(graders, loaded.problems, [cut(row["solution"]) for row in rows])
        plain = judge_all(
            graders, loaded.problems, [rf"\boxed{{{int(row['answer'])}}}" for row in rows]
        )
    padded = sum(str(row["answer"]).startswith("0") for row in rows)
    tell(
        f"AIME: {count(whole)} of {len(whole)} gold solutions right, {count(short)} cut ones;"
        f" {count(plain)} plain integers right, {padded} answers are zero-padded"
    )
    assert not_right(loaded.problems, whole) == []
    assert (len(whole), count(short), count(plain)) == (30, 0, 30)
    assert padded > 0


def test_gold_solutions_of_math_are_right_and_cut_ones_wrong(tell: Callable[[str], None]) -> None:
    path = file("math_test_tora.jsonl")
    task = make_task("math")
    loaded = task.load(str(path))
    solutions = [row["solution"] for row in raw_rows(path)]
    pairs = list(zip(loaded.problems, solutions, strict=True))
    whole = [task.grade(problem, text) for problem, text in pairs]
    short = [task.grade(problem, cut(text)) for problem, text in pairs]
    tell(f"MATH: {count(whole)} of {len(whole)} gold solutions right, {count(short)} cut ones")
    assert not_right(loaded.problems, whole) == []
    # Without a box the released rule takes a sentence, and these few name the answer in theirs
    # ("That is 7."); under OpenCompass' own code they are 18.
    assert (len(whole), count(short)) == (5000, 14)


@pytest.mark.slow
def test_the_checkers_of_ifeval_judge_every_prompt(
    monkeypatch: pytest.MonkeyPatch, tell: Callable[[str], None]
) -> None:
    loaded = make_task("ifeval").load(str(file("ifeval_input_data.jsonl")))
    monkeypatch.setenv("NLTK_DATA", str(file("nltk_data")))
    problems = loaded.problems
    texts = {
        "the prompt itself": [problem.fields["prompt"] for problem in problems],
        "two sentences": ["An oak is a tree. It grows slowly!"] * len(problems),
        "nothing": [""] * len(problems),
    }
    right = {}
    with Graders("ifeval", workers=WORKERS) as graders:
        for name, answers in texts.items():
            grades = judge_all(graders, problems, answers)
            failed = [grade.reason for grade in grades if "grader" in grade.reason]
            assert failed == [], name
            again = judge_all(graders, problems[:40], answers[:40])
            assert again == grades[:40]
            right[name] = count(grades)
    tell(f"IFEval: checkers ran on {len(problems)} prompts; followed: {right}")
    assert len(problems) == 541
    assert right["nothing"] == 0
    assert all(0 < right[name] < 541 // 2 for name in ("the prompt itself", "two sentences"))


@pytest.mark.slow
def test_canonical_solutions_of_humaneval_pass_and_mutated_ones_fail(
    tell: Callable[[str], None],
) -> None:
    path = file("HumanEval.jsonl.gz")
    try:
        require_sandbox()
    except (UsageError, ResourceError) as error:
        pytest.skip(str(error))
    problems = make_task("humaneval").load(str(path)).problems
    rows = raw_rows(path)
    bodies = [row["canonical_solution"] for row in rows]
    blocks = [
        f"Here it is:\n```python\n{row['prompt']}{body}```\nand so on"
        for row, body in zip(rows, bodies, strict=True)
    ]
    mutants = {
        "an empty body": ["    pass\n"] * len(rows),
        "another value": [
            f"{body}\n{_wrapped(row)}" for row, body in zip(rows, bodies, strict=True)
        ],
        "an early exit": ["    import os\n    os._exit(0)\n"] * len(rows),
    }
    with Graders("humaneval", workers=WORKERS) as graders:
        continued = judge_all(graders, problems, bodies, raw=True)
        fenced = judge_all(graders, problems, blocks)
        survived = {
            name: [
                problem.key
                for problem, grade in zip(
                    problems, judge_all(graders, problems, _fenced(rows, texts)), strict=True
                )
                if grade.correct
            ]
            for name, texts in mutants.items()
        }
    tell(
        f"HumanEval: {count(continued)} of {len(continued)} canonical solutions pass as"
        f" continuations, {count(fenced)} in a code block; mutants that pass: {survived}"
    )
    assert not_right(problems, continued) == []
    assert not_right(problems, fenced) == []
    assert len(problems) == 164
    assert not any(survived.values())


def _wrapped(row: dict[str, Any]) -> str:
    """The right function, giving its results in a list of a list."""
    name = row["entry_point"]
    return f"_right = {name}\ndef {name}(*values):\n    return [[_right(*values)]]\n"


def _fenced(rows: Sequence[dict[str, Any]], bodies: Sequence[str]) -> list[str]:
    pairs = zip(rows, bodies, strict=True)
    return [f"```python\n{row['prompt']}{body}\n```" for row, body in pairs]


def test_hellaswag_loads_as_text_and_in_its_public_format(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    path = file("hellaswag_val_full.txt.bz2")
    task = make_task("hellaswag", "paper")
    loaded = task.load(str(path))
    lines = bz2.decompress(path.read_bytes()).decode().split("\n")
    public = tmp_path / "hellaswag_val.jsonl"
    with public.open("w", encoding="utf-8") as rows:
        for start in range(0, len(lines) - 1, 6):
            activity, _, context = lines[start].partition(": ")
            row = {
                "activity_label": activity,
                "ctx_a": context,
                "ctx_b": "",
                "endings": lines[start + 2 : start + 6],
                "label": int(lines[start + 1]),
            }
            rows.write(json.dumps(row) + "\n")
    again = task.load(str(public))
    letters = [problem.fields["answer"] for problem in loaded.problems]
    tell(
        f"HellaSwag: {len(letters)} items as text, {len(again.problems)} as JSON lines;"
        f" answers { ({letter: letters.count(letter) for letter in 'ABCD'}) }"
    )
    assert len(letters) == 10_042
    assert [problem.fields["answer"] for problem in again.problems] == letters
    for problem, letter in zip(loaded.problems, letters, strict=True):
        assert task.grade(problem, letter).correct
        assert not task.grade(problem, "ABCD"["ABCD".index(letter) - 1]).correct
