"""Methods of editing a delta, with their parameters, and the text that names one.

    parse_variant("timber:lam=0.5"), parse_variant("band:start=0.25,stop=0.5,gain=0")
    parse_variant("noise:seed=3,of=timber:lam=0.2")      # of= comes last and takes the rest

Two kinds. An *edit* is a rule that turns the singular values of a delta into gains. A *control*
moves every weight as far as the edit that it is made ``of``, but elsewhere: what an edit does and
its control does too is not the edit's doing.

Ranges, fixed once: ``lam`` and ``mu`` lie in [0, 1]; ``energy``, ``ratio`` and ``share`` are
fractions in (0, 1]; gains lie in [-10, 10]. All are frozen and refuse unknown fields. Not here:
what a method does to singular values (``spectral.filters``). What each is good for, and where it
comes from: docs/methods.md.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from timberkit.errors import RecipeError

PAPER = "arXiv 2509.23595"
LARGEST_GAIN = 10.0
"""Of either sign; far beyond, weights only overflow."""


class Frozen(BaseModel):
    """Immutable, and an unknown field is an error rather than a silent no-op."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def recipe_error(error: ValidationError, *, where: str) -> RecipeError:
    """One line per wrong field: where it stands, what was found, what was expected."""
    lines = []
    for problem in error.errors(include_url=False):
        place = ".".join(str(step) for step in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        found = problem["input"]
        shown = f" (found {found!r})" if isinstance(found, str | int | float) else ""
        lines.append(f"{where}{': ' if place else ''}{place}: {message}{shown}")
    return RecipeError("\n".join(lines))


def _positive_zero(value: float) -> float:
    return value + 0.0  # -0.0 is the same gain, and must not have another name


Gain: TypeAlias = Annotated[
    float, Field(ge=-LARGEST_GAIN, le=LARGEST_GAIN), AfterValidator(_positive_zero)
]


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


Edit: TypeAlias = (
    Timber
    | TimberL
    | TruncateRank
    | TruncateEnergy
    | Merge
    | RankCut
    | MpCut
    | Shrink
    | RankOne
    | Leading
    | Band
    | Linear
)
EDITS: dict[str, type[Edit]] = {
    edit.model_fields["method"].default: edit for edit in get_args(Edit)
}


def _read_edit(value: object) -> object:
    if not isinstance(value, str):
        return value
    # Looked at before it is parsed: controls of controls of controls would recurse.
    if value.partition(":")[0] not in EDITS:
        raise ValueError("expected an edit of the delta, such as timber:lam=0.2, as the last part")
    return _read_variant(value)


EditField: TypeAlias = Annotated[
    Annotated[Edit, Field(discriminator="method")], BeforeValidator(_read_edit)
]


class MatchedMerge(Frozen):
    """The merge that moves each weight as far from Instruct as the edit named in ``of`` does."""

    source: ClassVar[str] = "timberkit, a control"
    method: Literal["matched-merge"] = "matched-merge"
    of: EditField


class Noise(Frozen):
    """Instruct plus Gaussian noise, in each weight as large as what the edit in ``of`` changes."""

    source: ClassVar[str] = "timberkit, a control"
    method: Literal["noise"] = "noise"
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    of: EditField


AnyVariant: TypeAlias = Edit | MatchedMerge | Noise
METHODS: dict[str, type[AnyVariant]] = {
    **EDITS,
    **{kind.model_fields["method"].default: kind for kind in (MatchedMerge, Noise)},
}
PARAMETERS: tuple[str, ...] = tuple(
    dict.fromkeys(name for kind in METHODS.values() for name in kind.model_fields)
)
"""Every parameter of any method, ``method`` itself first."""

_OF = re.compile(r"(?:\A|,)of=(.*)\Z", re.DOTALL)


def parse_variant(text: str) -> AnyVariant:
    """Parse ``method`` or ``method:name=value,name=value``; ``of=`` comes last.

    Raises RecipeError for an unknown method, a malformed parameter or a value out of range.

    >>> parse_variant("timber:lam=0.5")
    Timber(method='timber', lam=0.5)
    >>> parse_variant("noise:seed=3,of=timber-l")
    Noise(method='noise', seed=3, of=TimberL(method='timber-l'))
    """
    method, _, tail = text.partition(":")
    if method not in METHODS:
        raise RecipeError(
            f"variant {text!r}: unknown method {method!r}; expected one of {', '.join(METHODS)}"
        )
    parameters: dict[str, str] = {}
    nested = _OF.search(tail)
    if nested is not None:
        parameters["of"] = nested[1]
        tail = tail[: nested.start()]
    for part in filter(None, tail.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name or not value or name in parameters:
            raise RecipeError(
                f"variant {text!r}: cannot read {part!r}; write each parameter once, as name=value,"
                " for example timber:lam=0.2"
            )
        parameters[name] = value
    try:
        return METHODS[method].model_validate(parameters)
    except ValidationError as error:
        raise recipe_error(error, where=f"variant {text!r}") from None


def parameters_of(variant: AnyVariant) -> dict[str, Any]:
    """The parameters that a variant was given or takes by default, in order; none that is unset."""
    names = (name for name in type(variant).model_fields if name != "method")
    found = {name: getattr(variant, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def parameters_shown(variant: AnyVariant) -> dict[str, str]:
    """``parameters_of``, each as ``parse_variant`` reads it.

    >>> parameters_shown(parse_variant("noise:of=leading:gain=2,count=1"))
    {'seed': '0', 'of': 'leading:count=1,gain=2'}
    """
    return {
        name: variant_text(value) if name == "of" else repr(value).removesuffix(".0")
        for name, value in parameters_of(variant).items()
    }


def explanation(variant: AnyVariant) -> str:
    """What a method does, in a sentence.

    >>> explanation(TimberL())
    'Keep the head of the delta, drop its tail: Timber at lambda 0.'
    """
    return (type(variant).__doc__ or variant.method).strip().replace("``", "")


def variant_text(variant: AnyVariant) -> str:
    """The text that ``parse_variant`` reads this variant from.

    >>> variant_text(Timber()), variant_text(Shrink())
    ('timber:lam=0.2', 'shrink')
    """
    parts = [f"{name}={value}" for name, value in parameters_shown(variant).items()]
    return variant.method + (":" if parts else "") + ",".join(parts)


def variant_name(variant: AnyVariant) -> str:
    """Folder name of a variant, the same every time for the same parameters.

    >>> variant_name(Timber(lam=0.2)), variant_name(TimberL())
    ('timber_lam0.2', 'timber-l')
    >>> variant_name(Noise(seed=3, of=Timber()))
    'noise_seed3_of_timber_lam0.2'
    """
    shown = parameters_shown(variant)
    if isinstance(variant, MatchedMerge | Noise):
        shown["of"] = f"_{variant_name(variant.of)}"
    return "_".join([variant.method, *(name + value for name, value in shown.items())])


def _read_variant(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_variant(value)
    except RecipeError as error:  # a ValueError joins the other wrong fields in one report
        raise ValueError(str(error)) from None


Variant: TypeAlias = Annotated[
    Annotated[AnyVariant, Field(discriminator="method")], BeforeValidator(_read_variant)
]
