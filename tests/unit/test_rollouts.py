"""Rollouts come back from Parquet as they went in, and broken files are refused by name and row."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from timberkit import rollouts as module
from timberkit.errors import InputError, InterruptedRunError
from timberkit.rollouts import Rollout, count_rollouts, read_rollouts, write_rollouts

BARE = Rollout("ü\x1b[31m", "aime24", "", "60", 1, False, None)
FULL = Rollout(
    model="timber@T=1.0", task="math500", setting="released", problem="test/1.json", rollout=256,
    correct=True, answer="\\frac{1}{2}", reason="", stop="length", text="<think>a</think>\x00b",
    reasoning="a", response="\x00b", seed=2**31 - 1, temperature=0.6, input_tokens=0,
    output_tokens=38912, seconds=0.1, error="503",
)  # fmt: skip


def test_rollouts_come_back_as_they_went_in(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.parquet"
    write_rollouts(path, iter([BARE, FULL]))
    assert list(read_rollouts(path)) == [BARE, FULL]
    assert count_rollouts(path) == 2
    assert [found.name for found in tmp_path.iterdir()] == ["rollouts.parquet"]


def test_without_texts_only_the_long_columns_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.parquet"
    write_rollouts(path, [FULL])
    assert list(read_rollouts(path, texts=False)) == [
        replace(FULL, text="", reasoning="", response="")
    ]


def test_no_rollouts_make_a_file_without_rows(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "none.parquet", [])
    assert list(read_rollouts(tmp_path / "none.parquet")) == []


def test_order_survives_many_row_groups_and_bytes_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_TOGETHER", 7)
    many = [replace(FULL, rollout=i, text="x" * i) for i in range(1, 100)]
    for name in ("a", "b"):
        write_rollouts(tmp_path / name, iter(many))
    assert list(read_rollouts(tmp_path / "a")) == many
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_long_texts_are_written_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BYTES_TOGETHER", 1000)
    write_rollouts(tmp_path / "a", (replace(BARE, text="y" * 600) for _ in range(8)))
    with pq.ParquetFile(tmp_path / "a") as file:
        assert file.metadata.num_row_groups == 4


def test_a_lone_surrogate_becomes_a_replacement_character(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "a", [replace(BARE, text="a\ud800b", answer="\udfff")])
    (found,) = read_rollouts(tmp_path / "a")
    assert (found.text, found.answer) == ("a\ufffdb", "\ufffd")


def test_an_error_while_writing_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Rollout]:
        yield FULL
        raise RuntimeError("the log ended")

    path = tmp_path / "rollouts.parquet"
    write_rollouts(path, [BARE])
    with pytest.raises(RuntimeError, match="the log ended"):
        write_rollouts(path, broken())
    assert list(read_rollouts(path)) == [BARE]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_not_there_is_an_interrupted_run(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError, match="cannot be written"):
        write_rollouts(tmp_path / "missing" / "rollouts.parquet", [BARE])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": ""}, "model: found none"),
        ({"rollout": 0}, "rollout: found 0, expected a number from 1"),
        ({"stop": "eos"}, "stop: found 'eos'"),
        ({"output_tokens": -1}, "output_tokens: found -1"),
        ({"seconds": float("inf")}, "seconds: found inf"),
    ],
)
def test_impossible_values_are_refused_on_both_sides(
    tmp_path: Path, change: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(BARE, **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        write_rollouts(tmp_path / "a", [broken])
    with monkeypatch.context() as unchecked:
        unchecked.setattr(module, "problem_in", lambda _: "")
        write_rollouts(tmp_path / "a", [FULL, broken])
    with pytest.raises(InputError, match=rf"a: row 2: {said}"):
        list(read_rollouts(tmp_path / "a"))


def test_missing_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_rollouts(path, [FULL])
    table = pq.read_table(path)
    nulls = table.set_column(5, pa.field("correct", pa.bool_()), pa.nulls(1, pa.bool_()))
    pq.write_table(nulls, path)
    with pytest.raises(InputError, match=r"row 1: correct: found none"):
        list(read_rollouts(path))


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "strange.parquet"
    with pytest.raises(InputError, match=r"strange\.parquet: found no such file"):
        list(read_rollouts(path))
    path.write_bytes(b"PAR1 not at all PAR1")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        list(read_rollouts(path))
    pq.write_table(pa.table({"model": ["a"], "correct": [1]}), path)
    with pytest.raises(InputError, match="other columns than rollouts have"):
        list(read_rollouts(path))
    write_rollouts(path, [FULL])
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    with pytest.raises(InputError, match="version None of rollouts"):
        count_rollouts(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.parquet"
    write_rollouts(path, [replace(FULL, rollout=i) for i in range(1, 2000)])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        list(read_rollouts(path))


def test_one_long_answer_in_every_row_is_held_once(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.parquet"
    long = "7" * 500_000
    write_rollouts(path, (replace(FULL, answer=long, rollout=i) for i in range(1, 60)))
    found = [rollout.answer for rollout in read_rollouts(path, texts=False)]
    assert len({id(answer) for answer in found}) <= 2


SWOLLEN = """
import re, sys
from pathlib import Path
from timberkit.rollouts import read_rollouts
total = sum(len(rollout.text) for rollout in read_rollouts(sys.argv[1]))
print(total, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10)
"""


def test_a_small_file_of_long_texts_is_read_few_rows_at_a_time(tmp_path: Path) -> None:
    """One text of 8 MB that 64 rows share, in a dictionary: a few kilobytes of file."""
    text = "x" * (8 << 20)
    rows = [Rollout("m", "t", "", "p", number, True, None, text=text) for number in range(1, 65)]
    columns = module._SCHEMA.names
    table = pa.Table.from_pylist(
        [{name: getattr(row, name) for name in columns} for row in rows], schema=module._SCHEMA
    )
    path = tmp_path / "swollen.parquet"
    with pq.ParquetWriter(path, module._SCHEMA, dictionary_pagesize_limit=1 << 30) as writer:
        writer.write_table(table)
    del table
    assert path.stat().st_size < 1 << 20
    done = subprocess.run(
        [sys.executable, "-c", SWOLLEN, str(path)], capture_output=True, text=True, check=True
    )
    total, peak = map(int, done.stdout.split())
    assert total == 64 * len(text)
    assert peak < 800  # MB; in batches of 64 rows it was three times the texts
