"""Edits of a delta: the parameters of each and their ranges, fixed once.

``lam`` and ``mu`` lie in [0, 1]; ``energy``, ``ratio`` and ``share`` are fractions in (0, 1]; gains
lie in [-10, 10]. All are frozen and refuse unknown fields. Most turn the singular values of a delta
into gains; ``Ramp`` and ``Free`` look at where a matrix stands besides (``placing``),
``BaseSubspace`` at the singular directions of Base. What is made of other edits, and the texts that
name them all: ``methods``.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    model_validator,
)

from timberkit.errors import RecipeError, quoted, shortened
from timberkit.recipe_file import Origin, origin_of

PAPER = "arXiv 2509.23595"
LARGEST_GAIN = 10.0
"""Of either sign; far beyond, weights only overflow."""
MOST_PROBLEMS = 20
"""Wrong fields that a message lists: each costs a look into the file."""


class Frozen(BaseModel):
    """Immutable, and an unknown field is an error rather than a silent no-op."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def digest_name(variant: Frozen) -> str:
    """Name of a variant by its method and the beginning of the SHA-256 of its canonical JSON."""
    fields = variant.model_dump(mode="json")
    canonical = json.dumps(fields, sort_keys=True, allow_nan=False)
    return f"{fields['method']}_{hashlib.sha256(canonical.encode()).hexdigest()[:10]}"


def recipe_error(
    error: ValidationError, *, where: str | Origin, known: Iterable[str] = ()
) -> RecipeError:
    """One line per wrong field: where it stands, what was found, what was expected.

    ``known`` are the names of fields, of which the nearest is suggested for an unknown one.
    """
    names = list(known)
    origin = origin_of(where)
    lines = []
    problems = error.errors(include_url=False)
    for problem in problems[:MOST_PROBLEMS]:
        place = shortened(".".join(str(step) for step in problem["loc"]))
        said = _PLAIN_WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        message = shortened(said, longest=1000)
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(problem["loc"][-1])[:100], names, n=1)
            message += f": {near[0]}?" if near else ""
        found = problem["input"]
        # What was found is said once: a variant's own message already says which of its fields.
        is_shown = "(found " in message or not isinstance(found, str | int | float)
        shown = "" if is_shown else f" (found {quoted(found)})"
        lines.append(f"{origin.of(problem['loc'])}{': ' if place else ''}{place}: {message}{shown}")
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"and {len(problems) - MOST_PROBLEMS} problems more")
    return RecipeError("\n".join(lines))


_PLAIN_WORDS = {
    "extra_forbidden": "is not known here; check its spelling",
    "missing": "is needed and not given",
}
"""For what pydantic says in words of its own."""


def _positive_zero(value: float) -> float:
    return value + 0.0  # -0.0 is the same gain, and must not have another name


Gain: TypeAlias = Annotated[
    float, Field(ge=-LARGEST_GAIN, le=LARGEST_GAIN), AfterValidator(_positive_zero)
]


def listed(value: object) -> object:
    """The items of a list as a text has them: ``4+16``, ``none`` for no items, a number for one."""
    if isinstance(value, str):
        return [] if value == "none" else value.split("+")
    return [value] if isinstance(value, int | float) else value


def _ascending(edges: tuple[int, ...]) -> tuple[int, ...]:
    if list(edges) != sorted(set(edges)):
        shown = "+".join(map(str, edges))
        raise ValueError(f"found {shown}, expected numbers of directions that rise, such as 4+16")
    return edges


Edges: TypeAlias = Annotated[
    tuple[Annotated[int, Field(ge=1, lt=1 << 63)], ...],
    BeforeValidator(listed),
    AfterValidator(_ascending),
]
Levels: TypeAlias = Annotated[tuple[Gain, ...], BeforeValidator(listed), Field(min_length=1)]


def _check_levels(edges: Sequence[int], levels: Sequence[float], where: str = "") -> None:
    if len(levels) != len(edges) + 1:
        raise ValueError(
            f"{where}found {len(levels)} gains for {len(edges)} edges, expected {len(edges) + 1}:"
            " one before, between and after them"
        )


class Timber(Frozen):
    """Keep the head of the delta, multiply its tail by ``lam`` (eq. 4 of arXiv 2509.23595)."""

    source: ClassVar[str] = f"{PAPER}, eqs. 1 to 4"
    method: Literal["timber"] = "timber"
    lam: float = Field(default=0.2, ge=0.0, le=1.0)


