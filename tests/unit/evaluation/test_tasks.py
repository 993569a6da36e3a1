"""Every benchmark on a few invented rows in its public format: prompts, settings and grades."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from timberkit.errors import SourceError, UsageError
from timberkit.evaluation.task import Problem, Task
from timberkit.evaluation.tasks import TASKS, make_task
from timberkit.evaluation.tasks.hellaswag import HellaSwag
from timberkit.evaluation.tasks.humaneval import body, first_block, whole_program
from timberkit.evaluation.tasks.math_examples import EXAMPLES

ROWS = Path(__file__).with_name("rows")
FILES = {
    "ifeval": "ifeval.jsonl",
    "math": "math.jsonl",
    "math500": "math500.jsonl",
    "gpqa-diamond": "gpqa_diamond.csv",
    "hellaswag": "hellaswag.jsonl",
    "aime24": "aime24.jsonl",
    "humaneval": "humaneval.jsonl",
    "sapling": "sapling.jsonl",
}


def load(name: str, setting: str | None = None) -> tuple[Task, list[Problem], tuple[Problem, ...]]:
    task = make_task(name, setting)
    loaded = task.load(str(ROWS / FILES[name]), shots=str(ROWS / "hellaswag_train.jsonl"))
    return task, list(loaded.problems), loaded.examples


def test_every_task_has_a_fixture() -> None:
    assert set(FILES) == set(TASKS)


@pytest.mark.parametrize("name", FILES)
def test_every_setting_asks_every_problem_in_both_forms(name: str) -> None:
    for setting in make_task(name).settings:
        task, problems, examples = load(name, setting)
        assert task.setting == setting
        assert len({problem.key for problem in problems}) == len(problems)
        for problem in problems:
            messages = task.messages(problem, examples)
            assert messages[-1]["role"] == "user"
            roles = [message["role"] for message in messages]
            assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
            assert messages[-1]["content"].strip().splitlines()[-1] in task.raw_prompt(
                problem, examples
            ) or name in ("humaneval", "sapling")


def test_the_default_setting_is_the_released_one() -> None:
    defaults = {name: make_task(name).setting for name in TASKS}
    assert defaults.pop("sapling") == "held-out"
    assert set(defaults.values()) == {"released"}


@pytest.mark.parametrize(("name", "setting"), [("math501", None), ("math500", "5-shot")])
def test_an_unknown_task_or_setting_is_refused_with_those_that_exist(
    name: str, setting: str | None
) -> None:
    with pytest.raises(UsageError, match=r"expected one of .*(math500|released)"):
        make_task(name, setting)


def test_math500_released_asks_for_a_box_and_paper_shows_four_examples() -> None:
    released, problems, _ = load("math500", "released")
    assert len(released.messages(problems[0])) == 1
    assert released.messages(problems[0])[0]["content"].endswith(
        "\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    paper, problems, _ = load("math500", "paper")
    assert len(paper.messages(problems[0])) == 9
    assert paper.raw_prompt(problems[0]).count("Problem:\n") == 5
    assert paper.raw_prompt(problems[0]).endswith("one third.\nSolution:\n")


def test_the_wording_of_the_examples_stays_as_it_was_measured_with() -> None:
    text = "".join(question + solution for question, solution in EXAMPLES)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "2183f63460710ac042cf608c5194ef1df2ffa7f92d157007aacda9b2e26ff6fc"
    assert r"\boxed{{[2,5)}}" in text


def test_math_is_graded_by_string_equivalence() -> None:
    task, (half, length), _ = load("math")
    assert half.fields["answer"] == r"\frac56"
    assert task.grade(half, r"So $\boxed{\frac{5}{6}}$").correct
    assert task.grade(half, r"The final answer is $\dfrac{5}{6}$. I hope it is correct.").correct
    assert not task.grade(half, r"\boxed{\frac{10}{12}}").correct
    assert task.grade(length, r"\boxed{6}").correct


def test_math500_is_graded_as_mathematics() -> None:
    task, (half, roots, point), _ = load("math500")
    assert task.grade(half, r"\boxed{\frac{10}{12}}").correct
    assert task.grade(roots, r"\boxed{2, -2}").correct
    assert task.grade(point, r"\boxed{(1, 0)}").correct
    assert not task.grade(point, r"\boxed{(0, 1)}").correct
    assert task.grade(half, r"\boxed{{\frac56}}").correct
    assert task.grade(half, r"The final answer is $\frac{5}{6}$. I hope it is correct.").correct
    assert task.grade(half, r"The final answer is $\frac{5}{6}$.").correct
    nothing = task.grade(half, "The numbers are 5 and 6, and 5/6 is one of them.")
    assert (nothing.correct, nothing.answer) == (False, None)
    assert "no answer" in nothing.reason


@pytest.mark.parametrize("box", ["25", "025", r"\text{(025)}", r"\mathbf{25}", "25.", "{25}"])
def test_leading_zeros_of_aime_answers_mean_nothing(box: str) -> None:
    task, (padded, _, zero), _ = load("aime24")
    assert padded.fields["answer"] == "025"
    grade = task.grade(padded, rf"Therefore $\boxed{{{box}}}$.")
    assert grade.correct
    assert grade.answer == "25"
    assert not task.grade(zero, rf"\boxed{{{box}}}").correct
    assert task.grade(zero, r"\boxed{0}").correct


def test_gpqa_rotates_its_options_by_the_row() -> None:
    task, problems, _ = load("gpqa-diamond")
    assert [problem.fields["answer"] for problem in problems] == list("DCBAD")
    assert problems[0].fields["options"] == ["oak", "beech, copper", "lime", "pine 0"]
    prompt = task.messages(problems[0])[0]["content"]
    assert prompt.startswith("Answer the following multiple choice question. The last line of")
    assert prompt.endswith("\n\nA) oak\nB) beech, copper\nC) lime\nD) pine 0")
    assert "which leaf" in prompt


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("A needle.\nANSWER: D", True),
        ("Answer : D", True),
        ("ANSWER: A\nOn reflection, ANSWER: D", False),
        ("ANSWER: $LETTER", False),
        ("D", False),
    ],
)
def test_gpqa_takes_the_first_announced_letter(response: str, right: bool) -> None:
    task, problems, _ = load("gpqa-diamond")
    assert task.grade(problems[0], response).correct is right


def test_hellaswag_released_shows_ten_examples_and_paper_none() -> None:
    released, problems, examples = load("hellaswag", "released")
    assert len(examples) == 10
    messages = released.messages(problems[0], examples)
    assert len(messages) == 21
    assert messages[0]["content"] == (
        "Continue the following text without adding any additional information or formatting:\n\n"
        "A child counts to 0. The child\nA) says 0.\nB) sleeps.\nC) swims.\nD) leaves.\n"
        "What is the right option?"
    )
    assert messages[1] == {"role": "assistant", "content": "A\n"}
    paper, problems, examples = load("hellaswag", "paper")
    assert examples == ()
    assert not any(
        "examples" in notice for notice in paper.load(str(ROWS / FILES["hellaswag"])).notices
    )
    assert len(paper.messages(problems[0])) == 1


def test_hellaswag_reads_its_public_format_and_plain_text() -> None:
    task, rows, _ = load("hellaswag", "paper")
    assert rows[0].fields["context"] == "A man holds a saw: he looks at a log. He"
    assert rows[1].fields["endings"][2] == "Plant it in wet soil."
    text = task.load(str(ROWS / "hellaswag.txt")).problems
    assert text[0].fields["context"] == "A man holds a saw: he looks at a log. he"
    assert [item.fields["answer"] for item in text] == [item.fields["answer"] for item in rows]


def test_hellaswag_refuses_examples_that_show_an_answer(tmp_path: Path) -> None:
    train = (ROWS / "hellaswag_train.jsonl").read_text().splitlines(keepends=True)
    own = tmp_path / "own.jsonl"
    own.write_text("".join(train[11:] + train[:5]))
    with pytest.raises(SourceError, match="would show its answer"):
        HellaSwag().load(str(own), shots=str(ROWS / "hellaswag_train.jsonl"))
    with pytest.raises(SourceError, match="expected at least 10"):
        HellaSwag().load(str(ROWS / "hellaswag.jsonl"), shots=str(own))


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("B) saws the log.", "B"),
        ("The answer is (C).", "C"),
        ("ANSWER: D", "D"),
        ("I think it is option\nB.", "B"),
        ("none of them", None),
    ],
)
def test_hellaswag_finds_the_stated_letter(response: str, letter: str | None) -> None:
    task, problems, _ = load("hellaswag", "paper")
    grade = task.grade(problems[0], response)
    assert grade.answer == letter
    assert grade.correct is (letter == "B")


def test_humaneval_takes_the_first_code_block_or_the_body() -> None:
    text = "Sure.\n```python\ndef f():\n    return 1\n```\nor\n```\nother\n```"
    assert first_block(text) == "def f():\n    return 1\n"
    assert body("    return 1\n\ndef g():\n    pass\n") == "    return 1\n"
    task, (problem, _), _ = load("humaneval")
    assert task.raw_prompt(problem) == problem.fields["prompt"]
    program = whole_program(problem, "    return 2 * number\n")
    assert program.endswith("check(twice)\n")


def test_sapling_judges_the_whole_answer() -> None:
    task, problems, _ = load("sapling")
    assert task.grade(problems[0], "7 + 3 = 10 ; 10 * 6 = 60").correct
    assert not task.grade(problems[0], "7 + 3 = 10 ; 10 * 6 = 60 ; and more").correct
    assert task.grade(problems[0], "").answer is None
    assert len(make_task("sapling").load().problems) == 300
    assert len(make_task("sapling", "held-out-4").load().problems) == 100
