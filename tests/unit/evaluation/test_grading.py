"""Graders in worker processes: hostile answers end in time, dead workers are replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from timberkit.errors import ResourceError, SourceError, UsageError
from timberkit.evaluation import grading
from timberkit.evaluation.grading import Graders
from timberkit.evaluation.sandbox import require_sandbox
from timberkit.evaluation.task import Grade, Problem
from timberkit.evaluation.tasks import make_task
from timberkit.evaluation.tasks.aime import Aime24

ROWS = Path(__file__).with_name("rows")
HALF = Problem("half", {"problem": "?", "answer": r"\frac12"})
SAPLING = make_task("sapling").load().problems[0]

HOSTILE = [
    "(" * 5_000,
    r"\boxed{" * 3_000 + "}" * 3_000,
    r"\boxed{" + "(" * 5_000 + "}",
    r"\boxed{9^{9^{9^{9^{9}}}}}",
    r"\boxed{10^{10^{10}}}",
    r"\boxed{\prod_{i=1}^{10^{9}} \int x^i dx}",
    r"\boxed{" + "+".join(f"x^{{{n}}}" for n in range(3_000)) + "}",
    "$" * 100_000,
    "final answer is " * 20_000,
    "\ud800\x00\u2028\n",
    "",
]


@pytest.fixture
def no_punkt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def worker(graders: Graders) -> grading._Worker:
    (only,) = graders._running
    return only


@pytest.mark.slow
def test_hostile_answers_are_wrong_and_end_in_time() -> None:
    started = time.monotonic()
    with Graders("math500", workers=6, seconds=15) as graders, ThreadPoolExecutor(6) as threads:
        grades = list(threads.map(lambda answer: graders.grade(HALF, answer), HOSTILE))
        assert graders.grade(HALF, r"\boxed{\frac{2}{4}}").correct
    assert [grade for grade in grades if grade.correct] == []
    assert time.monotonic() - started < 90  # about 10 s on an idle machine


def test_a_worker_that_takes_too_long_is_replaced() -> None:
    with Graders("sapling", seconds=0.5) as graders:
        assert not graders.grade(SAPLING, "no").correct
        first = worker(graders)
        os.kill(first._process.pid, signal.SIGSTOP)
        grade = graders.grade(SAPLING, "no")
        assert grade == Grade(False, None, "the grader took more than 0.5 s")
        assert first._process.returncode == -signal.SIGKILL
        assert graders.grade(SAPLING, "no").reason == "wrong answer"


def test_a_worker_that_dies_makes_its_answer_wrong_with_a_reason() -> None:
    with Graders("sapling") as graders:
        os.kill(worker(graders)._process.pid, signal.SIGKILL)
        grade = graders.grade(SAPLING, "no")
        assert grade == Grade(False, None, "the grader died (signal 9)")
        assert graders.grade(SAPLING, "no").reason == "wrong answer"


def test_many_threads_share_the_workers() -> None:
    right = "2 * 3 = 6"
    problem = Problem("p", {"numbers": [2, 3], "target": 6})
    grades: list[tuple[int, bool]] = []
    with Graders("sapling", workers=2) as graders:

        def judge(number: int) -> None:
            grade = graders.grade(problem, right if number % 3 == 0 else "no")
            grades.append((number, grade.correct))

        threads = [threading.Thread(target=judge, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(graders._running) <= 2
    assert sorted(grades) == [(number, number % 3 == 0) for number in range(24)]


def test_closing_ends_every_process_and_refuses_more() -> None:
    graders = Graders("sapling")
    with graders:
        process = worker(graders)._process
    assert process.returncode is not None
    graders.close()
    with pytest.raises(ValueError, match="closed"):
        graders.grade(SAPLING, "no")


def test_workers_end_with_the_process_that_started_them() -> None:
    code = (
        "from timberkit.evaluation.grading import Graders\nimport time\n"
        "with Graders('sapling') as graders:\n"
        "    print([w._process.pid for w in graders._running][0], flush=True)\n    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert until(lambda: not Path(f"/proc/{child}").exists())


def test_what_a_grader_prints_or_raises_does_not_harm_the_replies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from timberkit.evaluation.grade_worker import judge_safely

    def fail(*_: object, **__: object) -> Grade:
        raise RecursionError("too deep " * 1_000)

    task = make_task("aime24")
    monkeypatch.setattr(Aime24, "grade", fail)
    grade = judge_safely(task, HALF, "x", raw=False)
    assert grade.reason.startswith("the grader failed: RecursionError: too deep")
    assert len(grade.reason) < 600


def test_an_error_about_the_problem_is_raised_here() -> None:
    broken = Problem("p", {"numbers": [2], "target": 6})
    with Graders("sapling") as graders:
        with pytest.raises(Exception, match="expected 2 to 4"):
            graders.grade(broken, "x")
        assert not graders.grade(SAPLING, "no").correct


@pytest.mark.usefixtures("no_punkt")
def test_what_is_missing_is_said_before_anything_is_judged() -> None:
    with (
        pytest.raises(SourceError, match=r"punkt_tab.*nltk\.downloader punkt_tab.*NLTK_DATA"),
        Graders("ifeval"),
    ):
        pass


def test_the_call_is_checked() -> None:
    with pytest.raises(UsageError, match="0 workers"):
        Graders("sapling", workers=0)
    with pytest.raises(UsageError, match="not known"):
        Graders("sappling")


def test_ifeval_names_the_instructions_that_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # These rows count no sentences, so the folder may be empty.
    (tmp_path / "tokenizers/punkt_tab/english").mkdir(parents=True)
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    oak, as_json, repeat = make_task("ifeval").load(str(ROWS / "ifeval.jsonl")).problems
    with Graders("ifeval") as graders:
        assert graders.grade(oak, "An oak is a very old tree").correct
        assert graders.grade(oak, "An oak, old").reason == (
            "not followed: punctuation:no_comma, length_constraints:number_words"
        )
        assert graders.grade(as_json, json.dumps({"tree": "oak"})).correct
        assert graders.grade(as_json, "oak").reason == (
            "not followed: detectable_format:json_format"
        )
        assert graders.grade(repeat, "Write about oaks. Oaks grow.").correct
        assert graders.grade(repeat, " ").answer is None
        unknown = Problem("9", {**oak.fields, "instructions": ["a:b"], "arguments": [{}]})
        with pytest.raises(SourceError, match="no checker for a:b"):
            graders.grade(unknown, "x")


@pytest.mark.parametrize("options", [(), ("unsandboxed",)])
def test_humaneval_runs_the_tests_of_a_problem(options: tuple[str, ...]) -> None:
    if not options:
        try:
            require_sandbox()
        except (UsageError, ResourceError) as error:
            pytest.skip(str(error))
    twice, longest = make_task("humaneval").load(str(ROWS / "humaneval.jsonl")).problems
    code = "def twice(number):\n    return number + number\n"
    with Graders("humaneval", options=options) as graders:
        assert graders.grade(twice, f"```python\n{code}```").correct
        assert graders.grade(twice, code).correct
        assert graders.grade(twice, "    return 2 * number\n\ndef other():\n", raw=True).correct
        assert not graders.grade(twice, "    return 2 * number\n").correct
        assert graders.grade(longest, "    return max(words, key=len)\n", raw=True).correct
        wrong = graders.grade(longest, "```\ndef longest(words):\n    return words[0]\n```")
        assert wrong.reason == "AssertionError: "
        assert graders.grade(longest, "").answer is None
