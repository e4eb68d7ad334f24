"""Six peers, their signed messages, and the assemblies that they start, for tests of `averaging.assembly`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from averaging import groups
from averaging.assembly import Assembled, Assembly
from averaging.assembly_plan import AssemblyPlan
from averaging.certificate import EVERYBODY, Electorate, GroupCertificate, open_group, packed, seated_by
from averaging.groups import Group
from averaging.messages import Decline, DeclineReason, Proposal, Ready, Vote
from averaging.terms import GroupTerms
from swarm.identity import KeyPair, PeerId
from swarm.machine import Finish, Received, Send
from swarm.wire import Message, Signed, Stamp, open_frame, seal

RUN = bytes(32)
ROOT = bytes([7]) * 32
OTHER = bytes([8]) * 32
"""The state root of another model."""
ROUND = 5
CLOSE = 10.0
PATIENCE = 4.0
END = CLOSE + 2 * PATIENCE
KEYS = {key.peer_id: key for key in (KeyPair.from_seed(bytes([n]) * 32) for n in range(6))}
A, B, C, D, E, F = groups.leaders(RUN, ROUND, ROOT, KEYS)
"""In the order in which they lead, which is not that of their ids."""


def sent(
    peer: PeerId, message: Message, *, group: bytes = bytes(16), round_: int = ROUND, seq: int = 1
) -> Received:
    """The event that a message of ``peer`` came, signed by it."""
    frame = seal(KEYS[peer], message, Stamp(RUN, round_, group, seq))
    return Received(open_frame(frame, type(message), run=RUN))


def ready(peer: PeerId, root: bytes = ROOT, *, round_: int = ROUND) -> Signed[Ready]:
    """The signed `Ready` of ``peer``."""
    return sent(peer, Ready(root), round_=round_).signed  # type: ignore[return-value]


def comes(peer: PeerId, root: bytes = ROOT) -> Received:
    """The event that ``peer`` says it is ready."""
    return Received(ready(peer, root))


def listed(*members: Signed[Ready], unseated: Sequence[PeerId] = ()) -> Proposal:
    """The proposal that lists these `Ready` frames, in the order of their senders' ids."""
    ordered = sorted(members, key=lambda signed: signed.signer)
    others = tuple(ready(peer).raw for peer in sorted(unseated))
    return Proposal(tuple(signed.raw for signed in ordered), others)


def proposed(*members: PeerId, unseated: Sequence[PeerId] = ()) -> Proposal:
    """The proposal that lists these peers."""
    return listed(*(ready(peer) for peer in members), unseated=unseated)


def group(*members: PeerId, unseated: int = 0) -> Group:
    """The group that follows from `proposed`."""
    return groups.form(RUN, ROUND, members, ROOT, unseated=unseated)


def certificate(*members: PeerId, voters: Sequence[PeerId] = (), root: bytes = ROOT) -> GroupCertificate:
    """The certificate of the group of ``members``, by the votes of ``voters``, or of all of them."""
    proposal = listed(*(ready(peer, root) for peer in members))
    seated = seated_by(proposal.ready, (), RUN)
    voted = [sent(peer, Vote(), group=seated.group.id).signed for peer in voters or members]
    return seated.certificate(voted)  # type: ignore[arg-type]


def formed_without(*members: PeerId, voters: Sequence[PeerId] = (), root: bytes = ROOT) -> Decline:
    """What a member of a group that stands answers a peer that is not in it."""
    raw = packed(certificate(*members, voters=voters, root=root))
    return Decline(ROUND, "come with the next", DeclineReason.FORMED, raw)


def votes(peer: PeerId, *members: PeerId) -> Received:
    """The event that ``peer`` votes for the group of ``members``."""
    return sent(peer, Vote(), group=group(*members).id)


def vote_of(me: PeerId, *members: PeerId) -> Send:
    """Our own vote for the group of ``members``, to the others in it."""
    return Send(others(me, *members), Vote(), group(*members).id)


def others(me: PeerId, *members: PeerId) -> tuple[PeerId, ...]:
    """``members`` without us, in the order of their ids."""
    return tuple(sorted(set(members) - {me}))


def terms_for(expected: Sequence[PeerId] = (A, B, C, D)) -> GroupTerms:
    """Any number of peers is enough, and the leader waits until `CLOSE`."""
    return GroupTerms(expected=tuple(expected), close_at=CLOSE)


def plan_for(
    me: PeerId, terms: GroupTerms | None = None, *, root: bytes = ROOT, own: Signed[Ready] | None = None
) -> AssemblyPlan:
    """``own`` is our `Ready`, if it is not the usual one. No leader asks for signs of life."""
    return AssemblyPlan(
        run=RUN,
        ready=own or ready(me, root),
        terms=terms or terms_for(),
        patience=PATIENCE,
        first_look=math.inf,
        group_size=16,
        most_tokens=1000,
        sign_vote=lambda group_id: cast("Signed[Vote]", sent(me, Vote(), group=group_id).signed),
    )


def assembly(
    me: PeerId,
    expected: Sequence[PeerId] = (A, B, C, D),
    *,
    size: int = 16,
    root: bytes = ROOT,
    least: int = 1,
    first_look: float = math.inf,
    electorate: Electorate = EVERYBODY,
) -> Assembly:
    """The machine of ``me``, which expects these peers."""
    terms = replace(terms_for(expected), least=least, electorate=electorate)
    plan = plan_for(me, terms, root=root)
    return Assembly(replace(plan, group_size=size, first_look=first_look))


def standing(finish: object) -> Group:
    """The group with which an assembly has finished."""
    assert isinstance(finish, Finish)
    assert isinstance(finish.outcome, Assembled)
    return finish.outcome.group


def voters(finish: object) -> frozenset[PeerId]:
    """Whose votes prove the group with which an assembly has finished."""
    assert isinstance(finish, Finish)
    assert isinstance(finish.outcome, Assembled)
    return open_group(finish.outcome.certificate, RUN).voters
