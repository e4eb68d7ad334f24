"""Certificates: what holds, what does not, and how large they are."""

from __future__ import annotations

import msgspec
import pytest

from averaging.certificate import (
    DecisionCertificate,
    Electorate,
    GroupCertificate,
    open_decision,
    open_group,
    packed,
    seated_by,
    unpacked_decision,
    unpacked_group,
    vote_frames,
)
from averaging.hierarchy import Hierarchy
from averaging.messages import Ready
from swarm.errors import TheirFault
from swarm.identity import KeyPair
from swarm.wire import LEVEL_2
from tests.certificates import Company, signed

RUN = bytes(range(32))
KEYS = [KeyPair.from_seed(bytes([number, 7]) * 16) for number in range(64)]
FIVE = Company(run=RUN, keys=KEYS[:5], round=3)
HASHES = (bytes([1]) * 32, b"", bytes([3]) * 32)
GROUP = FIVE.group_certificate()
DECISION = FIVE.decision(HASHES)


def test_a_certificate_tells_the_group_and_who_has_voted_for_it() -> None:
    formed = unpacked_group(packed(FIVE.group_certificate(KEYS[:4])), RUN)
    assert formed.group == FIVE.seated.group
    assert formed.voters == {key.peer_id for key in KEYS[:4]}
    assert {vote.signer for vote in vote_frames(formed.certificate, RUN)} == formed.voters


def test_a_decision_tells_the_items_and_what_led_to_the_state_after_it() -> None:
    decision = unpacked_decision(packed(DECISION), RUN)
    assert (decision.group, decision.hashes) == (FIVE.seated.group, HASHES)
    assert decision.origin.group_id == FIVE.seated.group.id
    assert decision.origin.members == FIVE.seated.group.members
    assert unpacked_decision(decision.origin.certificate, RUN).hashes == HASHES


def test_a_group_of_one_decides_by_its_vote() -> None:
    alone = Company(run=RUN, keys=KEYS[:1])
    assert open_decision(alone.decision(), RUN).hashes == ()
    with_ballots = DecisionCertificate(alone.group_certificate(), HASHES)
    with pytest.raises(TheirFault):
        open_decision(with_ballots, RUN)


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (7, 5), (9, 7)])
def test_more_than_two_thirds_of_the_members_must_have_signed(count: int, needed: int) -> None:
    company = Company(run=RUN, keys=KEYS[:count])
    assert len(open_group(company.group_certificate(KEYS[:needed]), RUN).voters) == needed
    with pytest.raises(TheirFault):
        open_group(company.group_certificate(KEYS[: needed - 1]), RUN)
    if count > 1:
        with pytest.raises(TheirFault):
            open_decision(company.decision(HASHES, KEYS[: needed - 1]), RUN)


def other(index: int, **changes: object) -> tuple[object, ...]:
    """The votes, one of which is changed."""
    votes = list(GROUP.votes)
    votes[index] = msgspec.structs.replace(votes[index], **changes)
    return tuple(votes)


