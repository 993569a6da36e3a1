"""Methods of editing a delta, with their parameters, and the text that names one.

    parse_variant("timber:lam=0.5"), parse_variant("band:start=0.25,stop=0.5,gain=0")
    parse_variant("within:layers=0-3,of=timber")         # of= comes last and takes the rest
    parse_variant("noise:seed=3,of=within:layers=0-3,of=timber")

Three kinds. An *edit* is a rule for a delta (``edits``). ``within`` makes one in a part of the
model only. A *control* moves every weight as far as the edit that it is made ``of``, but
elsewhere: what an edit does and its control does too is not the edit's doing.

Not here: what a method does to singular values (``spectral.filters``), and what becomes of one that
depends on where a matrix stands (``placing``). What each is good for, and where it comes from:
docs/methods.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from timberkit.edits import (
    PAPER,
    Band,
    BaseSubspace,
    Free,
    Frozen,
    Leading,
    Linear,
    Merge,
    MpCut,
    Ramp,
    RankCut,
    RankOne,
    Shrink,
    Steps,
    Timber,
    TimberL,
    TruncateEnergy,
    TruncateRank,
    digest_name,
    listed,
    recipe_error,
)
from timberkit.errors import RecipeError, quoted
from timberkit.parts import Kind, parse_layers

LONGEST_NAME = 100
"""Of a variant's folder, in characters; what would have a longer one is called by its SHA-256."""
OF_SELECTION = frozenset({"families", "layers"})
"""Parameters of ``within`` that have the names of a recipe's selection, and are not meant by it."""

PlainEdit: TypeAlias = (
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
    | Steps
    | BaseSubspace
    | Ramp
    | Free
)
PLAIN_EDITS: dict[str, type[PlainEdit]] = {
    edit.model_fields["method"].default: edit for edit in get_args(PlainEdit)
}


def _read_plain_edit(value: object) -> object:
    return _read_one_of(PLAIN_EDITS, value)


def _read_edit(value: object) -> object:
    return _read_one_of(EDITS, value)


def _read_one_of(kinds: Mapping[str, object], value: object) -> object:
    if not isinstance(value, str):
        return value
    # Looked at before it is parsed: controls of controls of controls would recurse.
    if value.partition(":")[0] not in kinds:
        raise ValueError("expected an edit of the delta, such as timber:lam=0.2, as the last part")
    return _read_variant(value)


def _sorted_once(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


class Within(Frozen):
    """Edit as ``of`` says in the chosen part of the model, leave Instruct's weights elsewhere."""

    source: ClassVar[str] = f"{PAPER} and 2508.16546"
    method: Literal["within"] = "within"
    families: Annotated[
        tuple[Kind, ...], BeforeValidator(listed), AfterValidator(_sorted_once)
    ] = ()
    modules: Annotated[
        tuple[Annotated[str, Field(pattern=r"\A[A-Za-z0-9_-]{1,64}\z")], ...],
        BeforeValidator(listed),
        AfterValidator(_sorted_once),
    ] = ()
    layers: str | None = None
    start: float | None = Field(default=None, ge=0.0, lt=1.0)
    stop: float | None = Field(default=None, gt=0.0, le=1.0)
    of: Annotated[
        Annotated[PlainEdit, Field(discriminator="method")], BeforeValidator(_read_plain_edit)
    ]

    @field_validator("layers", mode="before")
    @classmethod
    def _readable_layers(cls, layers: object) -> object:
        """``4-20+25``; commas and blanks, as a selection has them, are understood."""
        if not isinstance(layers, str | int) or isinstance(layers, bool):
            return layers
        try:
            ranges = parse_layers(str(layers).replace("+", ","))
        except RecipeError as error:
            raise ValueError(str(error)) from None
        return "+".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)

    @model_validator(mode="after")
    def _some_part(self) -> Within:
        if not self.given:
            raise ValueError(
                "expected at least one of families, modules, layers, start and stop beside of;"
                " without any, write the edit itself"
            )
        start, stop = self.start or 0.0, 1.0 if self.stop is None else self.stop
        if stop <= start:
            raise ValueError(f"found start {start} and stop {stop}, expected start below")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """What chooses the part, without ``of``."""
        return {name: value for name, value in parameters_of(self).items() if name != "of"}


