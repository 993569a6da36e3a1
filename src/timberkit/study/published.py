"""What the paper and its authors' public responses report; every number with its source.

``published.json`` holds them, in percent; ``None`` stands for what was not published.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def published() -> dict[str, Any]:
    """All published numbers, by table and figure of arXiv 2509.23595.

    >>> published()["source"]["arxiv"]
    '2509.23595'
    """
    text = files("timberkit.study").joinpath("published.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content
