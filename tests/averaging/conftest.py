"""What tests of the arithmetic share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def threads() -> Iterator[None]:
    """For tests that change how many threads torch uses: afterwards it is as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
