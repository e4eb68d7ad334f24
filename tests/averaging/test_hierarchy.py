"""Level-1 groups and representatives: all peers compute the same, few move, one level-2 group is formed."""

from __future__ import annotations

import pytest

from averaging.assembly import Assembly
from averaging.assembly_plan import AssemblyPlan
from averaging.groups import formed
from averaging.hierarchy import LEVEL1_SIZE, REDRAW_ROUNDS, Hierarchy, least
from averaging.messages import Proposal, Ready, Vote
from averaging.terms import GroupTerms
from swarm.identity import KeyPair, PeerId
from swarm.machine import Command, Finish, Received, Send, Woken
from swarm.wire import LEVEL_2, NO_GROUP, Signed, Stamp, level_of, open_frame, seal

RUN = bytes([5]) * 32
ROOT = bytes([7]) * 32
KEYS = {key.peer_id: key for key in (KeyPair.from_seed(bytes([n, 1]) * 16) for n in range(200))}
PEERS = sorted(KEYS)
HIERARCHY = Hierarchy.of(RUN, 3, len(PEERS), 64)


def ready(peer: PeerId, peers: int = 16, level: bytes = LEVEL_2) -> Signed[Ready]:
    """The signed `Ready` of a peer that represents so many ``peers``."""
    frame = seal(KEYS[peer], Ready(ROOT, peers=peers), Stamp(RUN, 3, level))
    return open_frame(frame, Ready, run=RUN)


@pytest.mark.parametrize(
    ("population", "count"), [(1, 1), (48, 1), (49, 4), (64, 4), (96, 8), (300, 16), (1000, 64), (5000, 64)]
)
def test_a_small_population_is_one_group_and_a_large_one_has_groups_of_about_sixteen(
    population: int, count: int
) -> None:
    assert Hierarchy.of(RUN, 3, population, 64).count == count


@pytest.mark.parametrize("seats", [1, 2, 9, 36, 256])
@pytest.mark.parametrize("population", [1, 10, 100, 1000, 1 << 20])
def test_the_level2_group_has_a_seat_for_every_level1_group(population: int, seats: int) -> None:
    assert 1 <= Hierarchy.of(RUN, 0, population, seats).count <= seats


def test_level1_groups_cover_every_peer_once_and_none_is_far_from_its_size() -> None:
    sizes = [sum(HIERARCHY.group_index(peer) == index for peer in PEERS) for index in range(HIERARCHY.count)]
    assert sum(sizes) == len(PEERS)
    assert LEVEL1_SIZE / 3 < min(sizes) <= max(sizes) < 3 * LEVEL1_SIZE
    me = PEERS[0]
    assert HIERARCHY.group_mates(me, PEERS) == [
        peer for peer in PEERS if peer != me and HIERARCHY.group_index(peer) == HIERARCHY.group_index(me)
    ]


def test_a_representative_belongs_to_its_group_and_is_the_same_for_all_that_know_it() -> None:
    representatives = HIERARCHY.representatives(PEERS)
    indices = {HIERARCHY.group_index(peer) for peer in representatives}
    assert len(indices) == len(representatives) == HIERARCHY.count
    for representative in representatives:
        members = [representative, *HIERARCHY.group_mates(representative, PEERS)]
        assert HIERARCHY.representative(members) == representative
        assert HIERARCHY.representatives(reversed(members)) == [representative]


def test_groups_stay_for_some_rounds_and_few_peers_move_if_the_population_doubles() -> None:
    first, last, redrawn = (
        Hierarchy.of(RUN, round_, 200, 64) for round_ in (0, REDRAW_ROUNDS - 1, REDRAW_ROUNDS)
    )
    assert first == last != redrawn
    wider = Hierarchy.of(RUN, 0, 400, 64)
    assert wider.count == 2 * first.count
    assert all(wider.group_index(peer) % first.count == first.group_index(peer) for peer in PEERS)


