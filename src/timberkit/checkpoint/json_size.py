"""JSON that takes many times its size once it is parsed, told before it is.

An empty list takes two letters and a comma in a file and 64 bytes in memory: 100 MB of ``[],[],…``
are 2 GB. What writers make has names and numbers between its brackets and commas, six letters for
each at the least; so a file of fewer is refused where files may be large.
"""

from __future__ import annotations

from timberkit.errors import CheckpointError

LETTERS_TO_A_MARK = 6
FEW_MARKS = 100_000
"""That any file may have, however it is written: about 10 MB once parsed."""


def refuse_expanding(raw: bytes, where: str) -> None:
    """Raise CheckpointError, naming ``where``, for JSON with more structure than content.

    Afterwards parsing takes at most about twenty times the bytes, or 10 MB. O(bytes), 1 GB/s.

    >>> refuse_expanding(b'{"name": [1.5, 2.5]}', "x.json")
    >>> refuse_expanding(b"[" + b"[]," * 200_000 + b"[]]", "x.json")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    timberkit.errors.CheckpointError: x.json: 400002 brackets and commas in 600004 bytes: ...
    """
    marks = sum(map(raw.count, (b"[", b"{", b",")))
    if marks > max(FEW_MARKS, len(raw) // LETTERS_TO_A_MARK):
        raise CheckpointError(
            f"{where}: {marks} brackets and commas in {len(raw)} bytes: no writer makes such a"
            " file, which takes many times its size once it is read; get it anew from its author"
        )
