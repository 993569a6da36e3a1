"""Methods that depend on where a matrix stands, and what becomes of them there.

    at(parse_variant("ramp:first=0.5,last=1"), position)      # Steps(edges=(), gains=(0.75,))

``within``, ``ramp`` and ``free``, and the controls of these, say something about a whole model. At
each of its matrices they are a method that looks at no place: another edit, or constant gains, 1
where a weight stays Instruct's. Whatever works on a matrix is given that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from timberkit.edits import (
    Free,
    Ramp,
    Steps,
)
from timberkit.errors import UsageError
from timberkit.methods import (
    AnyVariant,
    MatchedMerge,
    Noise,
    Within,
    parameters_shown,
    variant_name,
)
from timberkit.parts import Position, layer_at, matrix_name, parse_layers

KEEP = Steps(gains=(1.0,))
"""Instruct's weight as it is."""
_SHOWN = 3


def at(variant: AnyVariant, position: Position) -> AnyVariant:
    """What a method is at one matrix of a model: one that does not depend on the place.

    A method that never did is returned as it is. Never raises. O(1), but for the patterns of
    ``free``, which are tried in order.

    >>> from timberkit.methods import parse_variant
    >>> half = Position("model.layers.2.mlp.up_proj.weight", "ffn", layer=2, layers=5)
    >>> at(parse_variant("ramp:first=0.5,last=1"), half)
    Steps(method='steps', edges=(), gains=(0.75,))
    """
    match variant:
        case MatchedMerge() | Noise():
            of = at(variant.of, position)
            return variant if of is variant.of else variant.model_copy(update={"of": of})
        case Within():
            return at(variant.of, position) if holds(variant, position) else KEEP
        case Ramp():
            return KEEP if position.depth is None else Steps(gains=(_ramp_gain(variant, position),))
        case Free():
            gains = free_gains(variant, position)
            return KEEP if gains is None else Steps(edges=variant.edges, gains=gains)
        case _:
            return variant


def depends_on_place(variant: AnyVariant) -> bool:
    """Whether a method has to be resolved by ``at`` before it can be used on a matrix."""
    return any(isinstance(part, Within | Ramp | Free) for part in _parts(variant))


def holds(variant: Within, position: Position) -> bool:
    """Whether a matrix is in the chosen part of the model: by every selector that was given."""
    depth = position.depth
    if variant.families and position.family not in variant.families:
        return False
    if variant.modules and not {position.module, position.projection} & {*variant.modules}:
        return False
    if variant.layers is not None and not _is_in(variant.layers, position.layer):
        return False
    if variant.start is None and variant.stop is None:
        return True
    stop = 1.0 if variant.stop is None else variant.stop
    edges = (layer_at(edge, position.layers) for edge in (variant.start or 0.0, stop))
    return depth is not None and depth in range(*edges)


def _is_in(layers: str, layer: int | None) -> bool:
    ranges = parse_layers(layers.replace("+", ","))
    return layer is not None and any(first <= layer <= last for first, last in ranges)


def _ramp_gain(ramp: Ramp, position: Position) -> float:
    """``first + (last - first) l / (L - 1)``, its ends exactly; ``first`` where L is 1."""
    layer, last = position.depth or 0, position.layers - 1
    if layer == 0:
        return ramp.first
    return ramp.last if layer == last else ramp.first + (ramp.last - ramp.first) * (layer / last)


def free_gains(variant: Free, position: Position) -> tuple[float, ...] | None:
    """The gains of a matrix: by its own name, its tensor's, or the first pattern that fits.

    None where nothing does.
    """
    for name in _names(position):
        if name in variant.by_name:
            return variant.by_name[name]
    for glob, gains in variant.globs:
        if glob.fits(position.name, position.index, position.part):
            return gains
    return None


def _names(position: Position) -> tuple[str, ...]:
    """What a matrix may be called, the most exact first: itself, its expert, its tensor."""
    expert = matrix_name(position.name, position.index)
    return tuple(dict.fromkeys((position.matrix, expert, position.name)))


def check_places(variants: Iterable[AnyVariant], positions: Sequence[Position]) -> None:
    """Refuse what would silently change nothing: a part of the model, or a name, that it lacks.

    Raises UsageError where ``within`` holds none of the ``positions``, ``ramp`` has no layers to
    run over, or a key of ``free`` fits none. O(positions times patterns).
    """
    for variant in variants:
        for part in _parts(variant):
            problem = _problem(part, positions)
            if problem is not None:
                raise UsageError(
                    f"variant {variant_name(variant)!r}: {problem} of the {len(positions)} matrices"
                    " that are refined; timberkit plan --json lists their names, families and"
                    " layers"
                )


def _parts(variant: AnyVariant) -> Iterator[AnyVariant]:
    yield variant
    if isinstance(variant, Within | MatchedMerge | Noise):
        yield from _parts(variant.of)


def _problem(variant: AnyVariant, positions: Sequence[Position]) -> str | None:
    match variant:
        case Within():
            if not any(holds(variant, position) for position in positions):
                shown = parameters_shown(variant)
                given = ", ".join(f"{name} {shown[name]}" for name in variant.given)
                return f"found {given}, expected a part that holds at least one"
        case Ramp():
            if all(position.depth is None for position in positions):
                return "found no numbered layer, expected one in the name"
        case Free():
            unused = _unused(variant, positions)
            if unused:
                names = ", ".join(map(repr, unused[:_SHOWN]))
                more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
                return f"found gains for {names}{more}, expected the name, or a pattern, of one"
        case _:
            pass
    return None


def _unused(variant: Free, positions: Sequence[Position]) -> list[str]:
    names = {name for position in positions for name in _names(position)}
    unused = [key for key in variant.by_name if key not in names]
    matrices = {(position.name, position.index, position.part) for position in positions}
    for glob, _ in variant.globs:
        if not any(glob.fits(*matrix) for matrix in matrices):
            unused.append(matrix_name(glob.pattern, glob.index, glob.part))
    return unused
