"""Freed memory stays with the process, for all its threads. Counted in page faults, in another process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable

import pytest

from peer.app import malloc as memory

COUNT_FAULTS = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from peer.app.malloc import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
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
    """Pages fetched from the system for blocks that the threads use in turn, without the first two blocks."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, how, str(megabytes), str(threads)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=60,
    )
    if done.stdout.strip() == "cannot":
        pytest.skip("this C library cannot be told to keep memory")
    return int(done.stdout)


def test_large_blocks_are_not_fetched_from_the_system_again_and_again() -> None:
    assert faults("keep", 64, 1) < faults("leave", 64, 1) / 10


def test_memory_that_one_thread_has_freed_is_used_by_another() -> None:
    assert faults("keep", 16, 8) < faults("leave", 16, 8) / 10


def test_kept_memory_can_be_returned_once() -> None:
    program = """
import psutil
from peer.app.malloc import keep_freed_memory, return_freed_memory
if keep_freed_memory():
    me = psutil.Process()
    len(bytearray(256 << 20))
    kept = me.memory_info().rss
    return_freed_memory()
    print(kept - me.memory_info().rss)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    if not done.stdout.strip():
        pytest.skip("this C library cannot be told to keep memory")
    assert int(done.stdout) > 200 << 20


class Peer:
    """Refers to itself, as a real peer does by way of its callbacks."""

    def __init__(self) -> None:
        self.callback = self.end

    def end(self) -> None:
        """Nothing."""


@pytest.mark.parametrize("collect", [memory.hide_from_collector, memory.return_freed_memory])
def test_hidden_objects_are_collected_once_nothing_refers_to_them(collect: Callable[[], None]) -> None:
    peer = Peer()
    left = weakref.ref(peer)
    try:
        memory.hide_from_collector()
        assert gc.get_freeze_count() > 0
        del peer
        gc.collect()
        assert left() is not None, "the collector ignores it"
        collect()
        assert left() is None
    finally:
        gc.unfreeze()
