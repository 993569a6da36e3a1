"""What ``timberkit diff`` shows: tensors furthest apart, families, files; the rest is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from timberkit.report.text import percent, visible
from timberkit.terminal import one_line

# Names in annotations only: importing them takes time.
if TYPE_CHECKING:
    from timberkit.checkpoint.companions import FileDifference
    from timberkit.engine.diff import DiffReport, TensorDifference
    from timberkit.engine.diff_job import Distance

COLUMNS = 117
"""Width of the tables where there is no terminal: names of tensors are for copying."""
NAMES = 5
"""Names, files and fields on one line or below one heading; the rest is counted."""
_STRUCTURE = {
    "only in A": "Only in A",
    "only in B": "Only in B",
    "shape": "Other shapes",
}
_EQUAL = {
    "equal": "equal",
    "other bits": "equal in value, not in the bits of zeros or NaNs",
    "tolerated": "equal within the tolerance",
}


def show_diff(console: Console, report: DiffReport, top: int) -> None:
    """A verdict, the ``top`` tensors that differ most, families, and the files beside them."""
    differing = report.differing
    verdicts = report.verdicts
    equal = [f"{verdicts[key]} {words}" for key, words in _EQUAL.items() if verdicts.get(key)]  # type: ignore[index, call-overload]
    console.print(
        one_line(
            f"A: {report.a}, B: {report.b}. Of {len(report.tensors)} tensors"
            f" {len(differing)} differ" + (f", {', '.join(equal)}." if equal else ".")
        )
    )
    if not report.values_read:
        console.print("Names, shapes and dtypes only: no values were read.")
    for verdict, heading in _STRUCTURE.items():
        found = [tensor for tensor in differing if tensor.verdict == verdict]
        if found:
            _show_names(console, heading, [_structure(tensor) for tensor in found])
    compared = [tensor for tensor in differing if tensor.verdict not in _STRUCTURE]
    if compared:
        _show_tensors(console, compared[:top])
        if len(compared) > top:
            console.print(f"{len(compared) - top} more differ less; --top shows more.")
        if report.values_read:
            console.print(_families_table(report))
            _show_legend(console, compared)
    _show_files(console, report.files)
    if report.equal:
        console.print("Equal.")


def _structure(tensor: TensorDifference) -> str:
    shapes = [list(shape) for shape in (tensor.shape_a, tensor.shape_b) if shape is not None]
    return f"{visible(tensor.name)} {' -> '.join(map(str, shapes))}"


def _show_names(console: Console, heading: str, names: Sequence[str]) -> None:
    console.print(f"{heading}: {len(names)}")
    for name in names[:NAMES]:
        console.print(f"  {name}")
    if len(names) > NAMES:
        console.print(f"  and {len(names) - NAMES} more")


def _table(first: str, headings: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _show_tensors(console: Console, tensors: Sequence[TensorDifference]) -> None:
    table = _table(
        "tensor", ("dtype", "differing", "largest", "mean", "relative", "ULPs", "> 1 ULP")
    )
    for tensor in tensors:
        dtypes = dict.fromkeys((tensor.dtype_a, tensor.dtype_b))
        cells = [""] * 6 if tensor.distance is None else _cells(tensor.distance)
        table.add_row(Text(visible(tensor.name)), " -> ".join(map(str, dtypes)), *cells)
    if tensors:
        console.print(table)


def _families_table(report: DiffReport) -> Table:
    table = _table(
        "family",
        ("tensors", "differ", "differing", "largest", "mean", "relative", "ULPs", "> 1 ULP"),
    )
    for name, distance in report.families.items():
        counts = report.family_counts(name)
        table.add_row(name, *map(str, counts), *_cells(distance))
    total = (len(report.tensors), len(report.differing))
    table.add_row("all", *map(str, total), *_cells(report.total))
    return table


def _cells(found: Distance) -> list[str]:
    share = percent(found.differing / found.elements if found.elements else 0.0)
    if not found.numeric:
        return [share, "", "", "", "", ""]
    sizes = [f"{size:.2g}" for size in (found.largest, found.mean, found.relative)]
    beyond = percent(found.over_one_ulp / found.elements if found.elements else 0.0)
    return [share, *sizes, f"{found.ulps:,}", beyond]


def _show_legend(console: Console, tensors: Sequence[TensorDifference]) -> None:
    console.print(
        "differing: share of elements; largest, mean: of |A - B|; relative: ||A - B|| / ||A||;"
        " ULPs: largest distance of two elements in units in the last place of the coarser dtype"
        " (large where signs differ); > 1 ULP: share of elements further apart than one."
    )
    lost = [(t, t.distance.not_finite) for t in tensors if t.distance and t.distance.not_finite]
    if lost:
        console.print(
            f"NaN, infinity or overflow against another value: {sum(n for _, n in lost):,} elements"
            f" in {len(lost)} tensors, of which no size tells."
        )


def _show_files(console: Console, files: Sequence[FileDifference]) -> None:
    for file in files[: 4 * NAMES]:
        words = {"bytes": "differs", "fields": "", "layout": "other layout, same fields"}
        told = words.get(file.verdict, file.verdict)
        if file.reason:
            told += f" ({file.reason})"
        if file.fields:
            told = f"{file.field_count} field{'s' if file.field_count > 1 else ''}"
        console.print(f"{visible(file.name)}: {told}")
        for field in file.fields[:NAMES]:
            sides = [visible("absent" if side is None else side) for side in (field.a, field.b)]
            console.print(f"  {visible(field.field)}: {' -> '.join(sides)}")
        if file.field_count > NAMES:
            console.print(f"  and {file.field_count - NAMES} more")
    if len(files) > 4 * NAMES:
        console.print(f"and {len(files) - 4 * NAMES} more files")
