"""Bytes of a good file, changed in the ways that parsers break on.

``mutated(seeds)`` is a hypothesis strategy: one of the seeds after one to four changes. A change is
three numbers (what, where, with what), so that hypothesis shrinks a finding to few, small changes.
Changes of bytes fit every format; changes of nodes are for JSON, JSON lines and, inside their
members, zip archives, where a flipped byte would only fail a checksum.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 1.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**70),
    *("", "x" * 3000, "\x00", "../../etc/passwd", "/etc/passwd", "\ud800", "1", "NaN", "-1"),
    *("\x1b[31mred\x1b[0m\r\nerror: ", "\u202egnp", "[red]x[/red]", "{{ 7*7 }}", "%s%n", "org/x"),
    *(
        [],
        {},
        [[]],
        [{}],
        {"": ""},
        {"a": {"b": None}},
        [0] * 70,
        ["a", 1, None],
        "=1+1",
        "<script>",
    ),
)
FRAGMENTS: tuple[bytes, ...] = (
    *(b'"', b",", b":", b"{", b"}", b"[", b"]", b"null", b"true", b"-1", b"1e999", b"NaN", b"0"),
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\n", b"\r", b"---\n", b"[" * 3000),
    *(b'{"a":' * 3000, b"9" * 5000, b"&a [*a]", b"*a", b"!!python/object/apply:os.system [x]"),
    *(
        b"<<: {}",
        b"? ",
        b"- ",
        b"\t",
        b"&a ",
        b"!!int x",
        b"!!float ",
        b"1:1:1",
        b"0x",
        b"2001-99-99",
    ),
    *(b"\\x", b"\\U7fffffff", b"version https://git-lfs", b"PK\x03\x04", b"PAR1", b"\x1f\x8b"),
)
WHERE = 1 << 16

Change = tuple[int, int, int]


def mutated(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the seeds, changed one to four times; ``seeds`` as they are stand in the corpus."""
    change = st.tuples(st.integers(0, 9), st.integers(0, WHERE - 1), st.integers(0, 255))
    return st.builds(apply, st.sampled_from(list(seeds)), st.lists(change, min_size=1, max_size=4))


def apply(data: bytes, changes: Sequence[Change]) -> bytes:
    """The bytes after all changes."""
    for what, where, value in changes:
        data = _change(data, what, where, value)
    return data


def _change(data: bytes, what: int, where: int, value: int) -> bytes:
    if what >= 6:
        found = _structured(data, what, where, value)
        if found is not None:
            return found
        what %= 6
    place = len(data) * where // WHERE
    if what == 0:
        return (
            data[:place] + bytes([data[place] ^ (value or 1)]) + data[place + 1 :] if data else b""
        )
    if what == 1:
        return data[:place] + FRAGMENTS[value % len(FRAGMENTS)] + data[place:]
    if what == 2:
        return data[:place] + data[place + 1 + value :]
    if what == 3:
        return data[: place + value] + data[place:]
    if what == 4:
        return data[:place]
    return data[:place] + FRAGMENTS[value % len(FRAGMENTS)] + data[place + value :]


def _structured(data: bytes, what: int, where: int, value: int) -> bytes | None:
    """A node of a JSON value put in another's place; None where the bytes are none of the kinds."""
    if data.startswith(b"PK"):
        return _in_archive(data, what, where, value)
    whole = _json(data)
    if whole is not None:
        return _dumped(_with_odd_node(whole[0], what, where, value))
    lines = data.split(b"\n")
    place = len(lines) * where // WHERE
    line = _json(lines[place])
    if line is None:
        return None
    inside = where * len(lines) % WHERE
    lines[place] = _dumped(_with_odd_node(line[0], what, inside, value))
    return b"\n".join(lines)


def _in_archive(data: bytes, what: int, where: int, value: int) -> bytes | None:
    """The same archive, unpacked, with a member changed."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        # Whatever a damaged archive makes zipfile raise: then its bytes are changed instead.
        return None
    if not members:
        return None
    names = sorted(members)
    name = names[value % len(names)]
    members[name] = _change(members[name], what if what < 9 else 0, where, value // len(names))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for member, content in members.items():
            archive.writestr(zipfile.ZipInfo(member), content)
    return written.getvalue()


def _json(data: bytes) -> tuple[Any] | None:
    try:
        return (json.loads(data),)
    except (ValueError, RecursionError):
        return None


def _dumped(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _with_odd_node(value: Any, what: int, where: int, odd: int) -> Any:
    """A node replaced (6, 7), removed (8), or put a second time under another name (9)."""
    places: list[tuple[Any, Any]] = []
    _places(value, places.append)
    if not places:
        return ODD[odd % len(ODD)]
    parent, key = places[len(places) * where // WHERE]
    if what == 8:
        del parent[key]
    elif what == 9 and isinstance(parent, dict):
        parent[f"{key}{odd}"] = parent[key]
    elif what == 9:
        parent.append(parent[key])
    else:
        parent[key] = ODD[odd % len(ODD)]
    return value


def _places(value: Any, found: Callable[[tuple[Any, Any]], None]) -> None:
    """Every (container, key) below a value."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        found((value, key))
        _places(value[key], found)
