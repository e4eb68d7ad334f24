"""Which numbers a round averages, in a run that averages a fragment at a time (Streaming DiLoCo, arXiv:2501.18512).

    round       0   1   2   3   4   5  …          three fragments: each is averaged in every third round
    fragment    0   1   2   0   1   2             with what its numbers have learnt since

A round then costs a third of the bytes, at equal quality as long as a fragment's turn comes often enough; what the other fragments
have learnt meanwhile stays with each peer until their turn. A fragment is a stretch of the vector, so that it is sent from where it
lies; all are as long as each other, to a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from .partition import ALIGN, pieces


@dataclass(frozen=True, slots=True)
class Fragment:
    """Numbers ``start`` to ``stop`` (exclusive) of the vector; ``tensors`` are the lengths of those of the model that lie in it."""

    index: int
    start: int
    stop: int
    tensors: tuple[int, ...]

    @property
    def place(self) -> slice:
        """Where it lies in the vector."""
        return slice(self.start, self.stop)

    @property
    def numbers(self) -> int:
        """How many numbers it has; at least 1."""
        return self.stop - self.start


def fragments_of(tensors: Sequence[int], count: int) -> tuple[Fragment, ...]:
    """The vector of ``tensors`` (their lengths, in order) in ``count`` fragments; fewer where it has not so many blocks."""
    borders = list(accumulate(tensors, initial=0))
    numbers = borders[-1]
    blocks = max(1, -(-numbers // ALIGN))
    count = min(count, blocks)
    cuts = [min(numbers, blocks * turn // count * ALIGN) for turn in range(count + 1)]
    return tuple(
        Fragment(index, start, stop, pieces(borders, start, stop))
        for index, (start, stop) in enumerate(pairwise(cuts))
    )


def fragment_of(tensors: Sequence[int], count: int, round_: int) -> Fragment:
    """The one whose turn it is in ``round_``."""
    fragments = fragments_of(tensors, count)
    return fragments[round_ % len(fragments)]
