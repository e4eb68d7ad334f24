"""How the suite is divided over processes (pytest-xdist), and how it reports the tests that a run leaves out.

    python -m pytest            every test without the marker `slow`: minutes on a laptop
    python -m pytest -m slow    long runs and runs of many processes: continuous integration does both
    python -m pytest -n 0       in one process, for a debugger

The first two end with the number of tests that they left out. Tests that start several real peers are marked
``xdist_group("processes")``: they run one after the other in one process, beside all other tests.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings

# The processes of the suite and its peers share the cores: one thread each is the fast setting.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy computer is no error, so hypothesis does not time its examples.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

LEFT_OUT = pytest.StashKey[dict[str, int]]()
"""How many tests the marker expression has deselected: those that are slow, and the others."""


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count."""
    config.stash[LEFT_OUT] = {"slow": 0, "other": 0}


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count the tests that are left out."""
    for item in items:
        kind = "slow" if item.get_closest_marker("slow") else "other"
        item.config.stash[LEFT_OUT][kind] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its counts to the controller, which does not collect tests itself."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over a worker's counts: all workers collect the same tests, so any worker's counts are right."""
    counts = getattr(node, "workeroutput", {}).get("left_out")
    if counts:
        node.config.stash[LEFT_OUT] = counts


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many tests were left out, and how to run them."""
    counts = config.stash[LEFT_OUT]
    if counts["slow"]:
        terminalreporter.write_line(
            f"left out {counts['slow']} slow tests; run them with: python -m pytest -m slow"
        )
    if counts["other"]:
        terminalreporter.write_line(
            f"left out {counts['other']} other tests; run them with: python -m pytest"
        )
