"""Evidence: what convicts a peer, and what an honest one may send."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from averaging.certificate import packed
from averaging.evidence import Evidence, Watch, culprit
from averaging.messages import Ballot, Commit, Decline, DeclineReason, Holdings, Ready, Vote
from swarm.errors import TheirFault
from swarm.identity import KeyPair
from swarm.manifest import Codec
from swarm.wire import LEVEL_2, Message, Signed, Stamp, frame_from, open_frame, seal
from tests.certificates import Company

RUN = bytes(range(32))
LIAR, OTHER, THIRD = (KeyPair.from_seed(bytes([number, 9]) * 16) for number in range(3))
ONE = bytes([1]) * 16
TWO = bytes([2]) * 16
UP = LEVEL_2[:1] + bytes(15)


def frame(
    message: Message, group: bytes, key: KeyPair = LIAR, round_: int = 3, seq: int = 1
) -> Signed[Message]:
    raw = seal(key, message, Stamp(RUN, round_, group, seq))
    return open_frame(raw, type(message), run=RUN)


def commit(weight: int) -> Commit:
    return Commit((bytes(32),), (1.0,), weight, bytes(32), bytes(32), Codec.INT8)


LIES = [
    (frame(Vote(), ONE), frame(Vote(), TWO)),
    (frame(commit(1), ONE), frame(commit(2), ONE, seq=2)),
    (frame(Holdings((bytes(32),)), ONE), frame(Holdings((b"",)), ONE)),
    (frame(Ballot((bytes(32),)), ONE), frame(Ballot((b"",)), ONE)),
]
HONEST = [
    (frame(Vote(), ONE), frame(Vote(), ONE, seq=9)),
    (frame(Vote(), ONE), frame(Vote(), TWO, round_=4)),
    (frame(Vote(), ONE), frame(Vote(), UP)),
    (frame(Vote(), ONE), frame(Vote(), TWO, key=OTHER)),
    (frame(commit(1), ONE), frame(commit(2), TWO)),
    (frame(commit(1), ONE), frame(commit(1), ONE, seq=9)),
    (frame(commit(1), ONE), frame(Ballot((b"",)), ONE)),
]
IDS = [
    "the same vote again",
    "another round",
    "another level",
    "another peer",
    "another group",
    "again",
    "kinds",
]


@pytest.mark.parametrize(("first", "second"), LIES, ids=["votes", "commits", "holdings", "ballots"])
def test_two_different_frames_where_an_honest_peer_sends_one_convict_it(
    first: Signed[Message], second: Signed[Message]
) -> None:
    assert culprit(Evidence(first.raw, second.raw), RUN) == LIAR.peer_id
    watch = Watch(RUN)
    assert watch.see(first) == []
    assert watch.see(second) == [Evidence(first.raw, second.raw)]


@pytest.mark.parametrize(("first", "second"), HONEST, ids=IDS)
def test_what_an_honest_peer_may_send_convicts_nobody(
    first: Signed[Message], second: Signed[Message]
) -> None:
    with pytest.raises(TheirFault):
        culprit(Evidence(first.raw, second.raw), RUN)
    watch = Watch(RUN)
    assert watch.see(first) == watch.see(second) == []


def test_evidence_is_two_genuine_frames_of_this_run() -> None:
    first, second = LIES[0]
    for evidence, run in [
        (Evidence(first.raw, second.raw[:-1] + b"x"), RUN),
        (Evidence(b"", second.raw), RUN),
        (Evidence(frame(Ready(bytes(32)), ONE).raw, second.raw), RUN),
        (Evidence(first.raw, second.raw), bytes(32)),
    ]:
        with pytest.raises(TheirFault):
            culprit(evidence, run)


def test_a_vote_in_a_certificate_is_compared_with_one_that_came_by_itself() -> None:
    """The two groups of a liar never meet, but a member of one is shown the certificate of the other."""
    company = Company(run=RUN, keys=[LIAR, OTHER, THIRD], round=3)
    proof = Decline(3, "come again", DeclineReason.FORMED, packed(company.group_certificate()))
    watch = Watch(RUN)
    watch.see(frame(Vote(), ONE))
    (evidence,) = watch.see(frame(proof, bytes(16), key=OTHER))
    assert culprit(evidence, RUN) == LIAR.peer_id
    noise = Decline(3, "come again", DeclineReason.FORMED, b"noise")
    assert watch.see(frame(noise, bytes(16), key=OTHER)) == []


def test_a_certificate_that_does_not_hold_convicts_nobody() -> None:
    """Whoever passes it on may have made it up."""
    company = Company(run=RUN, keys=[LIAR, OTHER, THIRD], round=3)
    honest = company.group_certificate()
    changed = replace(honest.votes[0], seq=99)
    watch = Watch(RUN)
    watch.see(frame(Vote(), ONE))
    for votes in ((changed, *honest.votes[1:]), (replace(honest.votes[0], seat=2),)):
        proof = packed(replace(honest, votes=votes))
        decline = Decline(3, "come again", DeclineReason.FORMED, proof)
        assert watch.see(frame(decline, bytes(16), key=OTHER)) == []


def test_the_ballot_of_a_decision_convicts_a_member_that_has_cast_another_one() -> None:
    """A decision is public: everybody can take the ballots out of its certificate."""
    company = Company(run=RUN, keys=[LIAR, OTHER, THIRD], round=3)
    group = company.seated.group
    decision = company.decision((bytes([1]) * 32,))
    seat = group.members.index(LIAR.peer_id)
    (signature,) = (each for each in decision.ballots if each.seat == seat)
    stamp = Stamp(RUN, 3, group.id, signature.seq)
    cast = frame_from(Ballot(decision.hashes), stamp, LIAR.public, signature.signature)
    other = frame(Ballot((b"",)), group.id)
    assert culprit(Evidence(cast, other.raw), RUN) == LIAR.peer_id
