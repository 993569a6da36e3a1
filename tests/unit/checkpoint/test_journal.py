"""The journal: what was written is read back, what was torn never counts."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from timberkit.checkpoint.journal import Journal, holds_entries
from timberkit.errors import InterruptedRunError

ENTRIES = [{"tensor": "a", "seconds": 0.1}, {"tensor": 'ü"}\n{', "cut": None}, {"c": [1, {}]}]


def filled(path: Path) -> bytes:
    journal = Journal(path)
    journal.append(ENTRIES)
    journal.close()
    return path.read_bytes()


def test_entries_come_back_in_order(tmp_path: Path) -> None:
    data = filled(tmp_path / "j")
    assert data.count(b"\n") == 3
    journal = Journal(tmp_path / "j")
    journal.append([{"d": 1}])
    journal.append([])
    assert list(journal.entries()) == [*ENTRIES, {"d": 1}]
    assert not journal.is_empty
    journal.empty()
    assert journal.is_empty
    assert list(journal.entries()) == []
    journal.append(ENTRIES[:1])
    assert list(journal.entries()) == ENTRIES[:1]
    journal.close()
    journal.close()


def test_journal_cut_at_any_byte_keeps_its_whole_lines(tmp_path: Path) -> None:
    data = filled(tmp_path / "j")
    for size in range(len(data)):
        (tmp_path / "j").write_bytes(data[:size])
        journal = Journal(tmp_path / "j")
        whole = data[:size].count(b"\n")
        assert list(journal.entries()) == ENTRIES[:whole]
        journal.append([{"next": size}])
        assert list(journal.entries()) == [*ENTRIES[:whole], {"next": size}]
        journal.close()


@pytest.mark.parametrize(
    "garbage",
    [b"\0" * 40 + b"\n", b"{}\n", b"\n", b"\xff\n", b'{"check":"0000000000000000","entry":{}}\n'],
)
def test_garbage_ends_the_journal(tmp_path: Path, garbage: bytes) -> None:
    lines = filled(tmp_path / "j").splitlines(keepends=True)
    (tmp_path / "j").write_bytes(lines[0] + garbage + lines[1] + lines[2])
    journal = Journal(tmp_path / "j")
    assert list(journal.entries()) == ENTRIES[:1]
    journal.close()
    assert (tmp_path / "j").read_bytes() == lines[0]


def test_one_flipped_byte_never_passes(tmp_path: Path) -> None:
    data = filled(tmp_path / "j")
    first = data.index(b"\n") + 1
    for place in range(first):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        (tmp_path / "j").write_bytes(changed)
        journal = Journal(tmp_path / "j")
        assert journal.is_empty
        journal.close()


def test_full_disk_leaves_no_torn_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "j")
    journal = Journal(tmp_path / "j")
    whole, calls = os.pwrite, iter([5])

    def fill_up(descriptor: int, data: bytes, offset: int) -> int:
        if not (count := next(calls, 0)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(descriptor, data[:count], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fill_up)
        with pytest.raises(InterruptedRunError, match=r"No space left.*bytes free"):
            journal.append([{"d": 1}])
    journal.append([{"e": 1}])
    assert list(journal.entries()) == [*ENTRIES, {"e": 1}]
    journal.close()


def test_entry_that_json_cannot_hold_is_a_programming_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    with pytest.raises(ValueError, match="JSON compliant"):
        journal.append([{"a": 1}, {"b": float("nan")}])
    assert journal.is_empty
    journal.close()


def test_whether_a_file_holds_entries(tmp_path: Path) -> None:
    assert not holds_entries(tmp_path / "j")
    (tmp_path / "j").write_bytes(b"garbage\n")
    assert not holds_entries(tmp_path / "j")
    filled(tmp_path / "k")
    assert holds_entries(tmp_path / "k")
