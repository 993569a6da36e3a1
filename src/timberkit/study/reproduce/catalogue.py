"""Which models a study has: the paper's edits, ablations of them, controls, temperatures.

    [entry.key for entry in catalogue(recipe)]     # instruct, timber-l, timber_lam0.2, …

Nothing is made here. Keys are the names of ``variant_name``, the same in every study.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from timberkit.config import (
    AnyVariant,
    Band,
    Leading,
    Linear,
    MatchedMerge,
    Merge,
    Noise,
    Timber,
    TimberL,
    TruncateEnergy,
    TruncateRank,
    parse_variant,
    variant_name,
    variant_text,
)
from timberkit.edits import Ramp
from timberkit.findings import Group, StudyModel
from timberkit.methods import Within
from timberkit.study_recipe import StudyRecipe

BASE, INSTRUCT = "base", "instruct"
LAMBDAS = (0.2, 0.5, 0.8)
MERGES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
PAPER = (
    "timber-l", *(f"timber:lam={lam}" for lam in LAMBDAS),
    *(f"truncate-rank:ratio={ratio}" for ratio in (0.95, 0.9, 0.85, 0.8)),
    *(f"truncate-energy:energy={energy}" for energy in (0.995, 0.99, 0.98, 0.95)),
    *(f"merge:mu={mu}" for mu in MERGES),
    "within:families=attention,of=timber:lam=0.2",
    "within:families=ffn+expert,of=timber:lam=0.2",
)  # fmt: skip
"""The 22 outputs of the paper: tables 2, 3 and 5, figures 4 to 6, and its two ablations."""
_DEPTHS = ("start=0,stop=0.333", "start=0.333,stop=0.666", "start=0.666,stop=1")
"""Thirds: no model of fewer than 500 layers has one between 0.666 and two thirds."""
ABLATIONS = (
    "merge:mu=0.4",
    "merge:mu=0.2",
    "within:families=attention,of=merge:mu=0.8",
    "within:families=ffn+expert,of=merge:mu=0.8",
    *(f"within:{depth},of=timber:lam=0.2" for depth in _DEPTHS),
    *(f"within:{depth},of=merge:mu=0.8" for depth in _DEPTHS),
    "band:start=0,stop=0.1,gain=0.5",
    "band:start=0.1,stop=0.5,gain=0.5",
    "band:start=0.5,stop=1,gain=0.5",
    "leading:count=1,gain=0.5",
)
"""By family, by depth and by band of the spectrum, of Timber and of the merge at 0.8; and merges
that close the gap in their frontier between 0.6 and Base."""
SHORT = (
    "timber-l", *(f"timber:lam={lam}" for lam in LAMBDAS), "truncate-rank:ratio=0.9",
    "truncate-energy:energy=0.98",
    "merge:mu=0.95", "merge:mu=0.9", "merge:mu=0.8", "merge:mu=0.7", "merge:mu=0.6",
    "merge:mu=0.4", "merge:mu=0.2",
    "within:families=attention,of=merge:mu=0.8", "within:families=ffn+expert,of=merge:mu=0.8",
)  # fmt: skip
"""A few of all, for a first look."""
_CATALOGUES = {"paper": PAPER, "ablations": (*PAPER, *ABLATIONS), "short": SHORT}
_DEPTH_WORDS = {(0.0, 0.333): "first third", (0.333, 0.666): "middle third",
                (0.666, 1.0): "last third"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One model: ``variant`` None for Base, Instruct and Instruct at another temperature.

    ``weights``: key of the model whose weights it has, its own but for temperatures.
    """

    model: StudyModel
    variant: AnyVariant | None
    weights: str

    @property
    def key(self) -> str:
        """Of the model."""
        return self.model.key


def catalogue(recipe: StudyRecipe, temperatures: Sequence[float] = ()) -> tuple[Entry, ...]:
    """Every model of a study, in the order in which it is shown; Base and Instruct first.

    ``temperatures``: at which Instruct is asked besides its own.

    An edit that is named twice is there once. Controls follow the edits; a merge has no matched
    merge, for it is one.
    """
    edits = _edits(recipe)
    entries = [
        _fixed(BASE, "Base", "base"),
        _fixed(INSTRUCT, "Instruct", "instruct"),
        *(_edited(edit) for edit in edits),
        *(_warmer(temperature) for temperature in temperatures),
    ]
    controlled = [edit for edit in edits if _is_controlled(edit, recipe)]
    entries += (_edited(control) for edit in controlled for control in _controls(edit, recipe))
    return tuple({entry.key: entry for entry in entries}.values())


