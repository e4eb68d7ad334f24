"""Fork choice as tables: what peers claim on the left, the head that is chosen on the right."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.sync.head import Claim, Head, current, fork_choice, other_side
from swarm.errors import Malformed
from swarm.wire import pack, unpack
from tests.peer.company import claim_of, claims_of, decided_by, head_of, key

ORGANISER = key(0).peer_id
A = bytes([1]) * 32
B = bytes([2]) * 32
C = bytes([3]) * 32


_BY_ID = sorted(range(1, 9), key=lambda number: key(number).peer_id)
LOW = _BY_ID[:4]
HIGH = _BY_ID[4:]
"""Two sides of a partition without the organiser: the first has the lower ids."""
LIAR = 13
FIVE = range(1, 6)


def at_start(number: int, round_: int, root: bytes) -> Claim:
    """The head of a peer before the run's first average."""
    return Claim(head_of(number, round_, root))


@pytest.mark.parametrize(
    ("claims", "taken"),
    [
        pytest.param([], None, id="no peer answers"),
        pytest.param([claim_of(1, 3, A)], (3, A), id="a single peer is believed: a young run has no other"),
        pytest.param(
            [*claims_of([1, 2], 3, A), claim_of(3, 4, B)],
            (3, A),
            id="the state with more claims, though another is later",
        ),
        pytest.param(
            [*claims_of([1], 3, A, FIVE), claim_of(LIAR, 9, B)],
            (3, A),
            id="of two with equal claims the one behind which more have voted, though the other is later",
        ),
        pytest.param(
            [claim_of(1, 3, A), claim_of(LIAR, 9, B)],
            (9, B),
            id="of two with equal claims and votes the later",
        ),
        pytest.param(
            claims_of(range(1, 5), 3, A, FIVE) + claims_of(range(6, 8), 3, B),
            (3, A),
            id="four of six are two thirds",
        ),
        pytest.param(
            claims_of(range(1, 4), 3, A) + claims_of(range(4, 6), 3, B), None, id="three of five are not"
        ),
        pytest.param(
            claims_of(range(0, 3), 3, A) + claims_of(range(4, 6), 3, B),
            (3, A),
            id="unless the organiser is among them",
        ),
        pytest.param(
            [*claims_of(range(1, 4), 3, A), claim_of(0, 2, C), claim_of(5, 3, B)],
            (2, C),
            id="or alone claims another state",
        ),
        pytest.param(
            [*claims_of(range(1, 5), 3, A), claim_of(0, 9, B)], (3, A), id="two thirds outvote the organiser"
        ),
        pytest.param(
            [claim_of(1, 4, B), *claims_of(range(2, 9), 3, A, [1])],
            (4, B),
            id="a founder that has gone on, and seven that joined it before",
        ),
        pytest.param(
            [*claims_of(FIVE, 4, B)[:1], *claims_of(range(6, 9), 3, A, FIVE)],
            (4, B),
            id="one of five that have gone on, and three that have not heard of it",
        ),
        pytest.param(
            [claim_of(LIAR, 9, B), *claims_of(range(6, 9), 3, A, [*FIVE, LIAR])],
            (3, A),
            id="a liar does not make a state old alone, though it was in the group",
        ),
        pytest.param(
            [claim_of(1, 1, A, [0, 1]), *[at_start(number, 0, B) for number in range(2, 6)]],
            (1, A),
            id="the run has begun, and four have not heard of it",
        ),
        pytest.param(
            [at_start(1, 0, A), claim_of(LIAR, 9, B)],
            (9, B),
            id="at the start of a run the votes of anybody are more than none",
        ),
    ],
)
def test_which_head_is_chosen(claims: list[Claim], taken: tuple[int, bytes] | None) -> None:
    for order in (claims, claims[::-1]):
        chosen = fork_choice(order, ORGANISER)
        assert (chosen and (chosen.round, chosen.state_root)) == taken


def test_a_claim_without_the_certificate_of_an_earlier_group_does_not_count() -> None:
    known = claim_of(1, 3, A)
    without = Claim(known.signed)
    later = Claim(head_of(1, 2, A, parent=decided_by((1,), 2).group.id), decided_by((1,), 2))
    assert current([known, without, later], ORGANISER) == [known]
    assert fork_choice([without, later], ORGANISER) is None


