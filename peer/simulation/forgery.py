"""States that no group has decided, with everything that makes them look true.

    record    a record of the round under way, with the liar as its only member or with all peers, and the
              state to which that record really leads
    void      the state after a void round, with a void record, though the others have decided
    older     an earlier model under the number of a later round, as if all rounds since had been void
    ahead     a changed model, some rounds ahead of the run
    nan       a model of NaN
    nobody    a root that belongs to no state

Head, record, list of chunks and chunks of a forgery fit each other; only its origin is a lie. A liar makes
one forgery for each position at which it stands.
"""

# Axes: P parameters of the whole model, N numbers of the fragment that a round averages

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from averaging.codecs import result_codec
from averaging.messages import bits
from averaging.partition import Part, shaped
from averaging.record import NO_OWNER, Record, ReplayRecord, UpdateShape, packed
from averaging.reduce import encode_part
from averaging.whole_update import EncodeUpdate
from swarm.identity import PeerId, digest_of
from swarm.manifest import Exchange, RunManifest
from swarm.transport import Payload

from ..data.corpus import Corpus
from ..sync.position import Position
from ..training.learner import Learner
from ..training.state import SharedState, StateContent, state_root

KINDS = ("record", "record", "record", "void", "older", "ahead", "nan", "nobody")
"""What a forgery is, with weights by repetition."""
REMEMBERED = 6
"""True states, and forged ones, that a liar keeps."""
FURTHEST = 1000
"""Rounds by which a forgery may be ahead."""


@dataclass(frozen=True, slots=True)
class Forgery:
    """A state that no group has decided; None where nobody can have it."""

    kind: str
    round: int
    root: bytes
    state: SharedState | None = None
    record: bytes = b""
    """The record that leads from the true state ``parent`` to the forged one; empty where there is none."""
    parent: bytes = b""


class Forger:
    """Makes forgeries from the true states that the liar's honest half comes to."""

    def __init__(
        self,
        manifest: RunManifest,
        corpus: Corpus,
        me: PeerId,
        everybody: Sequence[PeerId],
        chance: random.Random,
    ) -> None:
        self._manifest = manifest
        self._corpus = corpus
        self._me = me
        self._everybody = everybody
        self._chance = chance
        self._learner: Learner | None = None
        self._true: deque[SharedState] = deque(maxlen=REMEMBERED)
        self._forged: deque[Forgery] = deque(maxlen=REMEMBERED)
        self._is_due = True

    def observe(self, position: Position, state: SharedState) -> None:
        """The liar's honest half stands on ``state`` now: the next forgery begins there."""
        self._true.append(state)
        self._is_due = True

    @property
    def current(self) -> Forgery | None:
        """The forgery for the position of now; None before the liar has a state."""
        if self._true and self._is_due:
            self._is_due = False
            self._forged.append(self._forge(self._chance.choice(KINDS)))
        return self._forged[-1] if self._forged else None

    def answer(self, route: str, argument: str) -> Payload | None:
        """What a peer that had the forged states would answer; None if the call is not about one of them."""
        root, _, number = argument.partition(".")
        for forgery in self._forged:
            if route == "record" and forgery.record and root == forgery.parent.hex():
                return forgery.record
            if root != forgery.root.hex() or forgery.state is None:
                continue
            content = StateContent(forgery.state)
            if route == "index":
                return b"".join(content.hashes)
            if route == "chunk" and number.isdigit() and int(number) < len(content.hashes):
                return content.chunk(int(number))
        return None

    # --- making a forgery -----------------------------------------------------------------------------------

    def _forge(self, kind: str) -> Forgery:
        true = self._true[-1]
        ahead = self._chance.choice((1, 1, 1, 2, 3, FURTHEST))
        match kind:
            case "record":
                return self._forge_record(true)
            case "void":
                state = SharedState(true.round + 1, true.anchor_P, true.momentum_P)
                return _forged(kind, state, packed(Record(true.round)), state_root(true))
            case "older":
                old = self._chance.choice(self._true)
                return _forged(kind, SharedState(true.round + ahead, old.anchor_P, old.momentum_P))
            case "ahead":
                changed_P = true.anchor_P + 0.1 * self._noise(true.anchor_P.numel())
                return _forged(kind, SharedState(true.round + ahead, changed_P, true.momentum_P))
            case "nan":
                nan_P = torch.full_like(true.anchor_P, float("nan"))
                return _forged(kind, SharedState(true.round + ahead, nan_P, true.momentum_P))
        return Forgery("nobody", true.round + ahead, self._chance.randbytes(32))

    def _forge_record(self, true: SharedState) -> Forgery:
        """A record of an average that the liar has made up, and the state after it."""
        learner = self._know_arithmetic()
        spec = self._manifest.round
        fragment = learner.fragment(true.round)
        (whole,) = shaped([Part(0, 0, fragment.numbers, NO_OWNER)], fragment.tensors)
        average_N = self._chance.choice((0.01, 1.0)) * self._noise(fragment.numbers)
        members = [self._me] if self._chance.random() < 0.5 else sorted(self._everybody)
        items: tuple[bytes, ...]
        if spec.exchange is Exchange.GATHER:
            (update,) = EncodeUpdate(average_N, whole, spec.codec, weight=1000).run()
            items = tuple(bytes(update.payload) if member == self._me else b"" for member in members)
        else:
            encoded = encode_part(average_N, whole, result_codec(spec.codec))
            head = bits([True] * len(members)) + self._chance.randbytes(32)
            items = (head + bytes(encoded.payload),)
        record = Record(
            round=true.round,
            members=tuple(digest_of(member) for member in members),
            population=len(members),
            tokens=1000 * len(members),
            stops=(fragment.numbers,),
            items=items,
        )
        shape = UpdateShape(spec=spec, tensors=learner.tensors)
        state = learner.state_after(true, ReplayRecord(record, shape).run())
        return _forged("record", state, packed(record), state_root(true))

    def _know_arithmetic(self) -> Learner:
        """The liar computes outer steps as everybody does."""
        if self._learner is None:
            self._learner = Learner(self._manifest, self._corpus, self._me)
        return self._learner

    def _noise(self, numbers: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._chance.getrandbits(63))
        return torch.randn(numbers, generator=generator)


def _forged(kind: str, state: SharedState, record: bytes = b"", parent: bytes = b"") -> Forgery:
    return Forgery(kind, state.round, state_root(state), state, record, parent)
