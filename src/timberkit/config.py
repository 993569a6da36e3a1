"""Recipes: what a YAML file, a command line and a manifest all parse to.

A recipe is everything that decides the bytes of the output: the two sources, the methods with their
parameters, which tensors are treated, output dtype and device. How many workers share the work is
not part of it, because it must not change a byte.

    recipe = RefineRecipe(base="org/model-base", instruct="org/model", variants=["timber:lam=0.2"])

All models are frozen and refuse unknown fields. The methods and their ranges stand in ``edits`` and
``methods`` and can be had from here as well.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from timberkit.edits import (
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
    recipe_error,
)
from timberkit.errors import RecipeError
from timberkit.methods import (
    METHODS,
    PARAMETERS,
    AnyVariant,
    MatchedMerge,
    Noise,
    Variant,
    Within,
    parse_variant,
    variant_name,
    variant_text,
)
from timberkit.parts import Position, parse_layers
from timberkit.placing import at
from timberkit.recipe_file import Origin, origin_of, read_recipe

__all__ = [
    "DEFAULT_FAMILIES",
    "METHODS",
    "PARAMETERS",
    "AnalyzeRecipe",
    "AnyVariant",
    "Band",
    "BaseSubspace",
    "Family",
    "Free",
    "Frozen",
    "Fused",
    "KeepValues",
    "Leading",
    "Linear",
    "MatchedMerge",
    "Measure",
    "Merge",
    "MpCut",
    "Noise",
    "Origin",
    "OutputDtype",
    "Position",
    "Ramp",
    "RankCut",
    "RankOne",
    "RefineRecipe",
    "Selection",
    "Shrink",
    "Source",
    "SourceField",
    "Steps",
    "Timber",
    "TimberL",
    "TruncateEnergy",
    "TruncateRank",
    "Variant",
    "Within",
    "at",
    "build_analyze_recipe",
    "build_recipe",
    "build_selection",
    "known_fields",
    "parse_layers",
    "parse_variant",
    "parse_variants",
    "read_recipe",
    "read_recipe_fields",
    "recipe_error",
    "variant_name",
    "variant_text",
]

Family: TypeAlias = Literal[
    "attention",
    "ffn",
    "expert",
    "ssm",
    "router",
    "embedding",
    "head",
    "state",
    "convolution",
    "vision",
    "all-linear",
    "authors",
]
Fused: TypeAlias = Literal["split", "whole"]
OutputDtype: TypeAlias = Literal["float32", "float16", "bfloat16", "float64"]
Measure: TypeAlias = Literal["rounding", "subspaces"]
KeepValues: TypeAlias = Literal["delta", "all"]

DEFAULT_FAMILIES: tuple[Family, ...] = ("attention", "ffn", "expert", "ssm")
_ONLY_REFINE = (*PARAMETERS, "variants", "dtype", "device", "as_adapter")


class Source(Frozen):
    """A local folder, or a hub id with an optional pinned revision."""

    location: str = Field(min_length=1)
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read ``FOLDER`` or ``org/name`` or ``org/name@revision``.

        A path that exists is always a folder, also when its name holds an ``@``.

        >>> Source.parse("org/model@main")
        Source(location='org/model', revision='main')
        """
        if text and os.path.isdir(os.path.expanduser(text)):
            return cls(location=text)
        location, _, revision = text.partition("@")
        return cls(location=location, revision=revision or None)

    def __str__(self) -> str:
        return self.location if self.revision is None else f"{self.location}@{self.revision}"


def _read_source(value: object) -> object:
    return Source.parse(value) if isinstance(value, str) else value


SourceField: TypeAlias = Annotated[Source, BeforeValidator(_read_source)]


class Selection(Frozen):
    """Which tensors are refined; everything else is copied from Instruct.

    ``layers`` such as ``4-20,25`` (inclusive, from 0) leaves tensors outside any layer alone.
    ``include`` and ``exclude`` are shell patterns (``*.q_proj.weight``) on tensor names: with
    ``include`` a tensor must match one of them as well, ``exclude`` has the last word. ``fused``
    says whether projections stored as one weight are refined each by itself or as one.
    """

    families: tuple[Family, ...] = DEFAULT_FAMILIES
    layers: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    fused: Fused = "split"

    @field_validator("families")
    @classmethod
    def _some_family(cls, families: tuple[Family, ...]) -> tuple[Family, ...]:
        if not families:
            raise ValueError("name at least one family")
        if "authors" in families and len(families) > 1:
            raise ValueError("'authors' takes every tensor of two or more dimensions; use it alone")
        return tuple(dict.fromkeys(families))

    @field_validator("layers")
    @classmethod
    def _readable_layers(cls, layers: str | None) -> str | None:
        if layers is not None:
            try:
                parse_layers(layers)
            except RecipeError as error:
                raise ValueError(str(error)) from None
        return layers

    def has_layer(self, layer: int | None) -> bool:
        """Whether tensors of this layer are selected (``None``: outside any layer)."""
        if self.layers is None:
            return True
        return layer is not None and any(
            first <= layer <= last for first, last in parse_layers(self.layers)
        )


def build_selection(
    families: Iterable[str] = DEFAULT_FAMILIES,
    layers: str | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    fused: str = "split",
) -> Selection:
    """Validate the options of a selection; RecipeError lists every wrong one."""
    fields = {
        "families": tuple(families),
        "layers": layers,
        "include": tuple(include),
        "exclude": tuple(exclude),
        "fused": fused,
    }
    try:
        return Selection.model_validate(fields)
    except ValidationError as error:
        raise recipe_error(error, where="selection") from None


