"""Nothing is lost: what a round did not apply of our update rides with the next one (error feedback, Seide et al. 2014).

    sent     = update + residual                      carried: changes nothing, so a round that fails may be asked again
    residual = β · (sent − decode(encoded))           settle, parts that were applied with us: what the codec left out
             = sent                                   all other parts: everything, whatever β

Two phases, because only the end of a round tells whether a part was applied. Between them the old residual stands untouched.
β (`RoundSpec.feedback`) below 1 forgets what has waited for many rounds, as very sparse codecs want it (0.95 in SparseLoCo,
arXiv:2508.15706). It is taken where something was applied, so ``sent`` = update + β · what the codec left out, as there; but a
round that fails costs nothing.

Memory: 12 bytes per parameter where a codec loses something: the residual, ``sent``, and what the others read in it, which becomes
the next residual. The three change places from round to round, for fresh memory costs more than what is done with it. 8 for int8
and int4, whose bytes are as quickly read again: ``sent`` becomes the residual where it lies. 4 at most where nothing is lost.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from swarm.manifest import Codec as CodecName

from .codecs import Quantised, Raw, codec_of
from .partition import Part

_ROOMS = 2
"""Vectors that wait for their next use: what was sent, and the residual before this one."""


@dataclass(frozen=True, slots=True, eq=False)
class Settle:
    """The second phase as a job: what stays behind of ``sent_P``. Equal to another one over the same tensor object.

    ``encoded`` and ``applied`` go with ``parts``: the bytes we sent, and whether the group applied the part with our share in it.
    ``decay`` is β.
    """

    sent_P: Tensor
    encoded: tuple[Raw, ...]
    parts: tuple[Part, ...]
    applied: tuple[bool, ...]
    codec: CodecName
    decay: float = 1.0
    decoded: tuple[Tensor | None, ...] = ()
    """By part: what ``encoded`` decodes to, where it is known already."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Settle):
            return NotImplemented
        return self.sent_P is other.sent_P and self._values == other._values

    def __hash__(self) -> int:
        return hash(
            (id(self.sent_P), self.parts, self.applied, self.codec, self.decay)
        )  # not all bytes have a hash

    @property
    def _values(self) -> tuple[object, ...]:
        return self.encoded, self.parts, self.applied, self.codec, self.decay

    @property
    def leaves_nothing(self) -> bool:
        """Whether everything was applied as it was: then the residual is zero, and nobody has to compute it."""
        if not all(self.applied) or len(self.decoded) != len(self.parts):
            return False
        sent = (self.sent_P[part.start : part.stop] for part in self.parts)
        is_same = all(
            vector_N is not None and vector_N.data_ptr() == sent_N.data_ptr()
            for vector_N, sent_N in zip(self.decoded, sent, strict=True)
        )
        return is_same and sum(part.numbers for part in self.parts) == len(self.sent_P)

    @property
    def lies_apart(self) -> bool:
        """Whether what travels shares no memory with ``sent_P``, which may then become the residual where it lies."""
        return bool(self.decoded) and all(vector_N is None for vector_N in self.decoded)

    @property
    def spent_P(self) -> Tensor | None:
        """The vector whose pieces ``decoded`` are, in the places of the parts: room for the residual once nobody reads them."""
        if not self.decoded or len(self.decoded) != len(self.parts):
            return None
        first_N = self.decoded[0]
        whole = first_N is not None and first_N.untyped_storage().nbytes() == self.sent_P.nbytes
        if (
            first_N is None
            or not whole
            or first_N.untyped_storage().data_ptr() == self.sent_P.untyped_storage().data_ptr()
        ):
            return None
        spent_P = first_N.as_strided(self.sent_P.shape, (1,), 0)
        places = (spent_P[part.start : part.stop].data_ptr() for part in self.parts)
        lie_there = all(
            vector_N is not None and vector_N.data_ptr() == place
            for vector_N, place in zip(self.decoded, places, strict=True)
        )
        return spent_P if lie_there else None

    def run(self, room_P: Tensor | None = None) -> Tensor:
        """The residual, ``[P]`` float32, in ``room_P`` (`spent_P`, or any other) or a new tensor; what no part covers stays whole.

        Raises `ValueError` for unequal lengths.
        """
        residual_P = torch.empty_like(self.sent_P) if room_P is None else room_P
        stop = 0
        known = self.decoded or (None,) * len(self.parts)
        for payload, vector_N, part, applied in zip(
            self.encoded, known, self.parts, self.applied, strict=True
        ):
            left_N, sent_N = residual_P[part.start : part.stop], self.sent_P[part.start : part.stop]
            residual_P[stop : part.start] = self.sent_P[stop : part.start]
            if applied:
                self._take_away(sent_N, payload, vector_N, part, left_N)
                if self.decay != 1:
                    left_N.mul_(self.decay)
            elif left_N.data_ptr() != sent_N.data_ptr():
                left_N.copy_(sent_N)
            stop = part.stop
        residual_P[stop:] = self.sent_P[stop:]
        return residual_P

    def _take_away(
        self, sent_N: Tensor, payload: Raw, vector_N: Tensor | None, part: Part, left_N: Tensor
    ) -> None:
        """Into ``left_N`` what the codec left out of ``sent_N``, which may be the same memory."""
        codec = codec_of(self.codec, part.shape)
        if vector_N is not None:
            torch.sub(sent_N, vector_N, out=left_N)
        elif isinstance(codec, Quantised):
            if left_N.data_ptr() != sent_N.data_ptr():
                left_N.copy_(sent_N)
            codec.subtract(payload, left_N)
        else:
            torch.sub(sent_N, codec.decode(payload, part.numbers), out=left_N)


