"""Bans: peers that have been shown to lie, by evidence that everybody can check (`averaging.evidence`).

two frames of one peer  ──►  evidence  ──►  kept on disk, told to the others; the peer has no part any more

evidence / Frames   compare these with what you have heard (empty: what do you know?)  ──►  evidence
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from averaging.evidence import KINDS, LIMIT, Evidence, Watch, culprit
from swarm.asking import ask_all
from swarm.bounded import LeastRecentlyUsed
from swarm.errors import TheirFault
from swarm.identity import PeerId
from swarm.transport import Allowance, Call, Payload, Request, Route, Transport
from swarm.wire import Message, Signed, open_frame, pack, unpack

KEPT = 256
"""Peers whose evidence is kept."""
TOLD_AT_ONCE = 8
"""Pieces of evidence in one answer, at most ..."""
ANSWER_BYTES = 1 << 18
"""... and bytes of it."""
ASKED = 3
"""Peers that a newcomer asks."""
COMPARED_WITH = 3
"""Members to which we tell what we have heard of a group without a decision: one of them is honest."""
FRAMES = 256
"""Most frames that we tell, and that we check for another peer at a time."""
PATIENCE = 5.0
"""Seconds that telling or asking the others may take."""


class Collection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Several pieces of evidence."""

    pieces: tuple[Evidence, ...] = ()


class Frames(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Frames as their signers have sent them: two that are evidence, or all that were heard in a group."""

    frames: tuple[bytes, ...]


class Bans:
    """What one peer knows of liars."""

    def __init__(self, run: bytes, transport: Transport, file: Path | None) -> None:
        """``file`` keeps the evidence from one start to the next; None keeps nothing."""
        self._run = run
        self._transport = transport
        self._file = file
        self._watch = Watch(run)
        self._evidence: LeastRecentlyUsed[PeerId, Evidence] = LeastRecentlyUsed(KEPT)
        self._subscribers: list[Callable[[PeerId], object]] = []
        self._is_closed = False
        transport.serve(Route("evidence", self._on_evidence, _admit))

    def is_banned(self, peer: PeerId) -> bool:
        """Whether ``peer`` has been shown to lie."""
        return peer in self._evidence

    def subscribe(self, subscriber: Callable[[PeerId], object]) -> None:
        """Have ``subscriber`` called with every peer that is shown to lie, once."""
        self._subscribers.append(subscriber)

    def observe(self, signed: Signed[Message]) -> None:
        """Compare a message with those before it."""
        for evidence in self._watch.see(signed):
            self._learn(evidence)

    async def ask(self, peers: Sequence[PeerId]) -> None:
        """Learn what some of ``peers`` know: for a newcomer."""
        deadline = asyncio.get_running_loop().time() + PATIENCE

        async def ask(peer: PeerId) -> None:
            request = Request("evidence", limit=ANSWER_BYTES + 64)
            self._learn_all(await self._transport.request(peer, request, deadline=deadline))

        await ask_all(peers[:ASKED], ask, deadline=deadline)

    async def _on_evidence(self, call: Call) -> Payload:
        if call.body:
            self._compare(unpack(call.body, Frames).frames)
            return b""
        pieces: list[Evidence] = []
        size = 0
        for evidence in list(self._evidence.values())[-TOLD_AT_ONCE:]:
            size += len(evidence.first) + len(evidence.second)
            if size <= ANSWER_BYTES:
                pieces.append(evidence)
        return pack(Collection(tuple(pieces)))

    def _compare(self, frames: Sequence[bytes]) -> None:
        """Compare what another peer has heard with what we have. Raises `TheirFault` for what is no frame."""
        for raw in frames[:FRAMES]:
            self.observe(open_frame(raw, *KINDS, run=self._run))

    def _learn_all(self, raw: bytes) -> None:
        for evidence in unpack(raw, Collection).pieces:
            self._learn(evidence)

    def _learn(self, evidence: Evidence) -> None:
        """Keep and pass on evidence against a peer of which we had none. Raises `TheirFault` if it convicts
        nobody."""
        peer = culprit(evidence, self._run)
        if peer in self._evidence or peer == self._transport.me:
            return
        self._evidence[peer] = evidence
        self._save()
        for subscriber in self._subscribers:
            subscriber(peer)

    def pass_on(self, about: PeerId, others: Sequence[PeerId], tasks: asyncio.TaskGroup) -> None:
        """Tell ``others`` what we have against a peer, in a task of ``tasks``."""
        evidence = self._evidence[about]
        if not self._is_closed:
            telling = self._tell((evidence.first, evidence.second), others)
            tasks.create_task(telling, name="tell evidence")

    async def compare_notes(self, group: bytes, others: Sequence[PeerId]) -> None:
        """Tell some of the ``others`` in a group that came to no decision what we have heard in it.

        If a member has told us something else than them, one of us two sees it now.
        """
        await self._tell(self._watch.heard_in(group)[:FRAMES], others[:COMPARED_WITH])

    def close(self) -> None:
        """From now on nobody is told anything: the tasks' owner is about to end."""
        self._is_closed = True

    async def _tell(self, frames: tuple[bytes, ...], others: Sequence[PeerId]) -> None:
        """A peer that is not told now hears of it from the others, or sees for itself."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        raw = pack(Frames(frames))

        async def tell(peer: PeerId) -> None:
            await self._transport.request(peer, Request("evidence", raw, limit=0), deadline=deadline)

        await ask_all(others, tell, deadline=deadline)

    def load(self) -> None:
        """Read what the process before has kept. A file that does not hold is as good as none."""
        if self._file is None or not self._file.exists():
            return
        with contextlib.suppress(TheirFault, OSError):
            for evidence in unpack(self._file.read_bytes(), Collection).pieces:
                self._learn(evidence)

    def _save(self) -> None:
        """Evidence is rare, and small."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_bytes(pack(Collection(tuple(self._evidence.values()))))


def _admit(sender: PeerId, argument: str) -> Allowance:
    return Allowance(at_most=LIMIT)
