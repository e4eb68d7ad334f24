"""A test that fails here prints the command that repeats it exactly: all chance comes from its parameters."""

from __future__ import annotations

from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the command to the report of a failure."""
    report = yield
    if report.failed:
        report.sections.append(("to repeat exactly this", f"python -m pytest -m '' '{item.nodeid}'"))
    return report