def _edits(recipe: StudyRecipe) -> list[AnyVariant]:
    named = map(parse_variant, _CATALOGUES[recipe.catalogue])
    return list({variant_name(edit): edit for edit in (*named, *recipe.variants)}.values())


def _is_controlled(edit: AnyVariant, recipe: StudyRecipe) -> bool:
    if isinstance(edit, MatchedMerge | Noise) or recipe.controls == "none":
        return False
    return recipe.controls == "all" or isinstance(edit, Timber | TimberL)


def _controls(edit: AnyVariant, recipe: StudyRecipe) -> Iterator[AnyVariant]:
    of = variant_text(edit)
    if not isinstance(edit, Merge):
        yield parse_variant(f"matched-merge:of={of}")
    for seed in range(recipe.noise_seeds):
        yield parse_variant(f"noise:seed={seed},of={of}")


def _fixed(key: str, label: str, group: Group) -> Entry:
    role = "base" if group == "base" else "instruct"
    return Entry(StudyModel(key, label, role, group), None, key)  # type: ignore[arg-type]


def _warmer(temperature: float) -> Entry:
    key = f"{INSTRUCT}_T{temperature:g}"
    model = StudyModel(
        key, f"Instruct, T = {temperature:g}", "temperature", "temperature",
        parameter=temperature, temperature=temperature,
    )  # fmt: skip
    return Entry(model, None, INSTRUCT)


def _edited(variant: AnyVariant) -> Entry:
    key = variant_name(variant)
    group, parameter = _group(variant)
    control = isinstance(variant, MatchedMerge | Noise)
    model = StudyModel(
        key,
        label(variant),
        "control" if control else "variant",
        group,
        variant=variant_text(variant),
        of=variant_name(variant.of) if isinstance(variant, MatchedMerge | Noise) else None,
        parameter=parameter,
    )
    return Entry(model, variant, key)


def _group(variant: AnyVariant) -> tuple[Group, float | None]:
    """What a model is shown with, and where on its axis."""
    match variant:
        case Timber():
            return "timber", variant.lam
        case TimberL():
            return "timber", 0.0
        case TruncateRank():
            return "truncate-rank", variant.ratio
        case TruncateEnergy():
            return "truncate-energy", variant.energy
        case Merge():
            return "merge", variant.mu
        case MatchedMerge():
            return "matched-merge", None
        case Noise():
            return "noise", float(variant.seed)
        case Within():
            by_depth = variant.start is not None or variant.layers is not None
            return ("depth", variant.start) if by_depth else ("family", None)
        case Ramp():
            return "depth", None
        case Band() | Leading():
            return "band", getattr(variant, "start", 0.0)
        case Linear():
            return "band", None
        case _:
            return "edit", None


def label(variant: AnyVariant) -> str:
    """A variant for people, short.

    >>> label(Timber(lam=0.5)), label(Merge(mu=0.8))
    ('Timber 0.5', 'Merge 0.8')
    """
    match variant:
        case Timber():
            return f"Timber {variant.lam:g}"
        case TimberL():
            return "Timber-L"
        case TruncateRank():
            return f"Truncate-R {variant.ratio:g}"
        case TruncateEnergy():
            return f"Truncate-E {100 * variant.energy:g} %"
        case Merge():
            return f"Merge {variant.mu:g}"
        case MatchedMerge():
            return f"Merge as far as {label(variant.of)}"
        case Noise():
            return f"Noise {variant.seed}, as far as {label(variant.of)}"
        case Within():
            return f"{label(variant.of)}, {_where(variant)}"
        case Band():
            return f"Band {variant.start:g} to {variant.stop:g} of r times {variant.gain:g}"
        case Leading():
            many = f"{variant.count or f'share {variant.share:g}'} leading directions"
            return f"{'Leading direction' if variant.count == 1 else many} times {variant.gain:g}"
        case _:
            return variant_text(variant)


def _where(variant: Within) -> str:
    """The part of the model that an edit is held to, in words."""
    words = []
    if variant.families:
        if set(variant.families) == {"ffn", "expert"}:
            words.append("feed-forward only")  # of a mixture of experts, these are its experts
        else:
            words.append(" and ".join(variant.families) + " only")
    if variant.start is not None or variant.stop is not None:
        start, stop = variant.start or 0.0, 1.0 if variant.stop is None else variant.stop
        words.append(_DEPTH_WORDS.get((start, stop), f"depth {start:g} to {stop:g}"))
    if variant.layers is not None:
        words.append(f"layers {variant.layers}")
    if variant.modules:
        words.append(" and ".join(variant.modules))
    return ", ".join(words)


def of_group(entries: Iterable[Entry], *groups: Group) -> list[Entry]:
    """Those that are shown together, in their order."""
    return [entry for entry in entries if entry.model.group in groups]
