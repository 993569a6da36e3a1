"""The pairs: the paper's seven and the embedded one, with the paper's protocol for each.

    find_pair("qwen3-0.6b").instruct                          # 'Qwen/Qwen3-0.6B'
    pair_of("/models/Qwen3-8B-Base", "/models/Qwen3-8B")      # the same pair, known by its folders

Ids and protocol are those of arXiv 2509.23595; a test holds them against ``study/published.json``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, TypeAlias

from timberkit.errors import UsageError
from timberkit.evaluation.sampling import Sampling, preset
from timberkit.report.paper import paper_model
from timberkit.sapling.pair import base_folder, instruct_folder

Rollouts: TypeAlias = tuple[tuple[str, int], ...]

ROLLOUTS: Final[Rollouts] = (("aime24", 320), ("gpqa-diamond", 256))
"""Rollouts of a problem behind the paper's Pass@k: task and number."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A Base and an Instruct model that belong together.

    ``base`` and ``instruct``: hub ids; folders that are shipped for ``sapling``. ``paper_model``:
    its name in ``study/published.json``, None where the paper does not have it. ``thinking``: the
    model can think before it answers. ``moe``: a mixture of experts. ``plain_preset`` and
    ``thinking_preset``: names of ``evaluation.sampling`` for the paper's two modes, None for a mode
    that the model does not have and for a model that goes by its own ``generation_config.json``.
    ``repeats``: answers to a problem for Mean@k. ``rollouts``: likewise for Pass@k, task by task;
    empty where the paper shows no Pass@k (``ROLLOUTS`` are its sizes).
    """

    name: str
    base: str
    instruct: str
    paper_model: str | None
    thinking: bool
    moe: bool
    plain_preset: str | None
    thinking_preset: str | None
    repeats: int
    rollouts: Rollouts = ()

    @property
    def on_hub(self) -> bool:
        """Whether its models are fetched from the hub, rather than shipped."""
        return self.paper_model is not None

    def sampling(self, *, thinking: bool = False) -> Sampling | None:
        """How the paper draws answers in one mode; None where the model's own files decide.

        Raises UsageError when thinking is asked of a model that has no such mode.
        """
        if thinking and not self.thinking:
            raise UsageError(
                f"pair {self.name}: {self.instruct} has no thinking mode; leave thinking out"
            )
        name = self.thinking_preset if thinking else self.plain_preset
        return None if name is None else preset(name)


def _llama(size: str, *, repeats: int = 3) -> Pair:
    model = f"Llama-{size}"
    return Pair(
        name=model.lower(),
        base=f"meta-llama/{model}",
        instruct=f"meta-llama/{model}-Instruct",
        paper_model=model,
        thinking=False,
        moe=False,
        plain_preset=model.lower(),
        thinking_preset=None,
        repeats=repeats,
    )


def _qwen(size: str, *, moe: bool = False, rollouts: Rollouts = ()) -> Pair:
    model = f"Qwen3-{size}"
    return Pair(
        name=model.lower(),
        base=f"Qwen/{model}-Base",
        instruct=f"Qwen/{model}",
        paper_model=model,
        thinking=True,
        moe=moe,
        plain_preset="qwen3-non-thinking",
        thinking_preset="qwen3-thinking",
        repeats=3,
        rollouts=rollouts,
    )


PAIRS: Final[tuple[Pair, ...]] = (
    _llama("3.2-1B", repeats=4),
    _llama("3.2-3B"),
    _llama("3.1-8B"),
    _qwen("0.6B", rollouts=ROLLOUTS),
    _qwen("8B"),
    _qwen("14B"),
    _qwen("30B-A3B", moe=True),
    Pair(
        name="sapling",
        base=str(base_folder()),
        instruct=str(instruct_folder()),
        paper_model=None,
        thinking=False,
        moe=False,
        plain_preset=None,
        thinking_preset=None,
        repeats=4,
    ),
)
"""All pairs, the paper's in its order."""

PAIR_NAMES: Final[tuple[str, ...]] = tuple(pair.name for pair in PAIRS)


def find_pair(name: str) -> Pair:
    """The pair of that name, whatever its case. Raises UsageError for another, listing all.

    >>> find_pair("Qwen3-30B-A3B").base
    'Qwen/Qwen3-30B-A3B-Base'
    """
    for pair in PAIRS:
        if pair.name == name.strip().lower():
            return pair
    raise UsageError(
        f"pair {name[:80]!r}: not known, expected one of {', '.join(PAIR_NAMES)}; for other models"
        " give BASE and INSTRUCT themselves"
    )


def pair_of(base: str, instruct: str) -> Pair | None:
    """The pair that two sources are, or None.

    The paper's by the last words of hub ids or folders, as ``report.paper.paper_model`` has it; the
    embedded one by where its folders lie. Reads no file.

    >>> pair_of("/models/Qwen3-8B-Base/", "Qwen/Qwen3-8B@main").name
    'qwen3-8b'
    """
    known = [{"base": pair.base, "instruct": pair.instruct} for pair in PAIRS if pair.on_hub]
    model = paper_model({"base": base, "instruct": instruct}, {"pairs": known})
    if model is not None:
        return next(pair for pair in PAIRS if pair.paper_model == model)
    given = _path(base), _path(instruct)
    shipped = (pair for pair in PAIRS if not pair.on_hub)
    return next(
        (pair for pair in shipped if given == (_path(pair.base), _path(pair.instruct))), None
    )


def _path(source: str) -> str:
    return os.path.abspath(os.path.expanduser(source))
