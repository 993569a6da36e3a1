"""Cases as a page holds them: a list for pickers and filters, and compressed packs of texts.

    listing, packs = listing_of(collection), pack_texts(collection)

A pack is JSON, deflated, as base64: the texts of one or more whole cases. Where the packs are small
they stand in the page, else in files beside it. Such a file is a *style sheet*:

    :host{--p0:"eJyrVkrLz1eyUkpKLFKqBQAdegQ0"}

A page that lies on a disk may neither fetch nor check the integrity of what it loads, so a script
beside it would run whatever somebody put there. A style sheet runs nothing: the page loads it into
a shadow tree of its own, where its rules reach no other element, reads the text and compares its
SHA-256 with the one it was written with.

All text of strangers is made visible here (``text.visible``, ``text.readable``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from timberkit.errors import OutputExistsError
from timberkit.report.cases import Case, CaseCollection, KeptText, ShownRollout, keep_text
from timberkit.report.text import readable, visible

PACK_CHARACTERS = 300_000
"""A pack is closed when its texts are longer; each case is in one pack."""
PIECE_CHARACTERS = 1 << 20
"""Of a custom property; Chromium drops those of 2 MiB and more."""
LONGEST_LABEL = 60
LONGEST_START = 160
LONGEST_ANSWERS = 240
LONGEST_ANSWER = 2_000
_FILE_NAME = re.compile(r"\d{4,}\.css")


@dataclass(frozen=True, slots=True)
class Packs:
    """All packs, and where each case lies: (pack, place in it), in the order of the cases."""

    texts: tuple[str, ...]
    places: tuple[tuple[int, int], ...]

    @property
    def size_bytes(self) -> int:
        """Of all packs."""
        return sum(map(len, self.texts))

    @property
    def digests(self) -> list[str]:
        """SHA-256 of each pack's base64 text, as base64."""
        return [
            base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in self.texts
        ]


def pack_texts(collection: CaseCollection) -> Packs:
    """The texts of all cases. Equal collections give equal packs. 20 ms a megabyte of text."""
    texts: list[str] = []
    places: list[tuple[int, int]] = []
    pending: list[str] = []
    characters = 0
    for case in collection.cases:
        places.append((len(texts), len(pending)))
        pending.append(json.dumps(_case_texts(case, collection.models), separators=(",", ":")))
        characters += len(pending[-1])
        if characters >= PACK_CHARACTERS:
            texts.append(_packed(pending))
            pending, characters = [], 0
    if pending:
        texts.append(_packed(pending))
    return Packs(tuple(texts), tuple(places))


def listing_of(collection: CaseCollection, packs: Packs) -> dict[str, Any]:
    """What pickers, filters and the quick search need, as JSON values; no whole text.

    ``models`` (labels, no two alike), ``reference``, ``focus``, ``tasks``, and ``cases`` with
    ``counts`` [n, c, first right] by model, null for one that was not asked.
    """
    labels = unlike([collection.labels[model] for model in collection.models], LONGEST_LABEL)
    tasks = list(collection.tasks)
    return {
        "models": labels,
        "reference": collection.models.index(collection.reference),
        "focus": collection.models.index(collection.focus),
        "tasks": unlike(tasks, LONGEST_LABEL),
        "cases": [
            {
                "task": tasks.index(case.task),
                "key": visible(case.problem),
                "start": visible(" ".join(case.text.prompt[:2000].split()), longest=LONGEST_START),
                "target": visible(case.text.target, longest=LONGEST_START),
                "answers": _answers(case),
                "why": case.why,
                "counts": [
                    [found.n, found.c, found.first_right] if found else None
                    for found in (case.models.get(model) for model in collection.models)
                ],
                "pack": pack,
                "at": at,
            }
            for case, (pack, at) in zip(collection.cases, packs.places, strict=True)
        ],
    }


def unlike(names: Sequence[str], longest: int) -> list[str]:
    """Names for a page, with a number before those that would look the same."""
    shown = [visible(name, longest=longest) for name in names]
    return [
        f"{place}: {name}" if shown.count(name) > 1 else name
        for place, name in enumerate(shown, start=1)
    ]


def folder_beside(page: Path) -> Path:
    """Where the packs of a page lie that does not hold them itself."""
    return page.with_name(f"{page.stem}-cases")


def address_of(folder: Path) -> str:
    """The folder's name as a relative address."""
    return quote(os.fsencode(folder.name))


def write_beside(page: Path, texts: Sequence[str]) -> None:
    """Put packs into the folder beside a page, all or none; without any, the folder goes.

    Raises OutputExistsError where something else than packs has that name, OSError where nothing
    can be written. An older folder is replaced.
    """
    folder = folder_beside(page)
    _refuse_strangers(folder)
    draft, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("new", "old"))
    try:
        if texts:
            draft.mkdir()
            for number, text in enumerate(texts):
                (draft / f"{number:04d}.css").write_text(_style_sheet(text), encoding="ascii")
        if folder.is_dir():
            os.replace(folder, old)
        if texts:
            os.replace(draft, folder)
    finally:
        for left in (draft, old):
            shutil.rmtree(left, ignore_errors=True)


def _refuse_strangers(folder: Path) -> None:
    if not os.path.lexists(folder):
        return
    strangers = (
        [folder.name]
        if folder.is_symlink() or not folder.is_dir()
        else [entry.name for entry in folder.iterdir() if not _FILE_NAME.fullmatch(entry.name)]
    )
    if strangers:
        raise OutputExistsError(
            f"{folder}: holds {min(strangers)[:80]!r}, expected only texts of a page, which keeps"
            " them in a folder of this name: move yours, or name the page otherwise"
        )


def _style_sheet(text: str) -> str:
    starts = range(0, len(text), PIECE_CHARACTERS)
    pieces = [f'--p{i}:"{text[at : at + PIECE_CHARACTERS]}";' for i, at in enumerate(starts)]
    return f":host{{{''.join(pieces)}}}\n"


def _packed(cases: Sequence[str]) -> str:
    return base64.b64encode(zlib.compress(f"[{','.join(cases)}]".encode("ascii"), 9)).decode()


def _case_texts(case: Case, models: Sequence[str]) -> dict[str, Any]:
    return {
        "prompt": _text(keep_text(case.text.prompt)),
        "target": _text(keep_text(case.text.target)),
        "models": [
            [_rollout(one) for one in case.models[model].shown] if model in case.models else None
            for model in models
        ],
    }


def _rollout(one: ShownRollout) -> dict[str, Any]:
    return {
        "number": one.rollout,
        "correct": one.correct,
        "answer": None if one.answer is None else visible(one.answer, longest=LONGEST_ANSWER),
        "reason": visible(one.reason, longest=LONGEST_ANSWER),
        "stop": one.stop,
        "seed": None if one.seed is None else str(one.seed),
        "tokens": one.output_tokens,
        "error": None if one.error is None else visible(one.error, longest=LONGEST_ANSWER),
        "reasoning": _text(one.reasoning),
        "response": _text(one.response),
    }


def _text(kept: KeptText) -> dict[str, Any]:
    return {"text": readable(kept.text), "left_out": kept.left_out}


def _answers(case: Case) -> str:
    """What the graders took as answers, each once."""
    found = dict.fromkeys(_all_answers(case))
    return visible(" · ".join(found), longest=LONGEST_ANSWERS)


def _all_answers(case: Case) -> Iterator[str]:
    for model in case.models.values():
        for one in model.shown:
            if one.answer:
                yield one.answer[:LONGEST_START]
