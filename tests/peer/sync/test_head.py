"""Fork choice as tables: the heads that peers claim on the left, the one that is chosen on the right."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.sync.head import Head, counting, fork_choice, other_side
from swarm.errors import Malformed
from swarm.wire import Signed, pack, unpack
from tests.peer.company import head_of, heads_of, heads_of_newcomers, key

ORGANISER = key(0).peer_id
A = bytes([1]) * 32
B = bytes([2]) * 32
C = bytes([3]) * 32


_BY_ID = sorted(range(1, 9), key=lambda number: key(number).peer_id)
LOW = _BY_ID[:4]
HIGH = _BY_ID[4:]
"""Two sides of a partition without the organiser: the first has the lower ids."""


@pytest.mark.parametrize(
    ("heads", "taken"),
    [
        pytest.param([], None, id="no peer answers"),
        pytest.param([head_of(1, 3, A)], (3, A), id="a single peer is believed: a young run has no other"),
        pytest.param(
            [head_of(1, 3, A), head_of(2, 3, A), head_of(3, 4, B)],
            (3, A),
            id="the head with more votes, though another is later",
        ),
        pytest.param([head_of(1, 3, A), head_of(2, 4, B)], (4, B), id="of two with equal votes the later"),
        pytest.param(
            [head_of(1, 3, A), head_of(2, 3, B)],
            (3, B),
            id="of two with equal votes in one round always the same",
        ),
        pytest.param(
            heads_of(range(1, 5), 3, A) + heads_of(range(5, 7), 3, B), (3, A), id="four of six are two thirds"
        ),
        pytest.param(
            heads_of(range(1, 4), 3, A) + heads_of(range(4, 6), 3, B), None, id="three of five are not"
        ),
        pytest.param(
            heads_of(range(0, 3), 3, A) + heads_of(range(4, 6), 3, B),
            (3, A),
            id="unless the organiser is among them",
        ),
        pytest.param(
            [*heads_of(range(1, 4), 3, A), head_of(0, 2, C), head_of(5, 3, B)],
            (2, C),
            id="or alone claims another head",
        ),
        pytest.param(
            [*heads_of(range(1, 5), 3, A), head_of(0, 9, B)], (3, A), id="two thirds outvote the organiser"
        ),
        pytest.param(
            [*heads_of(range(1, 5), 3, A), head_of(5, 1 << 31, B)],
            (3, A),
            id="an absurd round counts as one vote",
        ),
        pytest.param(
            [head_of(1, 4, B), *heads_of_newcomers(range(2, 5), 3, A)],
            (4, B),
            id="three newcomers at a state from which one has gone on",
        ),
        pytest.param(
            [head_of(1, 4, B), *heads_of_newcomers(range(2, 9), 3, A)],
            (4, B),
            id="or seven: their claims do not count as votes",
        ),
        pytest.param(
            [head_of(1, 3, A), *heads_of_newcomers([2], 3, A), head_of(3, 4, B), head_of(4, 4, B)],
            (4, B),
            id="the claim of a newcomer adds no weight",
        ),
        pytest.param(
            [*heads_of_newcomers(range(1, 3), 3, A), *heads_of_newcomers([3], 4, B)],
            (3, A),
            id="if all are newcomers the head with more claims",
        ),
        pytest.param(
            [*heads_of(range(1, 6), 3, A), *heads_of_newcomers([0], 9, B)],
            (3, A),
            id="also the organiser may be a newcomer",
        ),
    ],
)
def test_which_head_is_chosen(heads: list[Signed[Head]], taken: tuple[int, bytes] | None) -> None:
    for order in (heads, heads[::-1]):
        chosen = fork_choice(order, ORGANISER)
        assert (chosen and (chosen.round, chosen.state_root)) == taken


@pytest.mark.parametrize(
    ("outsiders", "mine", "companions", "changes_to"),
    [
        pytest.param([], head_of(1, 3, A), (1, 2), None, id="no peer trains without us"),
        pytest.param(
            heads_of(range(3, 6), 3, A), head_of(1, 3, A), (1, 2), None, id="they have the head that we have"
        ),
        pytest.param(
            heads_of(range(3, 6), 2, B),
            head_of(1, 3, A),
            (1, 2),
            (2, B),
            id="the larger side, though it is behind",
        ),
        pytest.param(
            heads_of(range(3, 4), 9, B),
            head_of(1, 3, A),
            (1, 2),
            None,
            id="a smaller side, though it is further",
        ),
        pytest.param(
            heads_of(HIGH, 9, B),
            head_of(LOW[0], 3, A),
            LOW,
            None,
            id="of equal sides ours, with the lowest id, however far they are",
        ),
        pytest.param(
            heads_of(LOW, 2, B),
            head_of(HIGH[0], 3, A),
            HIGH,
            (2, B),
            id="of equal sides theirs, with the lowest id",
        ),
        pytest.param(
            heads_of(HIGH[:3], 3, B),
            head_of(LOW[0], 3, A),
            LOW,
            None,
            id="of nearly equal sides ours, with the lowest id",
        ),
        pytest.param(
            heads_of(LOW[:3], 3, B),
            head_of(HIGH[0], 3, A),
            HIGH,
            (3, B),
            id="of nearly equal sides theirs: one is on its way",
        ),
        pytest.param(
            heads_of(LOW[:2], 3, B),
            head_of(HIGH[0], 3, A),
            HIGH,
            None,
            id="of two and four the four, whatever their ids",
        ),
        pytest.param(
            [head_of(0, 3, B), *heads_of(HIGH[:2], 3, B)],
            head_of(LOW[0], 4, A),
            LOW[:3],
            (3, B),
            id="of equal sides the organiser's",
        ),
        pytest.param(
            heads_of(LOW[:2], 9, B),
            head_of(0, 4, A),
            (0, HIGH[0]),
            None,
            id="of equal sides ours, with the organiser",
        ),
    ],
)
def test_when_a_peer_changes_to_the_other_side(
    outsiders: list[Signed[Head]],
    mine: Signed[Head],
    companions: Sequence[int],
    changes_to: tuple[int, bytes] | None,
) -> None:
    chosen = other_side(
        outsiders, len(outsiders), mine, {key(number).peer_id for number in companions}, ORGANISER
    )
    assert (chosen and (chosen.round, chosen.state_root)) == changes_to


@given(st.lists(st.integers(0, 12), min_size=2, max_size=13, unique=True), st.data())
def test_of_two_sides_exactly_one_gives_up(numbers: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(numbers) - 1))
    sides = {
        root: (members, data.draw(st.integers(0, 9)))
        for root, members in ((A, numbers[:size]), (B, numbers[size:]))
    }

    def changes(mine: bytes, other: bytes) -> bool:
        members, round_ = sides[mine]
        others, their_round = sides[other]
        heads = heads_of(others, their_round, other)
        companions = {key(number).peer_id for number in members}
        own = head_of(members[0], round_, mine)
        return other_side(heads, len(heads), own, companions, ORGANISER) is not None

    assert changes(A, B) != changes(B, A)


def test_a_few_answers_are_a_sample_of_all_peers_that_train_without_us() -> None:
    ten = {key(number).peer_id for number in range(1, 11)}
    heads = heads_of(range(11, 16), 3, B)
    assert other_side(heads, 5, head_of(1, 3, A), ten, ORGANISER) is None
    assert other_side(heads, 40, head_of(1, 3, A), ten, ORGANISER) is not None
    with_ours = heads_of(range(11, 14), 3, B) + heads_of(range(14, 16), 3, A)
    assert other_side(with_ours, 10, head_of(1, 3, A), ten, ORGANISER) is None  # six there, fourteen here


def test_the_donors_are_the_peers_that_claim_the_chosen_head() -> None:
    chosen = fork_choice([head_of(3, 3, A), head_of(1, 3, A), head_of(2, 3, B)], ORGANISER)
    assert chosen is not None
    assert chosen.donors == tuple(sorted(key(n).peer_id for n in (1, 3)))


def test_a_newcomer_is_a_donor_all_the_same() -> None:
    chosen = fork_choice([head_of(3, 3, A), *heads_of_newcomers([1, 2], 3, A)], ORGANISER)
    assert chosen is not None
    assert chosen.donors == tuple(sorted(key(n).peer_id for n in (1, 2, 3)))


def test_one_liar_cannot_change_the_time_or_the_tokens_of_a_head() -> None:
    honest = [head_of(n, 3, A, tokens=100, seconds_left=5.0) for n in range(1, 4)]
    chosen = fork_choice([*honest, head_of(4, 3, A, tokens=1 << 61, seconds_left=1e6)], ORGANISER)
    assert chosen is not None
    assert chosen.tokens == 100
    assert chosen.seconds_left == 5.0


def test_only_participants_have_votes_if_there_are_any() -> None:
    participants = heads_of([1, 2], 3, A)
    newcomers = heads_of_newcomers([3, 4, 5], 2, B)
    assert counting([*newcomers, *participants]) == participants
    assert counting(newcomers) == newcomers
    assert counting([]) == []


@pytest.mark.parametrize(
    "fields",
    [
        (bytes(31), 0, 0.0),
        (bytes(32), -1, 0.0),
        (bytes(32), 1 << 62, 0.0),
        (bytes(32), 0, -0.1),
        (bytes(32), 0, float("nan")),
        (bytes(32), 0, float("inf")),
        (bytes(32), 0, 0.0, "more"),
        (bytes(32), 0, 0.0, 0),
        ("text", 0, 0.0),
    ],
)
def test_a_head_out_of_range_is_refused(fields: object) -> None:
    with pytest.raises(Malformed):
        unpack(pack(fields), Head)
