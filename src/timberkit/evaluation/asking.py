"""Asking a model: many requests at once, each answer written down, split and judged.

    asyncio.run(Asking(units, connections=64, ...).run())

A fixed number of requests is under way, whatever the number of rollouts, and units follow each
other without a pause, so that the slowest answers of one do not leave a server idle. Rollout 1 of
every problem comes before rollout 2 of any: a run that is stopped early has asked each problem
about equally often. An answer is in the journal before anything else is done with it.

Each request runs in a task of its own: what inspect_ai remembers of a request goes with the task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from timberkit.errors import InterruptedRunError, TimberkitError
from timberkit.evaluation.committing import Committer, in_daemon_thread
from timberkit.evaluation.grading import Graders
from timberkit.evaluation.inspect_log import Judged, as_chat, stop_of, whole_text
from timberkit.evaluation.journal import Generation, Key, Segment
from timberkit.evaluation.reasoning import Response, split_response
from timberkit.evaluation.store import UnitStore
from timberkit.evaluation.task import Grade, Message, Problem, Task
from timberkit.evaluation.units import Unit, rollout_seed

if TYPE_CHECKING:
    from inspect_ai.model import Model

FIRST_FAILURES = 20
"""If so many requests of a unit fail and none succeeds, the rest would too."""
FEW_FAILURES = 5
"""So many may fail in any unit, however small."""
MOST_REPORTED = 500
_WAITING_FOR_GRADES = 256


@dataclass(slots=True)
class OpenUnit:
    """A unit that is being asked.

    ``problems``: all that the benchmark has; ``asked_problems``: keys of those that are asked.
    ``opened``: its prompts end with an open ``<think>``. ``wanted``: rollouts of each problem.
    """

    unit: Unit
    store: UnitStore
    task: Task
    problems: dict[str, Problem]
    asked_problems: tuple[str, ...]
    examples: tuple[Problem, ...]
    graders: Graders
    model: Model
    raw: bool
    opened: bool
    wanted: int
    lacking: int = 0
    asked: int = 0
    failed: int = 0
    judged: int = 0

    @property
    def planned(self) -> int:
        """Rollouts that this run is to have."""
        return len(self.asked_problems) * self.wanted

    @property
    def is_judged(self) -> bool:
        """Whether everything that it lacked is there."""
        return self.judged == self.lacking

    def pending(self) -> Iterator[Key]:
        """What is still to be asked, rollout by rollout."""
        for rollout in range(1, self.wanted + 1):
            for problem in self.asked_problems:
                if not self.store.is_done((problem, rollout)):
                    yield (problem, rollout)

    def prompt(self, problem: Problem) -> str | list[Message]:
        """What the model is asked, as plain text or as messages."""
        if self.raw:
            return self.task.raw_prompt(problem, self.examples)
        return self.task.messages(problem, self.examples)


class Asking:
    """Asks one model everything that its units lack.

    ``connections``: requests under way. ``most_failures``: the share of a unit's requests that may
    fail before the run stops. ``on_answer`` hears the tokens of each judged rollout, in the
    event loop.
    """

    def __init__(
        self,
        units: Sequence[OpenUnit],
        *,
        connections: int,
        grade_workers: int,
        most_failures: float,
        on_answer: Callable[[int], None],
    ) -> None:
        self._units = units
        self._connections = connections
        self._most_failures = most_failures
        self._on_answer = on_answer
        self._threads = ThreadPoolExecutor(grade_workers, thread_name_prefix="grade")
        self._committer = Committer()
        self._packing: asyncio.Task[None] | None = None
        self._grading = asyncio.Semaphore(_WAITING_FOR_GRADES)

    async def run(self) -> None:
        """Until everything is judged and in logs.

        Raises InterruptedRunError where too many requests fail or the disk is full, and what the
        graders raise where this machine cannot judge.
        """
        try:
            for unit in self._units:
                await self._judge_left_over(unit)
                unit.lacking = sum(1 for _ in unit.pending())
            async with asyncio.TaskGroup() as tasks:
                keys = ((unit, key) for unit in self._units for key in unit.pending())
                total = sum(unit.lacking for unit in self._units)
                for _ in range(min(self._connections, total)):
                    tasks.create_task(self._ask_on(keys, tasks))
            for unit in self._units:
                await self._pack(unit)
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            await self._committer.finish()
            # Threads that are judging end when the graders are closed.
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _judge_left_over(self, unit: OpenUnit) -> None:
        """Judge what an earlier run had not judged, before any of it is asked again."""
        async with asyncio.TaskGroup() as tasks:
            for segment, generation in unit.store.unjudged():
                await self._grading.acquire()
                tasks.create_task(self._judge(unit, segment, generation))

    async def _ask_on(self, keys: Iterator[tuple[OpenUnit, Key]], tasks: asyncio.TaskGroup) -> None:
        for unit, (key, rollout) in keys:
            generation = await self._ask(unit, unit.problems[key], rollout)
            segment = await self._committer.commit(unit.store, generation)
            unit.asked += 1
            unit.failed += generation.error is not None
            self._check_failures(unit, generation)
            await self._grading.acquire()
            tasks.create_task(self._judge_asked(unit, segment, generation, tasks))

    async def _ask(self, unit: OpenUnit, problem: Problem, rollout: int) -> Generation:
        from inspect_ai.model import GenerateConfig

        seed = rollout_seed(unit.unit.settings["seed"], unit.task.name, problem.key, rollout)
        asked = unit.model.generate(
            as_chat(unit.prompt(problem)),
            config=GenerateConfig(seed=seed),
        )
        try:
            output = await asyncio.create_task(asked)
        except TimberkitError:
            raise
        except Exception as error:  # any, for whole client libraries stand behind this
            said = _printable(f"{type(error).__name__}: {error}")
            return Generation(problem.key, rollout, seed, stop="error", error=said)
        if output.error is not None and not output.completion:
            said = _printable(output.error)
            return Generation(problem.key, rollout, seed, stop="error", error=said)
        return Generation(
            problem=problem.key,
            rollout=rollout,
            seed=seed,
            text=whole_text(output),
            stop=stop_of(output),
            input_tokens=None if output.usage is None else output.usage.input_tokens,
            output_tokens=None if output.usage is None else output.usage.output_tokens,
            seconds=output.time,
        )

    def _check_failures(self, unit: OpenUnit, generation: Generation) -> None:
        if generation.error is None:
            return
        none_came = unit.failed == unit.asked >= min(FIRST_FAILURES, unit.lacking)
        too_many = unit.failed > max(self._most_failures * unit.planned, FEW_FAILURES)
        if none_came or too_many:
            raise InterruptedRunError(
                f"{unit.unit.key}: {unit.failed} of {unit.asked} requests failed, the last with"
                f" {generation.error}; what was answered is kept; look at the server, then run the"
                " same command again (--max-failures sets how many may fail)"
            )

    async def _judge_asked(
        self,
        unit: OpenUnit,
        segment: Segment,
        generation: Generation,
        tasks: asyncio.TaskGroup,
    ) -> None:
        await self._judge(unit, segment, generation)
        unit.judged += 1
        self._on_answer(generation.output_tokens or 0)
        # In a task of its own: one that waited here would hold its text meanwhile.
        idle = self._packing is None or self._packing.done()
        if idle and unit.store.packable(whole=unit.is_judged):
            self._packing = tasks.create_task(self._pack(unit))

    async def _judge(self, unit: OpenUnit, segment: Segment, generation: Generation) -> None:
        try:
            response = split(unit, generation)
            grade = await self._grade(unit, generation, response)
        finally:
            self._grading.release()
        unit.store.note_grade(segment, generation, response, grade)

    async def _grade(self, unit: OpenUnit, generation: Generation, response: Response) -> Grade:
        if generation.error is not None:
            return Grade(False, None, f"the request failed: {generation.error}")
        if not response.finished:
            ended = "truncated" if response.truncated else "it ended"
            return Grade(False, None, f"{ended} inside its reasoning")
        problem = unit.problems[generation.problem]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads, lambda: unit.graders.grade(problem, response.answer, raw=unit.raw)
        )

    async def _pack(self, unit: OpenUnit) -> None:
        while segments := unit.store.packable(whole=unit.is_judged):
            write = unit.store.begin_packing(segments[0])
            await in_daemon_thread(partial(write, partial(judged, unit)))
            unit.store.end_packing(segments[0])


def split(unit: OpenUnit, generation: Generation) -> Response:
    """A generation in its parts."""
    stop_reason = "length" if generation.stop == "length" else "stop"
    return split_response(generation.text, stop_reason=stop_reason, opened=unit.opened)


def judged(unit: OpenUnit, generation: Generation, grade: Grade) -> Judged:
    """What a log keeps of a rollout."""
    problem = unit.problems[generation.problem]
    return Judged(generation, split(unit, generation), grade, problem, unit.prompt(problem))


def _printable(text: str) -> str:
    """A server's words, cut, and without what moves a terminal's cursor."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:MOST_REPORTED])


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that says most: one of timberkit's, else the first."""
    leaves = list(_leaves(group))
    return next((error for error in leaves if isinstance(error, TimberkitError)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
