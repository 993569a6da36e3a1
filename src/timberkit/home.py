"""The user's home folder as ``~``: what is written or printed names no account.

Manifests are published and messages end up in issues; a path such as ``/home/someone/models`` tells
strangers about both the account and the machine. ``~`` means the same to every command.
"""

from __future__ import annotations

import os
import re
from typing import Any


def from_home(value: Any) -> Any:
    """A text, or JSON values with texts in them, with paths below the home folder from ``~`` on.

    Only whole names count: the home ``/home/me`` is not the beginning of ``/home/melon``. Other
    values, and everything where the home folder is ``/``, come back as they are.

    >>> home = os.path.expanduser("~")
    >>> from_home({"models": [f"m={home}/tiny", f"{home}ly"], "seed": 1}) == {
    ...     "models": ["m=~/tiny", f"{home}ly"], "seed": 1}
    True
    """
    home = os.path.expanduser("~").rstrip("/")
    return _replaced(value, home) if home else value


def _replaced(value: Any, home: str) -> Any:
    if isinstance(value, str):
        pattern = rf"(?<![\w/.-]){re.escape(home)}(?![\w.-])"
        return re.sub(pattern, "~", value) if home in value else value
    if isinstance(value, dict):
        return {key: _replaced(inner, home) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(inner, home) for inner in value]
    return value
