"""A population's cells and delegates: everybody computes the same, few move, and there is one council."""

from __future__ import annotations

import pytest

from averaging.assembly import Assembly, Call
from averaging.groups import formed
from averaging.hierarchy import CELL, EPOCH, Hierarchy, least
from averaging.messages import Proposal, Ready, Vote
from swarm.identity import KeyPair
from swarm.machine import Finish, Received, Send, Woken
from swarm.wire import LEVEL_2, Signed, Stamp, level_of, open_frame, seal

RUN = bytes([5]) * 32
ROOT = bytes([7]) * 32
KEYS = {key.peer_id: key for key in (KeyPair.from_seed(bytes([n, 1]) * 16) for n in range(200))}
PEERS = sorted(KEYS)


def ready(peer: str, peers: int = 16, group: bytes = LEVEL_2) -> Signed[Ready]:
    return open_frame(seal(KEYS[peer], Ready(ROOT, peers=peers), Stamp(RUN, 3, group)), Ready, run=RUN)  # type: ignore[index]


@pytest.mark.parametrize(
    ("population", "count"), [(1, 1), (48, 1), (49, 4), (64, 4), (96, 8), (300, 16), (1000, 64), (5000, 64)]
)
def test_up_to_a_group_is_one_cell_and_a_crowd_has_cells_of_about_sixteen(
    population: int, count: int
) -> None:
    assert Hierarchy.of(RUN, 3, population, 64).count == count


@pytest.mark.parametrize("seats", [1, 2, 9, 36, 256])
@pytest.mark.parametrize("population", [1, 10, 100, 1000, 1 << 20])
def test_the_council_has_a_seat_for_every_cell(population: int, seats: int) -> None:
    assert 1 <= Hierarchy.of(RUN, 0, population, seats).count <= seats


def test_cells_cover_everybody_once_and_none_is_far_from_its_size() -> None:
    hierarchy = Hierarchy.of(RUN, 3, 200, 64)
    sizes = [sum(hierarchy.group_index(peer) == cell for peer in PEERS) for cell in range(hierarchy.count)]
    assert sum(sizes) == len(PEERS)
    assert CELL / 3 < min(sizes) <= max(sizes) < 3 * CELL
    me = PEERS[0]
    assert hierarchy.group_mates(me, PEERS) == [
        peer for peer in PEERS if peer != me and hierarchy.group_index(peer) == hierarchy.group_index(me)
    ]


def test_a_delegate_is_of_its_cell_and_the_same_for_all_who_know_it() -> None:
    hierarchy = Hierarchy.of(RUN, 3, 200, 64)
    representatives = hierarchy.representatives(PEERS)
    assert (
        len({hierarchy.group_index(peer) for peer in representatives})
        == len(representatives)
        == hierarchy.count
    )
    for representative in representatives:
        cell = [representative, *hierarchy.group_mates(representative, PEERS)]
        assert hierarchy.representative(cell) == representative
        assert hierarchy.representatives(reversed(cell)) == [representative]


def test_cells_stay_for_an_epoch_and_few_move_where_the_crowd_doubles() -> None:
    first, same, later = (Hierarchy.of(RUN, round_, 200, 64) for round_ in (0, EPOCH - 1, EPOCH))
    assert first == same != later
    wider = Hierarchy.of(RUN, 0, 400, 64)
    assert wider.count == 2 * first.count
    assert all(wider.group_index(peer) % first.count == first.group_index(peer) for peer in PEERS)


def test_more_than_half_are_a_group_and_after_every_attempt_that_failed_half_as_many() -> None:
    assert [least(population) for population in (1, 2, 3, 4, 5, 16)] == [1, 2, 2, 3, 3, 9]
    assert [least(16, missed) for missed in range(5)] == [9, 4, 2, 1, 0]


# --- the council --------------------------------------------------------------------------------------------


def level2(me: str, expected: list[str], hierarchy: Hierarchy, enough: int = 1) -> Assembly:
    call = Call(
        run=RUN,
        me=ready(me),
        expected=tuple(peer for peer in expected if peer != me),  # type: ignore[misc]
        close_at=10.0,
        patience=5.0,
        first_look=0.3,
        group_size=64,
        least=enough,
        population=200,
        level2=hierarchy,
    )
    return Assembly(call)


def test_nobody_votes_for_a_council_in_which_a_cell_sits_twice() -> None:
    hierarchy = Hierarchy.of(RUN, 3, 200, 64)
    one, other = hierarchy.representatives(PEERS)[:2]
    second = hierarchy.group_mates(one, PEERS)[0]

    def votes_for(*members: str) -> bool:
        machine = level2(other, [one, other, second], hierarchy)
        list(machine.start(0))
        proposal = Proposal(tuple(ready(member).raw for member in members))
        frame = open_frame(seal(KEYS[one], proposal, Stamp(RUN, 3, LEVEL_2)), Proposal, run=RUN)
        said = list(machine.handle(Received(frame), 1))
        return any(isinstance(command, Send) and isinstance(command.message, Vote) for command in said)

    assert votes_for(one, other)
    assert not votes_for(one, other, second)


def test_a_frame_of_a_cell_is_worth_nothing_in_the_council() -> None:
    hierarchy = Hierarchy.of(RUN, 3, 200, 64)
    one, other = hierarchy.representatives(PEERS)[:2]
    machine = level2(other, [one, other], hierarchy)
    list(machine.start(0))
    proposal = Proposal((ready(one, 1, bytes(16)).raw, ready(other).raw))
    frame = open_frame(seal(KEYS[one], proposal, Stamp(RUN, 3, LEVEL_2)), Proposal, run=RUN)
    assert not [command for command in machine.handle(Received(frame), 1) if isinstance(command, Send)]


def test_the_councils_group_belongs_to_its_hall_and_its_crowd_is_that_of_all_cells() -> None:
    hierarchy = Hierarchy.of(RUN, 3, 200, 64)
    representatives = hierarchy.representatives(PEERS)[:3]
    group = formed(RUN, [ready(peer, 10 + n) for n, peer in enumerate(representatives)])
    assert level_of(group.id) == LEVEL_2
    assert group.population == 33
    assert level_of(formed(RUN, [ready(peer, 1, bytes(16)) for peer in representatives]).id) == bytes(16)


def test_of_two_delegates_of_one_cell_the_leader_takes_the_first() -> None:
    hierarchy = Hierarchy.of(RUN, 3, 200, 64)
    one, other = hierarchy.representatives(PEERS)[:2]
    second = hierarchy.group_mates(one, PEERS)[0]
    machine = level2(other, [one, other, second], hierarchy, enough=2)
    list(machine.start(0))
    list(machine.handle(Woken(), 0))
    said = [command for peer in (second, one) for command in machine.handle(Received(ready(peer)), 1)]
    for now in (3, 5, 8):  # by then it is everybody's turn
        said += machine.handle(Woken(), now)
    proposals = [
        command.message
        for command in said
        if isinstance(command, Send) and isinstance(command.message, Proposal)
    ]
    assert not any(isinstance(command, Finish) for command in said)
    late = (hierarchy.count - 2) * ready(one).message.peers
    assert proposals == [Proposal(tuple(ready(peer).raw for peer in sorted((one, other))), late)], (
        "and counts those it has not heard of"
    )
