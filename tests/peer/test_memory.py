"""Freed memory stays with the process: counted in page faults, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
from peer.memory import keep
if sys.argv[1] == "keep" and not keep():
    print("cannot")
    raise SystemExit
blocks = 0
for turn in range(12):
    if turn == 2:
        blocks = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - blocks)
"""


def faults(how: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    said = subprocess.run(
        [sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    if said.stdout.strip() == "cannot":
        pytest.skip("this C library cannot be told to keep memory")
    return int(said.stdout)


def test_large_blocks_are_not_fetched_from_the_system_again_and_again() -> None:
    assert faults("keep") < faults("leave") / 10
