"""Freed memory stays with the process, for all its threads: counted in page faults, in a process of its own."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable

import pytest

from peer.app import malloc as memory

COUNT = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from peer.app.malloc import keep
if sys.argv[1] == "keep" and not keep():
    print("cannot")
    raise SystemExit
blocks, size = 0, int(sys.argv[2]) << 20
threads = [ThreadPoolExecutor(1) for _ in range(int(sys.argv[3]))]
for thread in threads:
    thread.submit(int).result()
for turn in range(12):
    if turn == 2:
        blocks = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    threads[turn % len(threads)].submit(lambda: len(bytearray(size))).result()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - blocks)
"""


def faults(how: str, megabytes: int, threads: int) -> int:
    """Pages that were asked of the system for blocks that the threads used in turn, the first two blocks aside."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    said = subprocess.run(
        [sys.executable, "-c", COUNT, how, str(megabytes), str(threads)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=60,
    )
    if said.stdout.strip() == "cannot":
        pytest.skip("this C library cannot be told to keep memory")
    return int(said.stdout)


def test_large_blocks_are_not_fetched_from_the_system_again_and_again() -> None:
    assert faults("keep", 64, 1) < faults("leave", 64, 1) / 10


def test_what_one_thread_has_freed_another_one_uses() -> None:
    assert faults("keep", 16, 8) < faults("leave", 16, 8) / 10


def test_what_is_kept_can_be_given_back_once() -> None:
    told = """
import psutil
from peer.app.malloc import give_back, keep
if keep():
    me = psutil.Process()
    len(bytearray(256 << 20))
    kept = me.memory_info().rss
    give_back()
    print(kept - me.memory_info().rss)
"""
    said = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    if not said.strip():
        pytest.skip("this C library cannot be told to keep memory")
    assert int(said) > 200 << 20


class Life:
    """Refers to itself, as a peer does by way of its callbacks."""

    def __init__(self) -> None:
        self.callback = self.end

    def end(self) -> None:
        """Nothing."""


@pytest.mark.parametrize("ends", [memory.settle, memory.give_back])
def test_what_an_earlier_life_has_left_goes_when_the_next_one_settles(ends: Callable[[], None]) -> None:
    life = Life()
    left = weakref.ref(life)
    try:
        memory.settle()
        assert gc.get_freeze_count() > 0
        del life
        gc.collect()
        assert left() is not None, "the collector does not look at it"
        ends()
        assert left() is None
    finally:
        gc.unfreeze()
