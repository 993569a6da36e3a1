"""Why the weights of a Base and an Instruct model cannot be paired, in words.

    refuse_other_layout(unpaired, base.tensors, instruct.tensors)

A model's experts may be stored singly or stacked, its q, k and v singly or as one weight. Tensors
are paired by name, so such a pair would be copied from Instruct where it was meant to be refined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from timberkit.checkpoint.families import classify
from timberkit.checkpoint.layout import TensorEntry
from timberkit.config import Selection
from timberkit.errors import PairMismatchError, UsageError


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