class RefineRecipe(Frozen):
    """Everything that decides the bytes of a refinement.

    ``as_adapter``: where Instruct is a LoRA adapter, write an adapter, not a merged model.
    """

    base: SourceField
    instruct: SourceField
    variants: tuple[Variant, ...] = (Timber(),)
    selection: Selection = Selection()
    dtype: OutputDtype | None = None
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    as_adapter: bool = False

    @model_validator(mode="after")
    def _distinct_variants(self) -> RefineRecipe:
        if not self.variants:
            raise ValueError("variants: name at least one")
        names = [variant_name(variant) for variant in self.variants]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"variants: {', '.join(twice)} given more than once")
        return self

    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the recipe: equal recipes, equal digests."""
        return _digest(self)


class AnalyzeRecipe(Frozen):
    """Everything that decides the numbers of an analysis.

    ``measure`` names what costs more than the singular values; ``prompts`` is the file of texts for
    the hidden states, where they are not the embedded pair's own.
    """

    base: SourceField
    instruct: SourceField
    selection: Selection = Selection()
    measure: tuple[Measure, ...] = ()
    keep_values: KeepValues = "delta"
    hidden_states: bool = False
    prompts: str | None = None

    @field_validator("measure")
    @classmethod
    def _in_one_order(cls, measure: tuple[Measure, ...]) -> tuple[Measure, ...]:
        return tuple(name for name in get_args(Measure) if name in measure)

    @model_validator(mode="after")
    def _prompts_for_something(self) -> AnalyzeRecipe:
        if self.prompts is not None and not self.hidden_states:
            raise ValueError("prompts: only hidden_states reads them; ask for these too")
        return self

    def refinement(self) -> RefineRecipe:
        """The refinement of the same tensors, which says what is paired with what."""
        return RefineRecipe(base=self.base, instruct=self.instruct, selection=self.selection)

    def digest(self) -> str:
        """As ``RefineRecipe.digest``."""
        return _digest(self)


def _digest(recipe: Frozen) -> str:
    canonical = json.dumps(recipe.model_dump(mode="json"), sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def build_recipe(fields: Mapping[str, Any], *, where: str | Origin = "recipe") -> RefineRecipe:
    """Validate fields into a recipe; RecipeError lists every wrong field, naming ``where``.

    Besides the recipe's own fields, the flat ones of the command line are understood: ``method``
    with its parameters for a single variant, and the fields of ``selection``.

    >>> recipe = build_recipe({"base": "a/b", "instruct": "a/c", "method": "merge", "mu": 0.8})
    >>> recipe.variants
    (Merge(method='merge', mu=0.8),)
    """
    try:
        return RefineRecipe.model_validate(_nested(dict(fields), where))
    except ValidationError as error:
        raise recipe_error(error, where=where, known=known_fields(RefineRecipe)) from None


def build_analyze_recipe(
    fields: Mapping[str, Any], *, where: str | Origin = "recipe"
) -> AnalyzeRecipe:
    """Validate fields into the recipe of an analysis, as ``build_recipe`` does.

    A recipe of ``refine`` will do: what only concerns its output (methods, dtype, device) is left
    out.

    >>> build_analyze_recipe({"base": "a/b", "instruct": "a/c", "layers": "0-3"}).selection.layers
    '0-3'
    """
    kept = {name: value for name, value in fields.items() if name not in _ONLY_REFINE}
    try:
        return AnalyzeRecipe.model_validate(_nested(kept, where))
    except ValidationError as error:
        raise recipe_error(error, where=where, known=known_fields(AnalyzeRecipe)) from None


def known_fields(recipe: type[Frozen]) -> frozenset[str]:
    """Names that fields of a recipe can have, at whatever depth: its own, parameters, selection."""
    return frozenset({*recipe.model_fields, *Selection.model_fields, *PARAMETERS})


def _nested(fields: dict[str, Any], where: str | Origin) -> dict[str, Any]:
    """Flat fields moved to where the recipe has them."""
    selection = {name: fields.pop(name) for name in Selection.model_fields if name in fields}
    parameters = {name: fields.pop(name) for name in PARAMETERS if name in fields}
    for flat, field in ((selection, "selection"), (parameters, "variants")):
        if flat and fields.get(field) is not None:
            raise RecipeError(
                f"{origin_of(where).of(tuple(flat)[:1])}: {', '.join(flat)} given beside {field},"
                " expected one of the two"
            )
    if selection:
        fields["selection"] = selection
    if parameters:
        fields["variants"] = [{"method": "timber", **parameters}]
    return fields


def read_recipe_fields(path: Path) -> dict[str, Any]:
    """The recipe fields of a YAML file or of a ``timberkit.json`` manifest: ``read_recipe``."""
    return read_recipe(path)[0]


_VARIANTS = TypeAdapter(tuple[Variant, ...])


def parse_variants(variants: Iterable[str | AnyVariant]) -> tuple[AnyVariant, ...]:
    """Parse variants given as text or as objects, for callers in Python."""
    try:
        return _VARIANTS.validate_python(tuple(variants))
    except ValidationError as error:
        raise recipe_error(error, where="variants") from None
