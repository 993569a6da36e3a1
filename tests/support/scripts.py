"""Scripts and benchmarks of the repository as modules, without a package around them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def load_script(place: str) -> Any:
    """The module at a path relative to the repository, executed anew."""
    path = ROOT / place
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look for the names in their annotations
    spec.loader.exec_module(module)
    return module
