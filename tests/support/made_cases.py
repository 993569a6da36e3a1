"""Rollouts with texts, and pages of them, for tests of the case browser."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from made_analysis import HOSTILE

from timberkit.report.cases import CaseCollection, ProblemText, collect_cases
from timberkit.rollouts import Rollout

MODELS = ("base", "instruct", "timber")
CHANCES: Mapping[str, Sequence[float]] = {
    "base": (0.3, 0.0, 0.5, 0.0, 0.4, 0.1),
    "instruct": (0.6, 0.0, 1.0, 0.5, 0.0, 0.2),
    "timber": (0.8, 0.4, 1.0, 0.0, 0.0, 0.2),
}
"""Of being right, by problem: the second is solved only by timber, the fourth only by instruct, the
fifth by neither of the two."""
ROLLOUTS = 10

_STEPS = (
    "Let {x} be the number of {thing}s that are left after day {n}.",
    "We know that the total is {n}, so each {thing} counts {n} times.",
    "Hence {x}² + {n}{x} = {n}{n}, which has exactly one positive solution.",
    "Checking small cases: for {n} the claim holds, for {n} + 1 it fails.",
    "By symmetry it is enough to look at one {thing} and multiply by {n}.",
    "Wait, that counts every {thing} twice; dividing by two gives {n}.",
    "Adding both equations, the {thing}s cancel and {n} remains.",
)
_THINGS = ("lamp", "stone", "path", "circle", "coin", "digit")


def thoughts(seed: str, sentences: int) -> str:
    """Sentences that look like a solution."""
    lot = random.Random(seed)
    lines = []
    for i in range(sentences):
        step = lot.choice(_STEPS).format(
            x=lot.choice("xyzt"), thing=lot.choice(_THINGS), n=lot.randint(2, 99)
        )
        lines.append(step + ("\n\n" if i % 3 == 2 else " "))
    return "".join(lines).strip()


def made_rollouts(
    chances: Mapping[str, Sequence[float]] = CHANCES, *, n: int = ROLLOUTS, sentences: int = 6
) -> list[Rollout]:
    """Rollouts with reasoning and answers; exactly the share of a chance is right."""
    return [
        _rollout(model, problem, number, number % n < round(chance * n), sentences)
        for model, row in chances.items()
        for problem, chance in enumerate(row)
        for number in range(1, n + 1)
    ]


def _rollout(model: str, problem: int, number: int, right: bool, sentences: int) -> Rollout:
    name, target = f"2024-{problem + 1:02d}", str(100 + 7 * problem)
    answer = target if right else str(900 + number)
    reasoning = thoughts(f"{model}{problem}{number}", 3 * sentences)
    opening = thoughts(f"same {problem}", sentences)
    own = thoughts(f"own {model}{number}", max(sentences // 3, 1))
    closing = thoughts(f"close {problem}", max(sentences // 2, 1))
    response = f"{opening}\n\n{own}\n\n{closing}\n\nThe answer is \\boxed{{{answer}}}."
    return Rollout(
        model, "aime24", "released", name, number, right, answer,
        reason="" if right else f"{answer} is not {target}",
        text=f"<think>{reasoning}</think>{response}", reasoning=reasoning, response=response,
        seed=1000 + number, temperature=0.6, output_tokens=len(response) // 4,
    )  # fmt: skip


def texts_of(rollouts: Iterable[Rollout]) -> dict[tuple[str, str], ProblemText]:
    """A prompt and a target for every problem."""
    problems = sorted({(one.task, one.problem) for one in rollouts})
    return {
        place: ProblemText(
            f"Find the number of ways of problem {place[1]}. {thoughts(place[1], 4)}"
            " Put your final answer within \\boxed{}.",
            str(100 + 7 * number),
        )
        for number, place in enumerate(problems)
    }


def again(rollouts: Sequence[Rollout]) -> Callable[..., Iterable[Rollout]]:
    """As a file gives them, without their texts where they are not asked for."""

    def read(*, texts: bool) -> Iterable[Rollout]:
        for one in rollouts:
            yield one if texts else replace(one, text="", reasoning="", response="")

    return read


def made_collection(
    rollouts: Sequence[Rollout] | None = None, *, reference: str = "instruct", **options: Any
) -> CaseCollection:
    """A collection of made rollouts."""
    rollouts = made_rollouts() if rollouts is None else rollouts
    return collect_cases(again(rollouts), texts_of(rollouts), reference=reference, **options)


HOSTILE_TEXTS = (
    *HOSTILE,
    "before \x1b[31mred\x1b[0m after",
    "one \ud800 alone",
    "\u202eesrever\u202c \u2066isolate\u2069 \u200bnothing\ufeff",
    "line\u2028separator\u2029paragraph\x00null\r\nend",
)


def hostile_collection() -> CaseCollection:
    """Every text comes from a stranger who means harm: names, prompts, targets, answers, errors."""
    rollouts, texts = [], {}
    for place, text in enumerate(HOSTILE_TEXTS):
        for model in HOSTILE[:3]:
            rollouts.append(
                Rollout(
                    model, HOSTILE[1], HOSTILE[0], text, 1, model == HOSTILE[0], text,
                    reason=text, text=text, reasoning=text, response=f"{text} {place} {text}",
                    error=text,
                )
            )  # fmt: skip
        texts[HOSTILE[1], text] = ProblemText(text, text)
    return collect_cases(again(rollouts), texts, reference=HOSTILE[0], labels={HOSTILE[2]: text})