@pytest.mark.parametrize(
    ("outsiders", "mine", "companions", "changes_to"),
    [
        pytest.param([], claim_of(1, 3, A), (1, 2), None, id="no peer trains without us"),
        pytest.param(
            claims_of(range(3, 6), 3, A, [1]), claim_of(1, 3, A), (1, 2), None, id="they have our state"
        ),
        pytest.param(
            claims_of(range(3, 6), 2, B),
            claim_of(1, 3, A),
            (1, 2),
            (2, B),
            id="the larger side, though it is behind",
        ),
        pytest.param(
            claims_of(range(3, 4), 9, B),
            claim_of(1, 3, A),
            (1, 2),
            None,
            id="a smaller side, though it is further",
        ),
        pytest.param(
            claims_of(HIGH, 9, B),
            claim_of(LOW[0], 3, A),
            LOW,
            None,
            id="of equal sides ours, with the lowest id, however far they are",
        ),
        pytest.param(
            claims_of(LOW, 2, B),
            claim_of(HIGH[0], 3, A),
            HIGH,
            (2, B),
            id="of equal sides theirs, with the lowest id",
        ),
        pytest.param(
            claims_of(LOW[:3], 3, B),
            claim_of(HIGH[0], 3, A),
            HIGH,
            (3, B),
            id="of nearly equal sides theirs: one is on its way",
        ),
        pytest.param(
            claims_of(LOW[:2], 3, B),
            claim_of(HIGH[0], 3, A),
            HIGH,
            None,
            id="of two and four the four, whatever their ids",
        ),
        pytest.param(
            [claim_of(0, 3, B, [0, *HIGH[:2]]), *claims_of(HIGH[:2], 3, B, [0, *HIGH[:2]])],
            claim_of(LOW[0], 4, A),
            LOW[:3],
            (3, B),
            id="of equal sides the organiser's",
        ),
        pytest.param(
            claims_of(range(3, 9), 3, B, [LIAR]),
            claim_of(1, 3, A),
            (1, 2, 9),
            None,
            id="a side is never larger than its certificate",
        ),
    ],
)
def test_when_a_peer_changes_to_the_other_side(
    outsiders: list[Claim],
    mine: Claim,
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
        root: (tuple(members), data.draw(st.integers(1, 9)))
        for root, members in ((A, numbers[:size]), (B, numbers[size:]))
    }

    def changes(mine: bytes, other: bytes) -> bool:
        members, round_ = sides[mine]
        others, their_round = sides[other]
        claims = claims_of(others, their_round, other)
        companions = {key(number).peer_id for number in members}
        own = claim_of(members[0], round_, mine, members)
        return other_side(claims, len(claims), own, companions, ORGANISER) is not None

    assert changes(A, B) != changes(B, A)


def test_the_donors_are_the_peers_that_claim_the_chosen_head_and_it_carries_the_proof() -> None:
    claims = [*claims_of([1, 3], 3, A), claim_of(2, 3, B)]
    chosen = fork_choice(claims, ORGANISER)
    assert chosen is not None
    assert chosen.donors == tuple(sorted(key(n).peer_id for n in (1, 3)))
    assert chosen.origin == decided_by((1, 3), 2).origin
    assert chosen.population == 2, "that of the certificate, whatever a claim says"


def test_one_liar_cannot_change_the_time_the_tokens_or_the_population_of_a_head() -> None:
    honest = [claim_of(n, 3, A, FIVE, tokens=100, seconds_left=5.0) for n in range(1, 4)]
    liar = claim_of(4, 3, A, FIVE, tokens=1 << 61, seconds_left=1e6, population=9999)
    chosen = fork_choice([*honest, liar], ORGANISER)
    assert chosen is not None
    assert (chosen.tokens, chosen.seconds_left, chosen.population) == (100, 5.0, 5)
    of_two = fork_choice([honest[0], liar], ORGANISER)
    assert of_two is not None
    assert (of_two.tokens, of_two.seconds_left) == (100, 5.0), "of two the smaller one"


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
        (bytes(32), 0, 0.0, 1, bytes(15)),
        ("text", 0, 0.0),
    ],
)
def test_a_head_out_of_range_is_refused(fields: object) -> None:
    with pytest.raises(Malformed):
        unpack(pack(fields), Head)
