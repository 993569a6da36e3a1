"""Texts that both models of a pair read: the user's own file, or the embedded pair's puzzles."""

from __future__ import annotations

import json
from pathlib import Path

from timberkit.errors import InputError
from timberkit.sapling import correct_answers, load_problems
from timberkit.sapling.vocabulary import ASSISTANT, EOS, IDS, USER

LARGEST_PROMPTS_BYTES = 64 << 20
LARGEST_TOKENIZER_BYTES = 64 << 10


def read_texts(path: Path) -> tuple[str, ...]:
    """The texts of a file: one a line, or with the suffix ``.jsonl`` one JSON value a line.

    A JSON value is a string, or an object with ``text`` or ``prompt``. Empty lines are skipped.
    Raises InputError for a file that is missing, over 64 MiB, not UTF-8, or without a text.
    """
    try:
        if path.stat().st_size > LARGEST_PROMPTS_BYTES:
            raise InputError(f"{path}: over 64 MiB of texts; give a sample of them")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}; check the path") from None
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if path.suffix == ".jsonl":
        texts = [_json_text(path, number, line) for number, line in numbered]
    else:
        texts = [line for _, line in numbered]
    if not texts:
        raise InputError(f"{path}: found no text, expected one a line")
    return tuple(texts)


def puzzle_texts() -> tuple[str, ...]:
    """Sapling's held-out puzzles as it was trained on them: question, correct answer, end."""
    return tuple(
        f"{USER} {problem.prompt} {ASSISTANT} {correct_answers(problem)[0]} {EOS}"
        for problem in load_problems()
    )


def speaks_sapling(folder: Path) -> bool:
    """Whether the tokenizer of a model folder has Sapling's words, each with its id."""
    try:
        path = folder / "tokenizer.json"
        # Sapling's is 5 kB; a pipe would block who opens it.
        if not path.is_file() or path.stat().st_size > LARGEST_TOKENIZER_BYTES:
            return False
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        return bool(tokenizer["model"]["vocab"] == IDS)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _json_text(path: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        value = value.get("text", value.get("prompt"))
    if not isinstance(value, str) or not value:
        raise InputError(
            f"{path}: line {number}: found no text, expected a JSON string, or an object with"
            " 'text' or 'prompt'"
        )
    return value
