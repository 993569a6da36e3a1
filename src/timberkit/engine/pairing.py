"""Which weights of a Base and an Instruct model are one, and, in words, why others cannot be.

    elsewhere = OtherLayout(base.tensors, instruct.tensors, selection, base.config)
    elsewhere.tensors_of(name, entry, kind, instruct.config)     # of Base, or none
    refuse_other_layout(unpaired, base.tensors, instruct.tensors)

A model's experts may be stored singly or stacked, its q, k and v singly or as one weight. What has
another name in Base is paired by its logical name (``checkpoint.logical``); where that is not
known, it would be copied from Instruct where it was meant to be refined, and is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from timberkit.checkpoint.families import classify
from timberkit.checkpoint.layout import TensorEntry
from timberkit.checkpoint.logical import LogicalName, StoredMatrix, logical_matrices
from timberkit.config import Selection
from timberkit.errors import PairMismatchError, UsageError


class OtherLayout:
    """The weights that Base holds in another layout than Instruct, by their logical names.

    Only tensors that Instruct does not have count: what both have is paired by name.
    """

    def __init__(
        self,
        base: Mapping[str, TensorEntry],
        instruct: Mapping[str, TensorEntry],
        selection: Selection,
        config: Mapping[str, Any],
    ) -> None:
        self._selection = selection
        self._found: dict[LogicalName, StoredMatrix] = {}
        for name, entry in base.items():
            if name not in instruct:
                kind = classify(name, entry.shape).kind
                self._found |= logical_matrices(name, entry.shape, kind, selection, config)

    def tensors_of(
        self, name: str, entry: TensorEntry, kind: str, config: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """The tensors of Base that hold an Instruct one; none where they do not hold all of it.

        Raises PairMismatchError where they do, in another shape.
        """
        places = self.places_of(name, entry, kind, config)
        return tuple(dict.fromkeys(stored.tensor for stored, _ in places))

    def places_of(
        self, name: str, entry: TensorEntry, kind: str, config: Mapping[str, Any]
    ) -> list[tuple[StoredMatrix, bool]]:
        """Where the matrices of an Instruct tensor lie in Base, and whether the other way round."""
        wanted = logical_matrices(name, entry.shape, kind, self._selection, config)
        if not wanted or not all(logical in self._found for logical in wanted):
            return []
        places = []
        for logical, own in wanted.items():
            stored = self._found[logical]
            if stored.shape != own.shape:
                raise PairMismatchError(
                    f"tensor {name!r} (Instruct): its {logical.part} is {own.shape[0]} x"
                    f" {own.shape[1]}, and {stored.shape[0]} x {stored.shape[1]} in"
                    f" {stored.tensor!r} (Base), expected equal shapes; these are not a Base and"
                    " the Instruct model trained from it; or leave the tensors out with --exclude"
                )
            places.append((stored, stored.transposed != own.transposed))
        return places


def refuse_other_layout(
    unpaired: Iterable[str],
    base: Mapping[str, TensorEntry],
    instruct: Mapping[str, TensorEntry],
) -> None:
    """Raise PairMismatchError for a selected weight that Base seems to hold under another name.

    ``unpaired`` names what is selected and not in Base. It seems so where Base has a weight of the
    same kind in the same layer that Instruct lacks: two tensors are then named, of many. Weights
    that only Instruct has, such as experts added to Base's, pass. O(number of tensors).
    """
    unpaired = tuple(unpaired)
    if not unpaired:
        return
    lacking: dict[tuple[str, int | None], str] = {}
    for name, entry in base.items():
        role = classify(name, entry.shape)
        if name not in instruct and len(entry.shape) > 1:
            lacking.setdefault((role.kind, role.layer), name)
    for name in unpaired:
        role = classify(name, instruct[name].shape)
        other = None if role.layer is None else lacking.get((role.kind, role.layer))
        if other is not None:
            raise PairMismatchError(
                f"tensor {name!r} {instruct[name].shape} (Instruct) is not in Base, and {other!r}"
                f" {base[other].shape} (Base) is not in Instruct: the two seem to hold the same"
                f" {role.kind} weights in different layouts, expected one layout, because tensors"
                " are paired by name; save both with the same version of transformers, or leave"
                " these out with --exclude"
            )


def shape_mismatch(
    names: Sequence[str], base: Mapping[str, TensorEntry], instruct: Mapping[str, TensorEntry]
) -> PairMismatchError:
    """What to say of weights that have other shapes in Base; one name or more."""
    shown = "; ".join(
        f"{name!r}: {list(base[name].shape)} in Base, {list(instruct[name].shape)} in Instruct"
        for name in names[:3]
    )
    more = f"; and {len(names) - 3} more" if len(names) > 3 else ""
    kinds = {classify(name, instruct[name].shape).kind for name in names}
    advice = (
        "embeddings and heads of two vocabularies need the same width: leave embedding and head out"
        " of --families"
        if kinds <= {"embedding", "head"}
        else "these are not a Base and the Instruct model trained from it; or leave the tensors"
        " out with --exclude"
    )
    return PairMismatchError(f"tensor {shown}{more}: expected equal shapes; {advice}")


def nothing_selected(reasons: Counter[str], selection: Selection) -> PairMismatchError | UsageError:
    """What to say where no tensor is refined, by the reasons for copying them."""
    absent = reasons.get("not in Base", 0)
    shown = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common(6))
    if absent:
        return PairMismatchError(
            f"none of the {absent} selected tensors of Instruct is in Base ({shown}); the tensors"
            " are named otherwise there: these are not a Base and the Instruct model trained"
            " from it"
        )
    return UsageError(
        f"selection {selection.model_dump(mode='json', exclude_defaults=True) or 'default'}: no"
        f" tensor is left to refine ({shown}); widen --families, --layers or --include"
    )