def test_more_than_two_thirds_form_a_group_then_half_and_after_every_missed_round_half_as_many() -> None:
    assert [least(population) for population in (1, 2, 3, 4, 5, 16)] == [1, 2, 3, 3, 4, 11]
    assert [least(16, missed) for missed in range(6)] == [11, 8, 4, 2, 1, 0]


# --- the level-2 group --------------------------------------------------------------------------------------


def level2(me: PeerId, expected: list[PeerId], least: int = 1) -> Assembly:
    """The assembly of the level-2 group, as representative ``me`` sees it."""
    others = tuple(peer for peer in expected if peer != me)
    plan = AssemblyPlan(
        run=RUN,
        ready=ready(me),
        terms=GroupTerms(expected=others, close_at=10.0, least=least),
        patience=5.0,
        first_look=0.3,
        group_size=64,
        most_tokens=1000,
        sign_vote=lambda group_id: open_frame(seal(KEYS[me], Vote(), Stamp(RUN, 3, group_id)), Vote, run=RUN),
        hierarchy=HIERARCHY,
    )
    return Assembly(plan)


def messages(commands: list[Command], form: type) -> list[object]:
    return [
        command.message
        for command in commands
        if isinstance(command, Send) and isinstance(command.message, form)
    ]


def two_groups() -> tuple[PeerId, PeerId, PeerId]:
    """The representatives of two level-1 groups, and another member of the first group."""
    one, other = HIERARCHY.representatives(PEERS)[:2]
    return one, other, HIERARCHY.group_mates(one, PEERS)[0]


def answers(machine: Assembly, proposer: PeerId, *members: Signed[Ready]) -> list[Command]:
    """What the machine does when ``proposer`` lists these members."""
    list(machine.start(0))
    proposal = Proposal(tuple(member.raw for member in members))
    frame = open_frame(seal(KEYS[proposer], proposal, Stamp(RUN, 3, LEVEL_2)), Proposal, run=RUN)
    list(machine.handle(Received(frame), 1))
    return [command for now in (1, 10, 12) for command in machine.handle(Woken(), now)]


def test_nobody_votes_for_a_level2_group_with_two_members_of_one_level1_group() -> None:
    one, other, second = two_groups()
    expected = [one, other, second]
    assert messages(answers(level2(other, expected), one, ready(one), ready(other)), Vote)
    crowded = answers(level2(other, expected), one, ready(one), ready(other), ready(second))
    assert not messages(crowded, Vote)


def test_a_ready_frame_of_a_level1_group_does_not_count_in_the_level2_group() -> None:
    one, other, _ = two_groups()
    told = answers(level2(other, [one, other]), one, ready(one, 1, NO_GROUP), ready(other))
    assert not messages(told, Vote)


def test_the_id_of_a_group_tells_its_level_and_its_population_is_that_of_all_its_level1_groups() -> None:
    representatives = HIERARCHY.representatives(PEERS)[:3]
    group = formed(RUN, [ready(peer, 10 + n) for n, peer in enumerate(representatives)])
    assert level_of(group.id) == LEVEL_2
    assert group.population == 33
    level1 = formed(RUN, [ready(peer, 1, NO_GROUP) for peer in representatives])
    assert level_of(level1.id) == NO_GROUP


def test_of_two_members_of_one_level1_group_the_leader_lists_the_representative() -> None:
    one, other, second = two_groups()
    machine = level2(other, [one, other, second], least=2)
    list(machine.start(0))
    list(machine.handle(Woken(), 0))
    told = [command for peer in (second, one) for command in machine.handle(Received(ready(peer)), 1)]
    for now in (3, 5, 8):  # by then it is every peer's turn to propose
        told += machine.handle(Woken(), now)
    assert not any(isinstance(command, Finish) for command in told)
    expected = Proposal(tuple(ready(peer).raw for peer in sorted((one, other))))
    assert messages(told, Proposal) == [expected]
