"""Where the numbers of one part are cut into chunks, and how many of each travel: all members compute the same.

    pieces  |------- tensor -------|- tensor -|---|
    chunks  |  4096  |  4096  | 700|   3000   |256|         kept of each: its length · share / 4096, rounded up

A chunk never reaches into another tensor: the largest of both would be those of the louder one. A short chunk (the end of a
tensor, a small tensor, or what a cut between two owners left) keeps the same share of its numbers as a long one. A second, denser
format for those would cost up to 36 times the bytes wherever owners cut a tensor; this way the rate hardly depends on the cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from .port import Shape

CHUNK = 4096
"""Numbers of a full chunk: an index into it has 12 bits."""


_AT_A_TIME = 1 << 16
"""What is worked on at a time should fit a core's cache."""


@dataclass(frozen=True, slots=True)
class Run:
    """``chunks`` neighbours of ``length`` numbers each, of which ``kept`` each travel.

    Its first number is number ``start`` of the vector, its first that travels is number ``first`` of those, its first chunk is
    number ``index``.
    """

    chunks: int
    length: int
    kept: int
    start: int = 0
    first: int = 0
    index: int = 0

    @property
    def numbers(self) -> slice:
        """Its numbers in the vector."""
        return slice(self.start, self.start + self.chunks * self.length)

    @property
    def travelling(self) -> slice:
        """Those of its numbers that travel, among all that do."""
        return slice(self.first, self.first + self.chunks * self.kept)

    @property
    def rows(self) -> slice:
        """Its chunks among all chunks."""
        return slice(self.index, self.index + self.chunks)

    def part(self, first: int, chunks: int) -> Run:
        """At most ``chunks`` of its chunks, from the one numbered ``first`` here."""
        start, place = self.start + first * self.length, self.first + first * self.kept
        return Run(min(chunks, self.chunks - first), self.length, self.kept, start, place, self.index + first)


@dataclass(frozen=True, slots=True)
class Cut:
    """All chunks of one vector in order, equal neighbours together.

    ``numbers`` counts the vector, ``chunks`` its chunks, ``kept`` what travels.
    """

    runs: tuple[Run, ...]
    numbers: int
    chunks: int
    kept: int

    def by_numbers(self) -> Iterator[Run]:
        """Every chunk once, in order: runs of few enough numbers for a core's cache."""
        return self._split(lambda run: run.length)

    def by_kept(self) -> Iterator[Run]:
        """Every chunk once, in order: runs of which few enough numbers travel for a core's cache."""
        return self._split(lambda run: run.kept)

    def _split(self, cost: Callable[[Run], int]) -> Iterator[Run]:
        for run in self.runs:
            chunks = _AT_A_TIME // cost(run)
            yield from (run.part(first, chunks) for first in range(0, run.chunks, chunks))


def cut_of(shape: Shape, numbers: int, share: int) -> Cut:
    """The chunks of ``numbers`` numbers, ``share`` of 4096 of which travel. Raises `ValueError` where they are not of ``shape``."""
    pieces = shape.pieces or (numbers,)
    if sum(pieces) != numbers or min(pieces) < 0:
        raise ValueError(f"{numbers} numbers are not the {sum(pieces)} of these tensors")
    chunks = [part for piece in pieces for part in ((piece // CHUNK, CHUNK), (1, piece % CHUNK)) if all(part)]
    runs: list[Run] = []
    start = first = index = 0
    for length, neighbours in groupby(chunks, key=itemgetter(1)):
        run = Run(
            sum(count for count, _ in neighbours), length, -(-length * share // CHUNK), start, first, index
        )
        start, first, index = run.numbers.stop, run.travelling.stop, run.rows.stop
        runs.append(run)
    return Cut(tuple(runs), numbers, index, first)
