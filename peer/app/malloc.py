"""How a peer's process keeps memory between rounds: fresh pages cost more than the work on them.

Rule 1: freed memory stays with the process. glibc hands every block above 32 MiB back to the system when it
        is freed and asks for it again the next time; the system then clears it page by page. Averaging 10
        million parameters spends a fifth of its CPU time on that. The process keeps its peak instead.
Rule 2: all threads share one heap. With one heap each, memory that the event loop has freed cannot be used by
        the arithmetic, which asks for the same amount again: a sixth more memory in the same averaging.
        Blocks this large are too rare for threads to wait for each other.
Rule 3: Python's collector ignores what was there when the peer started. It walks again and again through all
        objects that could refer to themselves: half a million objects of torch and hivemind, none of which is
        ever freed.
"""

from __future__ import annotations

import ctypes
import gc
import sys

# The names of mallopt's parameters in glibc's malloc.h.
_TRIM_THRESHOLD = -1
_TOP_PAD = -2
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8

_NEVER = (1 << 31) - 1
"""The largest threshold: mallopt takes an int."""
_EXTRA_BYTES = 64 << 20
"""Bytes that the heap grows by beyond what is asked for."""


def keep_freed_memory() -> bool:
    """Never return freed memory to the system, as far as the C library allows it (glibc).

    Returns False where it does not.

    Call this before the first thread starts: a thread that has a heap of its own keeps it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {
        _MMAP_THRESHOLD: _NEVER,
        _TRIM_THRESHOLD: _NEVER,
        _TOP_PAD: _EXTRA_BYTES,
        _ARENA_MAX: 1,
    }
    return all([mallopt(name, value) for name, value in settings.items()])


def return_freed_memory() -> None:
    """Return all free memory to the system once, in spite of `keep_freed_memory`."""
    _collect_everything()
    if not sys.platform.startswith("linux"):
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def hide_from_collector() -> None:
    """Make Python's collector ignore every object that exists now.

    Garbage is collected first, also garbage among the objects that an earlier call has hidden: the model of
    an earlier attempt, and everything that refers to it.
    """
    _collect_everything()
    gc.freeze()


def _collect_everything() -> None:
    """Collect all garbage, also objects that were hidden from the collector while they were still in use."""
    gc.unfreeze()
    gc.collect()