class TimberL(Frozen):
    """Keep the head of the delta, drop its tail: Timber at lambda 0."""

    source: ClassVar[str] = PAPER
    method: Literal["timber-l"] = "timber-l"


class RankCut(Frozen):
    """Timber with the cut at ``ceil(scale * effective rank)``, between 1 and r."""

    source: ClassVar[str] = f"timberkit, after {PAPER}"
    method: Literal["rank-cut"] = "rank-cut"
    scale: float = Field(gt=0.0, le=100.0)
    lam: float = Field(default=0.2, ge=0.0, le=1.0)


class MpCut(Frozen):
    """Keep directions above the edge of the delta's own noise, multiply the others by ``lam``."""

    source: ClassVar[str] = "Marchenko & Pastur 1967"
    method: Literal["mp-cut"] = "mp-cut"
    lam: float = Field(default=0.2, ge=0.0, le=1.0)


class Shrink(Frozen):
    """Take the delta's noise out of every singular value, by the optimal shrinkage."""

    source: ClassVar[str] = "Gavish & Donoho, IEEE Trans. Inf. Theory 63 (2017)"
    method: Literal["shrink"] = "shrink"


class TruncateRank(Frozen):
    """Keep the first ``ceil(ratio * r)`` singular directions of the delta."""

    source: ClassVar[str] = f"{PAPER}, table 3"
    method: Literal["truncate-rank"] = "truncate-rank"
    ratio: float = Field(gt=0.0, le=1.0)


class TruncateEnergy(Frozen):
    """Keep the fewest leading directions whose squared singular values sum to ``energy``."""

    source: ClassVar[str] = f"{PAPER}, table 3"
    method: Literal["truncate-energy"] = "truncate-energy"
    energy: float = Field(gt=0.0, le=1.0)


class RankOne(Frozen):
    """Keep the leading singular direction of the delta alone."""

    source: ClassVar[str] = "arXiv 2605.21468"
    method: Literal["rank-one"] = "rank-one"


class Leading(Frozen):
    """Multiply the leading directions by ``gain``: ``count``, or ``ceil(share * r)`` of them."""

    source: ClassVar[str] = "arXiv 2605.21468 and 2508.16546"
    method: Literal["leading"] = "leading"
    count: int | None = Field(default=None, ge=1)
    share: float | None = Field(default=None, gt=0.0, le=1.0)
    gain: Gain

    @model_validator(mode="after")
    def _one_measure(self) -> Leading:
        if (self.count is None) == (self.share is None):
            raise ValueError("expected either count or share")
        return self


class Band(Frozen):
    """Multiply the directions ``start * r <= i < stop * r`` by ``gain``, keep the others."""

    source: ClassVar[str] = "timberkit, a probe of which part of the spectrum carries an ability"
    method: Literal["band"] = "band"
    start: float = Field(ge=0.0, lt=1.0)
    stop: float = Field(gt=0.0, le=1.0)
    gain: Gain

    @model_validator(mode="after")
    def _forwards(self) -> Band:
        if self.stop <= self.start:
            raise ValueError(f"found start {self.start} and stop {self.stop}, expected start below")
        return self


class Linear(Frozen):
    """Gains from ``first`` to ``last`` in equal steps over the directions."""

    source: ClassVar[str] = "timberkit, a cut without a step"
    method: Literal["linear"] = "linear"
    first: Gain
    last: Gain


class Merge(Frozen):
    """Plain interpolation, ``mu * instruct + (1 - mu) * base``; needs no decomposition."""

    source: ClassVar[str] = f"{PAPER}, figure 6; arXiv 2504.10478"
    method: Literal["merge"] = "merge"
    mu: float = Field(ge=0.0, le=1.0)


class Steps(Frozen):
    """Multiply the directions up to each of the ``edges``, and after the last, by a gain each."""

    source: ClassVar[str] = "timberkit, any filter with few steps"
    method: Literal["steps"] = "steps"
    edges: Edges = ()
    gains: Levels

    @model_validator(mode="after")
    def _a_gain_for_each(self) -> Steps:
        _check_levels(self.edges, self.gains)
        return self


