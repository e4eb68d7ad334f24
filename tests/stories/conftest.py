"""A story that fails prints the command that tells it again: a story follows from its parameters alone."""

from __future__ import annotations

from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the command to the report of a failure."""
    report = yield
    if report.failed:
        report.sections.append(("the same story again", f"python -m pytest '{item.nodeid}'"))
    return report
