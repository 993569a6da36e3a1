"""Records come back from JSON as they went in, and nothing else does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from timberkit.errors import CheckpointError
from timberkit.records import ChangeRecord, MatrixRecord, TensorRecord, from_json, to_json

CHANGES = (
    ChangeRecord("timber_lam0.2", 900, 0.0123456789012345, 0.25, 0.75),
    ChangeRecord("merge_mu0", None, None, None, 0.0),
)
FULL = TensorRecord(
    name="model.layers.3.mlp.experts.down_proj",
    index=17,
    family="expert",
    layer=3,
    seconds=0.1,
    matrix=MatrixRecord(
        rows=64,
        columns=32,
        route="float32",
        delta_norm=1e-30,
        instruct_norm=1e30,
        changes=CHANGES,
        effective_rank=29.123456789012345,
        effective_rank_error=1e-4,
        cut=30,
        head_energy=0.99,
        unique=True,
    ),
)
BARE = TensorRecord(
    name="ü",
    index=None,
    family="head",
    layer=None,
    seconds=0.0,
    matrix=MatrixRecord(1, 1, "zero delta", 0.0, 0.0, ()),
)


@pytest.mark.parametrize("record", [FULL, BARE])
def test_records_survive_json_to_the_last_bit(record: TensorRecord) -> None:
    line = json.dumps(to_json(record), allow_nan=False)
    assert from_json(json.loads(line)) == record
    assert json.dumps(to_json(from_json(json.loads(line)))) == line


def paths(values: dict[str, Any], *outer: str | int) -> list[tuple[str | int, ...]]:
    found: list[tuple[str | int, ...]] = []
    for name, value in values.items():
        found.append((*outer, name))
        if isinstance(value, dict):
            found += paths(value, *outer, name)
        if isinstance(value, list):
            found += [path for i, item in enumerate(value) for path in paths(item, *outer, name, i)]
    return found


OPTIONAL = {"effective_rank", "effective_rank_error", "cut", "head_energy", "unique", "part"}
FIELDS = paths(json.loads(json.dumps(to_json(FULL))))


def damaged(path: tuple[str | int, ...], change: str) -> Any:
    values = json.loads(json.dumps(to_json(FULL)))
    holder = values
    for step in path[:-1]:
        holder = holder[step]
    if change == "missing":
        del holder[path[-1]]
    elif change == "unknown":
        holder[f"{path[-1]}_"] = 1
    else:
        holder[path[-1]] = {"not": ["a", "value"]}
    return values


@pytest.mark.parametrize("change", ["missing", "unknown", "wrong"])
@pytest.mark.parametrize("path", FIELDS, ids=lambda path: ".".join(map(str, path)))
def test_a_field_missing_unknown_or_wrong_is_refused(
    path: tuple[str | int, ...], change: str
) -> None:
    if change == "missing" and path[-1] in OPTIONAL:
        assert from_json(damaged(path, change)).name == FULL.name
        return
    with pytest.raises(CheckpointError, match="not written by this version of timberkit"):
        from_json(damaged(path, change))


def test_the_message_names_the_field() -> None:
    with pytest.raises(CheckpointError, match=r"record of a tensor: matrix\.rows: Field required"):
        from_json(damaged(("matrix", "rows"), "missing"))
