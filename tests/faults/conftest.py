"""Checkpoints as the end-to-end tests make them."""

from __future__ import annotations

import pytest
from tests.end_to_end.conftest import Checkpoints


@pytest.fixture(scope="session")
def checkpoints() -> type[Checkpoints]:
    """See ``Checkpoints``."""
    return Checkpoints
