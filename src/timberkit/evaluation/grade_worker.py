"""A process that judges answers: ``python -m timberkit.evaluation.grade_worker TASK SETTING …``.

Started by ``timberkit.evaluation.grading``, one JSON line in, one JSON line out, until its input
ends. The first line out says whether it is ready. Graders may write to standard output as they
like: it is not the one that the replies go to.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterable
from typing import IO, Any

from timberkit import errors
from timberkit.evaluation.task import Grade, Problem, Task
from timberkit.evaluation.tasks import make_task

MOST_MEMORY_BYTES = 8 << 30
"""Address space of a worker: enough for every library, too little for an exploding expression."""

MOST_REPORTED = 500


def main(arguments: list[str]) -> int:
    """Judge until the input ends. ``arguments``: task, setting, then names of options that are on.

    Returns an exit code.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with replies:
        try:
            task = make_task(arguments[0], arguments[1], **dict.fromkeys(arguments[2:], True))
            task.check_ready()
        except errors.TimberkitError as error:
            _reply(replies, {"error": type(error).__name__, "message": str(error)})
            return error.exit_code
        _bound_memory()
        _reply(replies, {"ready": True})
        _judge(task, sys.stdin, replies)
    return errors.EXIT_DONE


def _judge(task: Task, requests: Iterable[str], replies: IO[str]) -> None:
    for line in requests:
        request = json.loads(line)
        problem = Problem(request["key"], request["fields"])
        try:
            grade = judge_safely(task, problem, request["answer"], raw=request["raw"])
        except errors.TimberkitError as error:
            _reply(replies, {"error": type(error).__name__, "message": str(error)})
            continue
        _reply(
            replies,
            {"correct": grade.correct, "answer": grade.answer, "reason": grade.reason},
        )


def judge_safely(task: Task, problem: Problem, answer: str, *, raw: bool) -> Grade:
    """The grade; an answer that makes the grader fail is wrong, and the reason says how.

    Errors that timberkit raises on purpose are about the problem, not the answer, and get out.
    """
    try:
        return task.grade(problem, answer, raw=raw)
    except errors.TimberkitError:
        raise
    except Exception as error:  # any, for hostile text reaches whole libraries
        said = str(error)[:MOST_REPORTED]
        return Grade(False, None, f"the grader failed: {type(error).__name__}: {said}")


def _bound_memory() -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or hard > MOST_MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, hard))


def _reply(replies: IO[str], content: dict[str, Any]) -> None:
    # Escaped, so that no line break and no lone surrogate of an answer gets into the stream.
    replies.write(json.dumps(content) + "\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
