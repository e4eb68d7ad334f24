"""Asking and answering where the run stands.

offer / (nothing)   ──►  our head, signed: round, state root, tokens, population

(The route is called ``offer`` on the wire: a peer that tells its head also offers the state.)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from swarm.errors import Impostor, Refused
from swarm.identity import KeyPair, PeerId
from swarm.manifest import RunManifest
from swarm.transport import Call, Payload, Request, Route, Transport
from swarm.wire import Signed, Stamp, open_frame, seal

from ..network.membership import GREETING_SECONDS, MANY, Membership
from .activity import Activity
from .head import ChosenHead, Claim, Head, fork_choice, open_head
from .origins import Origins
from .position import PositionTracker
from .trusted_head import TrustedHeads

SCOUTS = 2
"""Peers that are asked in a large population whether there is anything new, before more are."""


class HeadExchange:
    """The heads of one peer and of the others."""

    def __init__(
        self,
        manifest: RunManifest,
        key: KeyPair,
        transport: Transport,
        membership: Membership,
        position: PositionTracker,
        activity: Activity,
    ) -> None:
        self._manifest = manifest
        self._key = key
        self._transport = transport
        self._membership = membership
        self._position = position
        self._activity = activity
        self._sealed: tuple[tuple[int, Head], bytes] | None = None
        """The head that was told last, and its frame: many peers ask for the same."""
        self.trusted = TrustedHeads(manifest, transport)
        self._origins = Origins(manifest, transport)
        position.subscribe(self._origins.observe)
        transport.serve(Route("offer", self._on_head))

    # --- answering ------------------------------------------------------------------------------------------

    async def _on_head(self, call: Call) -> Payload:
        head = self._head()
        if head is None:
            raise Refused("this peer has no state yet")
        told = (self._position.now.round, head)
        if self._sealed is None or self._sealed[0] != told:
            self._sealed = told, self._seal(head)
        return self._sealed[1]

    def _head(self) -> Head | None:
        return self._position.head(self._activity.training_left)

    def _seal(self, head: Head) -> bytes:
        return seal(self._key, head, Stamp(self._manifest.run_id, round=self._position.now.round))

    def sealed(self) -> bytes | None:
        """Our own head as a signed frame; None while we have no state."""
        head = self._head()
        return None if head is None else self._seal(head)

    def own(self) -> Signed[Head] | None:
        """Our own head, signed; None while we have no state."""
        frame = self.sealed()
        return None if frame is None else open_frame(frame, Head, run=self._manifest.run_id)

    # --- asking ---------------------------------------------------------------------------------------------

    async def heads(self, deadline: float, peers: Sequence[PeerId] = ()) -> list[Signed[Head]]:
        """The heads of ``peers``, or of some of the present peers."""

        async def ask(peer: PeerId) -> Signed[Head]:
            raw = await self._transport.request(peer, Request("offer"), deadline=deadline)
            signed = open_head(raw, self._manifest)
            if signed.signer != peer:
                raise Impostor("a head counts for its signer only")
            return signed

        return await self._membership.ask(peers or self._membership.some(), ask, GREETING_SECONDS)

    async def choose(self, deadline: float, without: Collection[bytes] = ()) -> tuple[ChosenHead | None, int]:
        """(the head of the run, how many other peers answered). Our own head counts as one claim.

        Ignore peers at a state that we have already passed, and the states ``without``: they could not be
        had. A peer without a state, or with one that it merely downloaded, is a newcomer: while the others
        are few it takes the trusted head into account.
        """
        own = self.own()
        answers = await self.heads(deadline)
        heads = [head for head in self.not_passed(answers) if head.message.state_root not in without]
        if own:
            heads.append(own)
        claims = await self.claims(heads, deadline)
        if own is None or not self._position.now.is_participant:
            return await self.trusted.choose(claims, deadline), len(answers)
        return fork_choice(claims, self._manifest.organiser_id), len(answers)

    async def claims(self, heads: Sequence[Signed[Head]], deadline: float) -> list[Claim]:
        """``heads`` with the certified decisions that led to their states."""
        return await self._origins.claims(heads, deadline)

    async def is_news(self, deadline: float) -> bool:
        """Whether it is worth asking for the run's head: in a small run always, in a large one if one of a
        few says so."""
        membership = self._membership
        own = self.own()
        if own is None or len(membership.roster) <= MANY:
            return True
        heads = await self.heads(deadline, membership.some(SCOUTS))
        return not heads or any(signed.stamp.round > own.stamp.round for signed in heads)

    def not_passed(self, heads: Collection[Signed[Head]]) -> list[Signed[Head]]:
        """Those of ``heads`` whose state we have not passed."""
        return [signed for signed in heads if not self._is_passed(signed)]

    def _is_passed(self, signed: Signed[Head]) -> bool:
        return signed.message.state_root in self._position.passed_roots
