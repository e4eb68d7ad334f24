"""Memory that stays ours: large vectors come and go in every round, and fresh pages cost more than what is done with them.

glibc hands every block above 32 MiB back to the system when it is freed and asks for it again the next time; the system then clears
it page by page. A 10-million-parameter averaging spends a fifth of its CPU time on that. The process keeps its peak instead.

And it keeps it in one heap for all threads. With one heap each, what the event loop has freed is of no use to the arithmetic, which
asks for the same again: a sixth more memory in the same averaging. Blocks this large are too rare for threads to queue up for them.

Python's collector looks through all that lives, again and again, for what only refers to itself: half a million objects of torch
and hivemind, none of which ever goes. What is there when a peer has started is taken out of its sight.
"""

from __future__ import annotations

import ctypes
import gc
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # malloc.h
_NEVER = (1 << 31) - 1  # mallopt takes an int


def keep() -> bool:
    """Never return freed memory to the system, as far as the C library can be told so (glibc). False where it cannot.

    To be called before the first thread starts: one that has a heap of its own keeps it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_MMAP_THRESHOLD: _NEVER, _TRIM_THRESHOLD: _NEVER, _TOP_PAD: 64 << 20, _ARENA_MAX: 1}
    return all([mallopt(name, value) for name, value in settings.items()])


def give_back() -> None:
    """Return to the system what nobody refers to any more, once, in spite of `keep`."""
    _collect()
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def settle() -> None:
    """What is here stays: the collector need not look at it any more. What is garbage goes first, also that of an earlier life: its
    model, and all that refers to it, stayed here then."""
    _collect()
    gc.freeze()


def _collect() -> None:
    """All garbage, also what was none when it was taken out of the collector's sight."""
    gc.unfreeze()
    gc.collect()
