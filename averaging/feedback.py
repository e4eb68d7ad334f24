"""Error feedback (Seide et al. 2014): what a round did not apply of an update is added to the next one.

    sent     = update + residual              `to_send`: changes no state, so a failed round may ask again
    residual = β · (sent − decode(encoded))   `settle`, parts that were applied with our update in them
             = sent                           `settle`, all other parts: everything, whatever β is

There are two phases, because only the end of a round tells whether a part was applied. Until then the old
residual stays as it is. β (`RoundSpec.feedback`) below 1 lets the residual of many rounds fade, as very
sparse codecs need it (0.95 in SparseLoCo, arXiv:2508.15706). It is applied only where something was averaged:
as in that paper, ``sent`` is then update + β · what the codec has left out, but a failed round costs nothing.

Memory, in bytes per parameter:
    12   for a codec with loss: the residual, ``sent``, and what the others decode of it (the next residual)
     8   for int8 and int4, whose payload is decoded again instead: ``sent`` itself becomes the residual
     4   at most for a codec without loss
The vectors are scratch buffers that change roles from round to round, because new memory costs more time than
the arithmetic on it.
"""

# Axes: P parameters of the whole model, N numbers of one part

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from swarm.manifest import Codec as CodecName

from .codecs import Quantised, Raw, codec_of
from .partition import Part

_SCRATCH_VECTORS = 2
"""Scratch buffers to keep: the memory of what was sent, and of the residual before this one."""


