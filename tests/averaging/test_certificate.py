"""Certificates: what holds, what does not, and how large they are."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.assembly import LISTED
from averaging.certificate import (
    DecisionCertificate,
    Electorate,
    by_seat,
    open_decision,
    open_group,
    packed,
    seated_by,
    unpacked_decision,
    unpacked_group,
    vote_frames,
)
from averaging.hierarchy import Hierarchy
from averaging.messages import Ballot, Decline, DeclineReason, Ready, Vote
from swarm.errors import TheirFault
from swarm.identity import KeyPair
from swarm.wire import (
    CONTROL_LIMIT,
    LEVEL_2,
    NO_GROUP,
    Message,
    Signed,
    Stamp,
    level_of,
    open_frame,
    seal,
)
from tests.certificates import Company, signed

RUN = bytes(range(32))
KEYS = [KeyPair.from_seed(bytes([number, 7]) * 16) for number in range(LISTED)]
FIVE = Company(run=RUN, keys=KEYS[:5], round=3)
HASHES = (bytes([1]) * 32, b"", bytes([3]) * 32)
GROUP = FIVE.group_certificate()
DECISION = FIVE.decision(HASHES)
ANOTHER_GROUP = bytes([5]) * 16
OTHER_VOTES = by_seat(
    FIVE.seated.group.members, [signed(key, Vote(), RUN, 3, ANOTHER_GROUP) for key in FIVE.keys]
)
"""The members' votes for another group."""
OTHER_BALLOTS = by_seat(
    FIVE.seated.group.members, [signed(key, Ballot(HASHES), RUN, 3, ANOTHER_GROUP) for key in FIVE.keys]
)
"""Their ballots for the same items, cast in another group."""


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
        {"votes": OTHER_VOTES},
        {"votes": DECISION.ballots},
        {"ready": GROUP.ready[:4], "votes": GROUP.votes[:4]},
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
        "votes for another group",
        "ballots instead of votes",
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
    changed = msgspec.structs.replace(GROUP, **changes)
    with pytest.raises(TheirFault):
        open_group(changed, RUN)
    if len(changed.ready) == len(GROUP.ready):
        with pytest.raises(TheirFault):
            open_decision(msgspec.structs.replace(DECISION, group=changed), RUN)


@pytest.mark.parametrize(
    "changes",
    [
        {"hashes": HASHES[:2]},
        {"hashes": ()},
        {"hashes": (bytes([9]) * 32, *HASHES[1:])},
        {"ballots": DECISION.ballots[:3]},
        {"ballots": (DECISION.ballots[0],) * 5},
        {"ballots": GROUP.votes},
        {"ballots": OTHER_BALLOTS},
    ],
    ids=[
        "an item less",
        "no items",
        "another item",
        "too few ballots",
        "one ballot five times",
        "votes instead of ballots",
        "ballots of another group",
    ],
)
def test_a_decision_in_which_anything_is_changed_does_not_hold(changes: dict[str, object]) -> None:
    with pytest.raises(TheirFault):
        open_decision(msgspec.structs.replace(DECISION, **changes), RUN)


def test_a_member_that_has_signed_twice_counts_once() -> None:
    """A list of votes has one place for each seat; nothing is gained by filling it twice."""
    votes = (*GROUP.votes[:3], GROUP.votes[0], GROUP.votes[1])
    with pytest.raises(TheirFault):
        open_group(msgspec.structs.replace(GROUP, votes=votes), RUN)
    votes = (*GROUP.votes[:4], GROUP.votes[0])
    formed = open_group(msgspec.structs.replace(GROUP, votes=votes), RUN)
    assert len(formed.voters) == 4