@pytest.mark.parametrize(
    "changes",
    [
        {"votes": other(0, seat=1)},
        {"votes": other(0, seat=9)},
        {"votes": other(0, seq=2)},
        {"votes": other(0, signature=bytes(64))},
        {"votes": (GROUP.votes[0],) * 5},
        {"votes": ()},
        {"ready": GROUP.ready[:4]},
        {"ready": (*GROUP.ready[:4], GROUP.ready[0])},
        {"ready": (*GROUP.ready[:4], b"noise")},
        {"ready": (*GROUP.ready[:4], signed(KEYS[9], Ready(bytes(32)), RUN, 3).raw)},
        {"ready": (*GROUP.ready[:4], signed(KEYS[9], Ready(FIVE.root), RUN, 4).raw)},
        {"ready": (*GROUP.ready[:4], signed(KEYS[9], Ready(FIVE.root, parent=bytes([1]) * 16), RUN, 3).raw)},
        {"ready": (*GROUP.ready[:4], signed(KEYS[9], Ready(FIVE.root), bytes(32), 3).raw)},
        {"unseated": (GROUP.ready[0],)},
        {"unseated": (signed(KEYS[9], Ready(FIVE.root), RUN, 3).raw,)},
        {"level1_groups": 5},
    ],
    ids=[
        "the signature of another seat",
        "of nobody",
        "another number",
        "no signature",
        "one vote five times",
        "no votes",
        "a member less",
        "a member twice",
        "noise",
        "another model",
        "another round",
        "another parent",
        "another run",
        "a member as a peer without a seat",
        "a peer without a seat that nobody has signed for",
        "another level",
    ],
)
def test_a_certificate_in_which_anything_is_changed_does_not_hold(changes: dict[str, object]) -> None:
    with pytest.raises(TheirFault):
        open_group(msgspec.structs.replace(GROUP, **changes), RUN)
    changed = msgspec.structs.replace(GROUP, **changes)
    with pytest.raises(TheirFault):
        open_decision(msgspec.structs.replace(DECISION, group=changed), RUN)


@pytest.mark.parametrize(
    "changes",
    [
        {"hashes": HASHES[:2]},
        {"hashes": ()},
        {"hashes": (bytes([9]) * 32, *HASHES[1:])},
        {"ballots": DECISION.ballots[:3]},
        {"ballots": GROUP.votes},
    ],
)
def test_a_decision_in_which_anything_is_changed_does_not_hold(changes: dict[str, object]) -> None:
    with pytest.raises(TheirFault):
        open_decision(msgspec.structs.replace(DECISION, **changes), RUN)


def test_a_certificate_holds_in_its_own_run_only() -> None:
    with pytest.raises(TheirFault):
        open_group(GROUP, bytes(32))
    for raw in (b"", b"noise", packed(GROUP)[:-1]):
        with pytest.raises(TheirFault):
            unpacked_group(raw, RUN)


def test_a_level2_group_has_no_more_members_than_there_are_level1_groups() -> None:
    ready = [signed(key, Ready(FIVE.root, peers=16), RUN, 3, LEVEL_2).raw for key in KEYS[:3]]
    assert seated_by(ready, (), RUN, 3).level1_groups == 3
    for count in (0, 2):
        with pytest.raises(TheirFault):
            seated_by(ready, (), RUN, count)


def test_of_the_voters_only_those_of_the_last_average_count_or_one_of_each_level1_group() -> None:
    a, b, c, d = (key.peer_id for key in KEYS[:4])
    electorate = Electorate(members=frozenset({a, b, c}), needed=1, floor=2)
    assert electorate.elects({a, d})
    assert not electorate.elects({d})
    assert electorate.believes({a, b, d})
    assert not electorate.believes({a, d})
    hierarchy = Hierarchy(RUN, 0, 2)
    one = [key.peer_id for key in KEYS if hierarchy.group_index(key.peer_id) == 0]
    level2 = Electorate(needed=2, floor=2, hierarchy=hierarchy)
    assert not level2.believes(one), "they are all of one level-1 group"
    assert level2.believes([*one[:1], *(key.peer_id for key in KEYS)])


@pytest.mark.parametrize(("members", "kilobytes"), [(4, 2.5), (16, 8), (64, 27)])
def test_certificates_stay_small(members: int, kilobytes: float) -> None:
    company = Company(run=RUN, keys=KEYS[:members], tokens=10**5)
    hashes = tuple(bytes([number]) * 32 for number in range(min(members, 16)))
    enough = KEYS[: company.seated.group.quorum]
    decision = company.decision(hashes, enough)
    group: GroupCertificate = company.group_certificate(enough)
    size = len(packed(msgspec.structs.replace(decision, group=group)))
    assert size <= 1000 * kilobytes