Edit: TypeAlias = PlainEdit | Within
EDITS: dict[str, type[Edit]] = {**PLAIN_EDITS, "within": Within}

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
    dict.fromkeys(
        name for kind in METHODS.values() for name in kind.model_fields if name not in OF_SELECTION
    )
)
"""Every parameter that a recipe may have as a field of its own, ``method`` itself first."""

_LAST = {"free": re.compile(r"(?:\A|,)(gains)=(.*)\Z", re.DOTALL)}
_OF = re.compile(r"(?:\A|,)(of)=(.*)\Z", re.DOTALL)


def parse_variant(text: str) -> AnyVariant:
    """Parse ``method`` or ``method:name=value,name=value``; the items of a list have + between.

    ``of=`` comes last and takes the rest, as does the JSON of ``free:gains=``.

    Raises RecipeError for an unknown method, a malformed parameter or a value out of range.

    >>> parse_variant("timber:lam=0.5")
    Timber(method='timber', lam=0.5)
    >>> parse_variant("noise:seed=3,of=timber-l")
    Noise(method='noise', seed=3, of=TimberL(method='timber-l'))
    """
    method, _, tail = text.partition(":")
    if method not in METHODS:
        raise RecipeError(
            f"variant {quoted(text)}: unknown method {quoted(method)}; expected one of"
            f" {', '.join(METHODS)}"
        )
    parameters: dict[str, str] = {}
    last = _LAST.get(method, _OF).search(tail)
    if last is not None:
        parameters[last[1]] = last[2]
        tail = tail[: last.start()]
    for part in filter(None, tail.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name or not value or name in parameters:
            raise RecipeError(
                f"variant {quoted(text)}: cannot read {quoted(part)}; write each parameter once, as"
                " name=value, for example timber:lam=0.2"
            )
        parameters[name] = value
    try:
        return METHODS[method].model_validate(parameters)
    except ValidationError as error:
        raise recipe_error(error, where=f"variant {quoted(text)}") from None


def parameters_of(variant: AnyVariant) -> dict[str, Any]:
    """The parameters that a variant was given or takes by default, in order; none that is unset.

    An empty list is one that is unset, but for the edges of ``free``, which has others by default.
    """
    kind = type(variant)
    found = {name: getattr(variant, name) for name in kind.model_fields if name != "method"}
    return {
        name: value
        for name, value in found.items()
        if value is not None and (value != () or kind.model_fields[name].default != ())
    }


def parameters_shown(variant: AnyVariant) -> dict[str, str]:
    """``parameters_of``, each as ``parse_variant`` reads it.

    >>> parameters_shown(parse_variant("noise:of=leading:gain=2,count=1"))
    {'seed': '0', 'of': 'leading:count=1,gain=2'}
    """
    shown = {name: _shown(value) for name, value in parameters_of(variant).items()}
    if isinstance(variant, Free):
        shown["gains"] = json.dumps(variant.model_dump(mode="json")["gains"])
    return shown


def _shown(value: Any) -> str:
    match value:
        case str():
            return value
        case tuple():
            return "+".join(map(_shown, value)) or "none"
        case int() | float():
            return repr(value).removesuffix(".0")
        case _:
            return variant_text(value)


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

    It has letters, digits and ``+-._`` only. The gains of ``free``, and what would make a name of
    more than ``LONGEST_NAME`` characters, are told by the beginning of a SHA-256.

    >>> variant_name(Timber(lam=0.2)), variant_name(TimberL())
    ('timber_lam0.2', 'timber-l')
    >>> variant_name(Noise(seed=3, of=Timber()))
    'noise_seed3_of_timber_lam0.2'
    >>> variant_name(Free(gains={"*.q_proj.weight": [0.3, 1.2]}))
    'free_b1903dee88'
    """
    if isinstance(variant, Free):
        return variant.short_name
    shown = {name: _shown(value) for name, value in parameters_of(variant).items() if name != "of"}
    if isinstance(variant, Within | MatchedMerge | Noise):
        shown["of"] = f"_{variant_name(variant.of)}"
    name = "_".join([variant.method, *(name + value for name, value in shown.items())])
    return name if len(name) <= LONGEST_NAME else digest_name(variant)


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