@given(st.binary(max_size=4), st.floats(0, 1, exclude_max=True), st.integers(0, 4))
def test_no_change_of_its_bytes_makes_a_certificate_of_another_group_or_decision(
    inserted: bytes, place: float, removed: int
) -> None:
    """The bytes are signed but for their packing: a change is refused, or says the same."""
    for raw in (packed(GROUP), packed(DECISION)):
        at = int(place * len(raw))
        changed = raw[:at] + inserted + raw[at + removed :]
        try:
            if raw == packed(GROUP):
                assert unpacked_group(changed, RUN).group == FIVE.seated.group
            else:
                decision = unpacked_decision(changed, RUN)
                assert (decision.group, decision.hashes) == (FIVE.seated.group, HASHES)
        except TheirFault:
            continue


@given(st.binary(max_size=200))
def test_noise_is_no_certificate(noise: bytes) -> None:
    for unpacked in (unpacked_group, unpacked_decision):
        with pytest.raises(TheirFault):
            unpacked(noise, RUN)


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


LEVEL2 = Company(run=RUN, keys=KEYS[:3], round=3, peers=16, level1_groups=4)
"""The representatives of three of four level-1 groups."""


def test_the_certificate_of_a_level2_group_tells_for_whom_its_members_stand() -> None:
    formed = unpacked_group(packed(LEVEL2.group_certificate()), RUN)
    assert level_of(formed.group.id) == LEVEL_2
    assert formed.seated.level1_groups == 4
    assert formed.group.population == 4 * 16, "the absent group is taken to have the mean size"
    assert unpacked_decision(packed(LEVEL2.decision(HASHES)), RUN).group == formed.group


@pytest.mark.parametrize("level1_groups", [0, 2, 3, 5])
def test_a_level2_certificate_for_another_number_of_level1_groups_does_not_hold(level1_groups: int) -> None:
    """The members' votes name a group whose population follows from that number."""
    changed = msgspec.structs.replace(LEVEL2.group_certificate(), level1_groups=level1_groups)
    with pytest.raises(TheirFault):
        open_group(changed, RUN)


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


def signed_late(key: KeyPair, message: Message, group: bytes = NO_GROUP) -> Signed[Message]:
    """``message`` as the millionth that ``key`` signs: numbers take more bytes the larger they are."""
    return open_frame(seal(key, message, Stamp(RUN, 3, group, 10**6)), type(message), run=RUN)


def decision_of(members: int, signers: int, unseated: int = 0) -> DecisionCertificate:
    """So many ``signers`` of the members have voted, and everybody claims more than a fast machine can do."""
    ready = Ready(FIVE.root, uplink=10**6, tokens=10**8, parent=bytes([255]) * 16)
    frames = [signed_late(key, ready).raw for key in KEYS[: members + unseated]]
    seated = seated_by(frames[:members], frames[members:], RUN)
    group = seated.group
    ballot = Ballot(tuple(bytes([number]) * 32 for number in range(min(members, 16))))
    votes = [signed_late(key, Vote(), group.id) for key in KEYS[:signers]]
    ballots = [signed_late(key, ballot, group.id) for key in KEYS[:signers]]
    certificate = seated.certificate(cast("list[Signed[Vote]]", votes))
    return DecisionCertificate(certificate, ballot.hashes, by_seat(group.members, ballots))


@pytest.mark.parametrize(
    ("members", "signers", "kilobytes"),
    [(4, 3, 1.5), (16, 11, 6), (64, 43, 22), (64, 64, 25)],
    ids=["four", "sixteen", "64 by two thirds", "64 by all"],
)
def test_certificates_stay_small(members: int, signers: int, kilobytes: float) -> None:
    """Members finish with the votes and ballots of two thirds, so there are seldom many more in it."""
    certificate = decision_of(members, signers)
    assert len(open_decision(certificate, RUN).formed.voters) == signers
    assert len(packed(certificate)) <= 1000 * kilobytes


def test_the_certificate_of_the_longest_list_fits_into_the_message_that_turns_a_peer_away() -> None:
    raw = packed(decision_of(64, 64, LISTED - 64).group)
    decline = signed_late(KEYS[0], Decline(3, "come with the next", DeclineReason.FORMED, raw))
    assert len(decline.raw) <= CONTROL_LIMIT
