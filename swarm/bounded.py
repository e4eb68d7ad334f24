"""A dictionary with a limit, for everything that strangers could make grow without end."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LeastRecentlyUsed(OrderedDict[K, V]):
    """A dictionary of at most ``limit`` entries that drops the oldest entries beyond the limit.

    Writing an entry, or `touch`, makes it the newest; reading changes nothing. Iteration goes from the oldest
    to the newest entry. Do not use `setdefault` or `update`: they do not keep the limit.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self._limit:
            self.popitem(last=False)

    def touch(self, key: K) -> None:
        """Make the entry of ``key`` the newest. Raises `KeyError` where there is none."""
        self.move_to_end(key)
