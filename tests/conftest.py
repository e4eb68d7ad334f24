"""How the suite is spread over the processes that run it (pytest-xdist; ``-n 0`` runs it in one), and what all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # every process of the suite, and every peer it starts, has one core at best
settings.register_profile("untimed", deadline=None)  # a busy computer is no bug
settings.load_profile("untimed")
EDGES = Path(__file__).parent / "edges"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The edge tests start peers as processes and wait for them: one after the other, in one place, beside all the others."""
    for item in items:
        if EDGES in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("edges"))
