"""How a sparse codec cuts the numbers of one part into chunks, and how many of each chunk it keeps.

    tensors  |------- tensor -------|- tensor -|---|
    chunks   |  4096  |  4096  | 700|   3000   |256|     kept of each: its length · share / 4096, rounded up

The kept numbers are those that are sent; all others decode to zero. Every member computes the same chunks
from the same tensor lengths, so they cost no bytes.

Rule 1: A chunk never spans two tensors. Otherwise the tensor with larger numbers would take all the places.
Rule 2: A short chunk (the end of a tensor, a small tensor, or what a cut between two owners has left) keeps
        the same share of its numbers as a full one. A second, denser format for short chunks would cost up to
        36 times the bytes wherever owners cut a tensor; this way the rate hardly depends on the cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from .port import Shape

CHUNK = 4096
"""Numbers of a full chunk: an index into it takes 12 bits."""

_BATCH = 1 << 16
"""Numbers that one step of a codec handles: with its temporaries they should fit a core's cache."""


@dataclass(frozen=True, slots=True)
class ChunkRun:
    """``chunks`` adjacent chunks of ``length`` numbers each, of which ``kept`` numbers each are sent.

    ``start`` counts numbers of the vector before this run, ``kept_start`` kept numbers before it,
    ``chunk_start`` chunks before it.
    """

    chunks: int
    length: int
    kept: int
    start: int = 0
    kept_start: int = 0
    chunk_start: int = 0

    @property
    def span(self) -> slice:
        """The run's numbers, as a slice of the vector."""
        return slice(self.start, self.start + self.chunks * self.length)

    @property
    def kept_span(self) -> slice:
        """The run's kept numbers, as a slice of all kept numbers."""
        return slice(self.kept_start, self.kept_start + self.chunks * self.kept)

    @property
    def chunk_span(self) -> slice:
        """The run's chunks, as a slice of all chunks."""
        return slice(self.chunk_start, self.chunk_start + self.chunks)

    def part(self, first: int, chunks: int) -> ChunkRun:
        """Return at most ``chunks`` of this run's chunks, beginning with its chunk number ``first``."""
        return ChunkRun(
            chunks=min(chunks, self.chunks - first),
            length=self.length,
            kept=self.kept,
            start=self.start + first * self.length,
            kept_start=self.kept_start + first * self.kept,
            chunk_start=self.chunk_start + first,
        )


@dataclass(frozen=True, slots=True)
class Chunking:
    """All chunks of one vector in order; adjacent chunks of equal length form one run.

    ``chunks`` is the count of the vector's chunks, ``kept`` the count of all its kept numbers.
    """

    runs: tuple[ChunkRun, ...]
    chunks: int
    kept: int

    def batches_by_length(self) -> Iterator[ChunkRun]:
        """Yield every chunk once, in order, in runs whose numbers fit a core's cache."""
        return self._batches(lambda run: run.length)

    def batches_by_kept(self) -> Iterator[ChunkRun]:
        """Yield every chunk once, in order, in runs whose kept numbers fit a core's cache."""
        return self._batches(lambda run: run.kept)

    def _batches(self, cost: Callable[[ChunkRun], int]) -> Iterator[ChunkRun]:
        for run in self.runs:
            chunks = _BATCH // cost(run)
            yield from (run.part(first, chunks) for first in range(0, run.chunks, chunks))


def chunking_of(shape: Shape, numbers: int, share: int) -> Chunking:
    """Return the chunks of ``numbers`` numbers of ``shape``; ``share`` of each 4096 numbers are kept.

    Raises `ValueError` if the tensors of ``shape`` do not have ``numbers`` numbers in all.
    """
    tensor_lengths = shape.tensor_lengths or (numbers,)
    if sum(tensor_lengths) != numbers or min(tensor_lengths) < 0:
        raise ValueError(f"{numbers} numbers are not the {sum(tensor_lengths)} of these tensors")

    counts_and_lengths: list[tuple[int, int]] = []
    for tensor_length in tensor_lengths:
        full_chunks, rest = divmod(tensor_length, CHUNK)
        if full_chunks:
            counts_and_lengths.append((full_chunks, CHUNK))
        if rest:
            counts_and_lengths.append((1, rest))

    runs: list[ChunkRun] = []
    start = 0
    kept_start = 0
    chunk_start = 0
    for length, neighbours in groupby(counts_and_lengths, key=itemgetter(1)):
        run = ChunkRun(
            chunks=sum(count for count, _ in neighbours),
            length=length,
            kept=-(-length * share // CHUNK),
            start=start,
            kept_start=kept_start,
            chunk_start=chunk_start,
        )
        runs.append(run)
        start = run.span.stop
        kept_start = run.kept_span.stop
        chunk_start = run.chunk_span.stop
    return Chunking(runs=tuple(runs), chunks=chunk_start, kept=kept_start)