@dataclass(frozen=True, slots=True, eq=False)
class Settle:
    """The second phase as a job: it computes the residual of ``sent_P``.

    ``encoded`` and ``applied`` go with ``parts``: the payload that we sent, and whether the group applied the
    part with our update in it. ``decay`` is β. Two jobs are equal only if they have the same tensor object,
    not equal numbers.
    """

    sent_P: Tensor
    encoded: tuple[Raw, ...]
    parts: tuple[Part, ...]
    applied: tuple[bool, ...]
    codec: CodecName
    decay: float = 1.0
    decoded: tuple[Tensor | None, ...] = ()
    """By part: what ``encoded`` decodes to, if it is already known."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Settle):
            return NotImplemented
        return self.sent_P is other.sent_P and self._values == other._values

    def __hash__(self) -> int:
        # without ``encoded``, whose bytearrays have no hash
        return hash((id(self.sent_P), self.parts, self.applied, self.codec, self.decay))

    @property
    def _values(self) -> tuple[object, ...]:
        return self.encoded, self.parts, self.applied, self.codec, self.decay

    @property
    def is_lossless(self) -> bool:
        """Whether all numbers were applied exactly as they were: then the residual is zero."""
        if not all(self.applied) or len(self.decoded) != len(self.parts):
            return False
        sent = (self.sent_P[part.start : part.stop] for part in self.parts)
        is_same = all(
            vector_N is not None and vector_N.data_ptr() == sent_N.data_ptr()
            for vector_N, sent_N in zip(self.decoded, sent, strict=True)
        )
        return is_same and sum(part.numbers for part in self.parts) == len(self.sent_P)

    @property
    def may_overwrite_sent(self) -> bool:
        """Whether no payload shares memory with ``sent_P``, so that it can be overwritten by the residual."""
        return bool(self.decoded) and all(vector_N is None for vector_N in self.decoded)

    @property
    def decoded_P(self) -> Tensor | None:
        """The vector of which all of ``decoded`` are slices, each in its part's place; None if there is none.

        Nobody reads it after this job, so the residual can be written into it.
        """
        if not self.decoded or len(self.decoded) != len(self.parts):
            return None
        first_N = self.decoded[0]
        if first_N is None:
            return None
        storage = first_N.untyped_storage()
        is_whole = storage.nbytes() == self.sent_P.nbytes
        if not is_whole or storage.data_ptr() == self.sent_P.untyped_storage().data_ptr():
            return None

        whole_P = first_N.as_strided(self.sent_P.shape, (1,), 0)
        starts = (whole_P[part.start : part.stop].data_ptr() for part in self.parts)
        are_in_place = all(
            vector_N is not None and vector_N.data_ptr() == start
            for vector_N, start in zip(self.decoded, starts, strict=True)
        )
        return whole_P if are_in_place else None

    def run(self, scratch_P: Tensor | None = None) -> Tensor:
        """Return the residual, ``[P]`` float32, in ``scratch_P`` if given, else in a new tensor.

        ``scratch_P`` may be ``sent_P`` or `decoded_P`, since every number is read before it is overwritten.
        Numbers that no part covers stay in the residual whole. Raises `ValueError` for unequal lengths, and
        what decoding raises.
        """
        residual_P = torch.empty_like(self.sent_P) if scratch_P is None else scratch_P
        stop = 0
        known = self.decoded or (None,) * len(self.parts)
        for payload, vector_N, part, applied in zip(
            self.encoded, known, self.parts, self.applied, strict=True
        ):
            residual_N = residual_P[part.start : part.stop]
            sent_N = self.sent_P[part.start : part.stop]
            residual_P[stop : part.start] = self.sent_P[stop : part.start]
            if applied:
                self._subtract(sent_N, payload, vector_N, part, residual_N)
                if self.decay != 1:
                    residual_N.mul_(self.decay)
            elif residual_N.data_ptr() != sent_N.data_ptr():
                residual_N.copy_(sent_N)
            stop = part.stop
        residual_P[stop:] = self.sent_P[stop:]
        return residual_P

    def _subtract(
        self, sent_N: Tensor, payload: Raw, vector_N: Tensor | None, part: Part, residual_N: Tensor
    ) -> None:
        """Write ``sent_N`` − its decoded payload into ``residual_N``, which may be the same memory."""
        codec = codec_of(self.codec, part.shape)
        if vector_N is not None:
            torch.sub(sent_N, vector_N, out=residual_N)
        elif isinstance(codec, Quantised):
            if residual_N.data_ptr() != sent_N.data_ptr():
                residual_N.copy_(sent_N)
            codec.subtract(payload, residual_N)
        else:
            torch.sub(sent_N, codec.decode(payload, part.numbers), out=residual_N)


class ErrorFeedback:
    """The residual of one peer, a float32 vector of P ``numbers``, and up to two scratch buffers."""

    def __init__(self, numbers: int) -> None:
        self._numbers = numbers
        self._residual_P: Tensor | None = None
        self._sent_P: Tensor | None = None
        self._scratch: list[Tensor] = []

    @property
    def residual(self) -> Tensor:
        """What is carried over to the next update, ``[P]`` float32.

        Valid until the next round, and only to be read.
        """
        return (
            torch.zeros(self._numbers, dtype=torch.float32) if self._residual_P is None else self._residual_P
        )

    def to_send(self, update_P: Tensor) -> Tensor:
        """Return what to send in this round, ``[P]``: ``update_P`` plus the residual. It is only to be read.

        Without a residual it is ``update_P`` itself. Changes no residual. Raises `ValueError` for another
        length.
        """
        if self._residual_P is None:
            return self._checked(update_P)
        self._sent_P = torch.add(self._checked(update_P), self._residual_P, out=self.take_scratch())
        return self._sent_P

    def take_scratch(self) -> Tensor | None:
        """Return a scratch buffer ``[P]`` for the caller to keep, or None if there is none.

        It is meant for what the others decode of our update: `settle` gets it back.
        """
        return self._scratch.pop() if self._scratch else None

    def settle(self, settled: Settle) -> None:
        """Compute the new residual and keep it, if possible in the memory of a vector no longer needed.

        After an error the residual is as it was before.
        """
        if settled.is_lossless:
            self.reset()
            return
        is_ours = settled.sent_P is self._sent_P
        can_reuse_sent = is_ours and settled.may_overwrite_sent
        scratch_P = self._sent_P if can_reuse_sent else settled.decoded_P
        self.adopt(settled.run(scratch_P))
        # a separate decoded vector means that the payload has its own memory: what was sent is not read again
        if is_ours and scratch_P is not None and self._sent_P is not scratch_P:
            self._keep_as_scratch(settled.sent_P)
        self._sent_P = None

    def adopt(self, residual_P: Tensor) -> None:
        """Replace the residual with ``residual_P``, which was computed elsewhere or comes from a checkpoint.

        The tensor belongs to this object from now on. Raises `ValueError` for another length or dtype.
        """
        before_P = self._residual_P
        self._residual_P = self._checked(residual_P)
        if before_P is not None and before_P is not residual_P:
            self._keep_as_scratch(before_P)

    def reset(self) -> None:
        """Set the residual to zero: everything that was sent has been applied exactly."""
        self._residual_P = None

    def _keep_as_scratch(self, vector_P: Tensor) -> None:
        if len(self._scratch) < _SCRATCH_VECTORS:
            self._scratch.append(vector_P)

    def _checked(self, vector_P: Tensor) -> Tensor:
        if vector_P.shape != (self._numbers,) or vector_P.dtype != torch.float32:
            raise ValueError(f"{self._numbers} float32 numbers were expected")
        return vector_P
