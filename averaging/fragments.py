"""Which numbers a round averages in a run with fragments (Streaming DiLoCo, arXiv:2501.18512).

    round       0   1   2   3   4   5  …          with three fragments, each is averaged in every third round,
    fragment    0   1   2   0   1   2             with the update that it has gathered since

A round then costs a third of the bytes, at equal quality as long as each fragment's turn comes often enough.
Until its turn, the local changes of a fragment stay with each peer. A fragment is a contiguous stretch of the
vector, so it is sent from where it lies without a copy. All fragments have the same length, up to one
quantisation block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from .partition import ALIGN, stretch_lengths


@dataclass(frozen=True, slots=True)
class Fragment:
    """Numbers ``start`` to ``stop`` (exclusive) of the vector; ``tensors`` are the lengths of those in it."""

    index: int
    start: int
    stop: int
    tensors: tuple[int, ...]

    @property
    def place(self) -> slice:
        """The fragment as a slice of the vector."""
        return slice(self.start, self.stop)

    @property
    def numbers(self) -> int:
        """How many numbers it has; at least 1."""
        return self.stop - self.start


def fragments_of(tensors: Sequence[int], count: int) -> tuple[Fragment, ...]:
    """Return the vector cut into ``count`` fragments, but at most one per block.

    ``tensors`` are the lengths of the tensors in the order of the vector.
    """
    borders = list(accumulate(tensors, initial=0))
    numbers = borders[-1]
    blocks = max(1, -(-numbers // ALIGN))
    count = min(count, blocks)
    cuts = [min(numbers, blocks * turn // count * ALIGN) for turn in range(count + 1)]
    return tuple(
        Fragment(index, start, stop, stretch_lengths(borders, start, stop))
        for index, (start, stop) in enumerate(pairwise(cuts))
    )


def fragment_of(tensors: Sequence[int], count: int, round_: int) -> Fragment:
    """Return the fragment that is averaged in ``round_``. See `fragments_of` for the other parameters."""
    fragments = fragments_of(tensors, count)
    return fragments[round_ % len(fragments)]