class BaseSubspace(Frozen):
    """Weigh what of the delta lies in the leading singular subspaces of Base, and what does not."""

    source: ClassVar[str] = "arXiv 2511.08567"
    method: Literal["base-subspace"] = "base-subspace"
    share: float = Field(gt=0.0, le=1.0)
    inside: Gain = 1.0
    outside: Gain = 1.0


class Ramp(Frozen):
    """Interpolate with a gain that runs from ``first`` to ``last`` over the layers."""

    source: ClassVar[str] = "timberkit, after arXiv 2504.10478 and 2508.16546"
    method: Literal["ramp"] = "ramp"
    first: Gain
    last: Gain


_PLACED = re.compile(r"(.*) \[(?:(\d{1,6})(?: (q|k|v|gate|up))?|(q|k|v|gate|up))\]\Z", re.DOTALL)
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Glob:
    """Shell pattern on tensor names, and the matrix of a fused tensor where it names one."""

    pattern: str
    index: int | None
    part: str | None = None

    def fits(self, name: str, index: int | None, part: str | None) -> bool:
        """Whether it means this matrix of a tensor."""
        return (
            self.index in (None, index)
            and self.part in (None, part)
            and fnmatch.fnmatchcase(name, self.pattern)
        )


def read_glob(key: str) -> Glob | None:
    """The pattern that a key of ``Free`` is, None where it is just a name.

    >>> read_glob("*.experts.up_proj [3]"), read_glob("mlp.experts.up_proj [3]")
    (Glob(pattern='*.experts.up_proj', index=3, part=None), None)
    >>> read_glob("*.gate_up_proj [3 up]")
    Glob(pattern='*.gate_up_proj', index=3, part='up')
    """
    placed = _PLACED.match(key)
    stem = key if placed is None else placed[1]
    if _WILD.search(stem) is None:
        return None
    if placed is None:
        return Glob(stem, None)
    index, part = placed[2], placed[3] or placed[4]
    return Glob(stem, None if index is None else int(index), part)


def _read_free(value: object) -> object:
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=list)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f'cannot be read as JSON ({error}), expected such as {{"NAME": [0.3, 1.2]}}'
            ) from None
    return list(value.items()) if isinstance(value, Mapping) else value


def _in_one_order(
    entries: tuple[tuple[str, tuple[float, ...]], ...],
) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Names by the alphabet, which decides nothing; patterns behind them, as they were given."""
    counts = Counter(key for key, _ in entries)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{', '.join(map(quoted, twice[:3]))} given more than once")
    exact = sorted(entry for entry in entries if read_glob(entry[0]) is None)
    return (*exact, *(entry for entry in entries if read_glob(entry[0]) is not None))


class Free(Frozen):
    """Multiply the directions of each matrix, up to and between ``edges``, by gains of its own."""

    source: ClassVar[str] = "timberkit, the space that a search has"
    method: Literal["free"] = "free"
    edges: Edges = (4,)
    gains: Annotated[
        tuple[tuple[Annotated[str, Field(min_length=1)], Levels], ...],
        BeforeValidator(_read_free),
        AfterValidator(_in_one_order),
        Field(min_length=1),
    ]

    @model_validator(mode="after")
    def _gains_for_each(self) -> Free:
        for key, levels in self.gains:
            _check_levels(self.edges, levels, f"gains of {quoted(key)}: ")
        return self

    @field_serializer("gains")
    def _plain_gains(self, gains: tuple[tuple[str, tuple[float, ...]], ...]) -> Any:
        """A mapping, unless there are several patterns: their order counts, which JSON may lose."""
        if len(self.globs) > 1:
            return [[key, list(levels)] for key, levels in gains]
        return {key: list(levels) for key, levels in gains}

    @cached_property
    def short_name(self) -> str:
        """``digest_name``; worked out once, for there may be gains for every matrix of a model."""
        return digest_name(self)

    @cached_property
    def by_name(self) -> dict[str, tuple[float, ...]]:
        """Gains of each name that is no pattern."""
        return {key: levels for key, levels in self.gains if read_glob(key) is None}

    @cached_property
    def globs(self) -> tuple[tuple[Glob, tuple[float, ...]], ...]:
        """The patterns in order."""
        found = ((read_glob(key), levels) for key, levels in self.gains)
        return tuple((glob, levels) for glob, levels in found if glob is not None)
