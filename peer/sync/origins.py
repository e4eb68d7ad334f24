"""The certificates of the decisions that led to states: asked for, checked once, kept and passed on.

    origin / ID of a group  ──►  its `DecisionCertificate`, packed

A head names the group that led to its state (its parent). A peer that does not know this group asks a peer
that has named it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from averaging.certificate import CertifiedDecision, unpacked_decision
from swarm.asking import ask_all
from swarm.bounded import LeastRecentlyUsed
from swarm.errors import Malformed, Refused
from swarm.identity import PeerId
from swarm.manifest import RunManifest
from swarm.transport import Call, Payload, Request, Route, Transport
from swarm.wire import NO_GROUP, Signed

from ..network.membership import GREETING_SECONDS
from ..training.state import SharedState
from .head import Claim, Head
from .position import Position

KEPT = 64
"""Certificates, always with that of our own state."""
ASKED_FOR = 4
"""Groups that we ask for at a time, those that most heads name: liars may name any number."""
ASKED = 3
"""Peers that we ask for one certificate, at once."""
LIMIT = 128 * 1024
"""Bytes of the largest certificate."""


class Origins:
    """The certificates that one peer knows."""

    def __init__(self, manifest: RunManifest, transport: Transport) -> None:
        self._run = manifest.run_id
        self._transport = transport
        self._known: LeastRecentlyUsed[bytes, tuple[CertifiedDecision, bytes]] = LeastRecentlyUsed(KEPT)
        """By the id of the group: the decision, and the bytes that we pass on."""
        self._own = NO_GROUP
        """The id of the group that led to our own state."""
        transport.serve(Route("origin", self._on_origin))

    def observe(self, position: Position, state: SharedState) -> None:
        """Keep the certificate of our own state."""
        origin = position.origin
        if origin and origin.group_id not in self._known:
            self._keep(origin.group_id, origin.certificate)
        self._own = position.parent

    async def claims(self, heads: Sequence[Signed[Head]], deadline: float) -> list[Claim]:
        """``heads`` with the decisions that led to their states; unknown ones are asked for."""
        named = Counter(signed.message.parent for signed in heads if self._is_unknown(signed))
        wanted: dict[PeerId, bytes] = {}
        for group_id, _ in named.most_common(ASKED_FOR):
            askable = [signed.signer for signed in heads if signed.message.parent == group_id]
            wanted.update(dict.fromkeys(askable[:ASKED], group_id))
        await self._learn(wanted, deadline)
        return [self.claim(signed) for signed in heads]

    def claim(self, signed: Signed[Head]) -> Claim:
        """A head with the decision that led to its state, if we know it."""
        known = self._known.get(signed.message.parent)
        return Claim(signed, known[0] if known else None)

    def _is_unknown(self, signed: Signed[Head]) -> bool:
        parent = signed.message.parent
        return parent != NO_GROUP and parent not in self._known

    async def _learn(self, wanted: Mapping[PeerId, bytes], deadline: float) -> None:
        """Ask peers for the certificates of the groups that they have named, all of them at once.

        A peer that has none, shows a false one or never answers keeps nobody's certificate from us.
        """

        async def ask(peer: PeerId) -> None:
            group_id = wanted[peer]
            request = Request("origin", argument=group_id.hex(), limit=LIMIT)
            raw = bytes(await self._transport.request(peer, request, deadline=deadline))
            if group_id not in self._known:
                self._keep(group_id, raw)

        await ask_all(wanted, ask, hurry=GREETING_SECONDS)

    def _keep(self, group_id: bytes, raw: bytes) -> None:
        """Check a certificate and keep it. Raises `TheirFault` for one that is not of this group."""
        decision = unpacked_decision(raw, self._run)
        if decision.group.id != group_id:
            raise Malformed("the certificate is of another group")
        self._known[group_id] = decision, raw
        if self._own in self._known:
            self._known.touch(self._own)  # however many others are shown to us, ours is not the oldest

    async def _on_origin(self, call: Call) -> Payload:
        try:
            group_id = bytes.fromhex(call.argument)
        except ValueError as error:
            raise Malformed("that is no group") from error
        if group_id not in self._known:
            raise Refused("the certificate of that group is not here")
        return self._known[group_id][1]
