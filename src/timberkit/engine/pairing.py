"""Refuse weights that Base and Instruct hold in different layouts, which share no names.

    refuse_other_layout(unpaired, base.tensors, instruct.tensors)

A model's experts may be stored singly or stacked, its q, k and v singly or as one weight. Tensors
are paired by name, so such a pair would be copied from Instruct where it was meant to be refined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from timberkit.checkpoint.families import classify
from timberkit.checkpoint.layout import TensorEntry
from timberkit.errors import PairMismatchError


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