class ErrorFeedback:
    """The residual of one peer: one float32 vector of P ``numbers``, none while nothing is owed; and room for two more."""

    def __init__(self, numbers: int) -> None:
        self._numbers = numbers
        self._residual_P: Tensor | None = None
        self._carried_P: Tensor | None = None
        self._rooms: list[Tensor] = []

    @property
    def residual(self) -> Tensor:
        """What is still owed, ``[P]`` float32: for checkpoints and figures, until the next round. Do not write into it."""
        return (
            torch.zeros(self._numbers, dtype=torch.float32) if self._residual_P is None else self._residual_P
        )

    def carried(self, update_P: Tensor) -> Tensor:
        """What to send this round, ``[P]``: ``update_P`` itself where nothing is owed, so nobody may write into either.

        Changes no state. Raises `ValueError` for another length.
        """
        if self._residual_P is None:
            return self._fitting(update_P)
        self._carried_P = torch.add(self._fitting(update_P), self._residual_P, out=self.room())
        return self._carried_P

    def room(self) -> Tensor | None:
        """A vector ``[P]`` that nobody reads any more, for what the others will read in an update; None where there is none yet."""
        return self._rooms.pop() if self._rooms else None

    def settle(self, settled: Settle) -> None:
        """Keep what was not applied, in the memory of what was decoded. After an error the residual is as it was before."""
        if settled.leaves_nothing:
            self.reset()
            return
        spent_P, is_ours = settled.spent_P, settled.sent_P is self._carried_P
        if is_ours and settled.lies_apart:
            spent_P = self._carried_P
        self.adopt(settled.run(spent_P))
        if (
            is_ours and spent_P is not None and self._carried_P is not spent_P
        ):  # what travels lies elsewhere, so nobody needs it
            self._leave(settled.sent_P)
        self._carried_P = None

    def adopt(self, residual_P: Tensor) -> None:
        """Take the residual that a `Settle` job computed elsewhere, or one from a checkpoint; the tensor becomes ours."""
        before_P, self._residual_P = self._residual_P, self._fitting(residual_P)
        if before_P is not None and before_P is not residual_P:
            self._leave(before_P)

    def _leave(self, vector_P: Tensor) -> None:
        if len(self._rooms) < _ROOMS:
            self._rooms.append(vector_P)

    def reset(self) -> None:
        """Owe nothing: after the model was replaced, what was learnt on the old one no longer fits."""
        self._residual_P = None

    def _fitting(self, vector_P: Tensor) -> Tensor:
        if vector_P.shape != (self._numbers,) or vector_P.dtype != torch.float32:
            raise ValueError(f"{self._numbers} float32 numbers were expected")
        return vector_P
