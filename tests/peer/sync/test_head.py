"""Whom a newcomer believes, as a table: answers on the left, the state it takes on the right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.sync.head import Head, fork_choice, other_side
from swarm.errors import Malformed
from swarm.wire import Signed, Stamp, open_frame, pack, seal, unpack
from tests.peer.company import RUN, echoes, key

ORGANISER = key(0).peer_id
A, B, C = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32


def says(number: int, round_: int, root: bytes, tokens: int = 0, seconds_left: float = 0.0) -> Signed[Head]:
    """The word of peer ``number``; 0 is the organiser."""
    return open_frame(seal(key(number), Head(root, tokens, seconds_left), Stamp(RUN, round_)), Head, run=RUN)


_BY_ID = sorted(range(1, 9), key=lambda number: key(number).peer_id)
LOW, HIGH = _BY_ID[:4], _BY_ID[4:]
"""Two camps without the organiser: the first has the lower ids."""


def camp(numbers: Iterable[int], round_: int, root: bytes) -> list[Signed[Head]]:
    """What the peers of one camp say."""
    return [says(number, round_, root) for number in numbers]


@pytest.mark.parametrize(
    ("offers", "taken"),
    [
        pytest.param([], None, id="nobody answers"),
        pytest.param([says(1, 3, A)], (3, A), id="a single peer is believed: a young run has no other"),
        pytest.param(
            [says(1, 3, A), says(2, 3, A), says(3, 4, B)],
            (3, A),
            id="the larger camp, though another is further",
        ),
        pytest.param([says(1, 3, A), says(2, 4, B)], (4, B), id="of equal camps the further"),
        pytest.param(
            [says(1, 3, A), says(2, 3, B)], (3, B), id="of equal camps at the same place always the same"
        ),
        pytest.param(
            camp(range(1, 5), 3, A) + camp(range(5, 7), 3, B), (3, A), id="four of six are two thirds"
        ),
        pytest.param(camp(range(1, 4), 3, A) + camp(range(4, 6), 3, B), None, id="three of five are not"),
        pytest.param(
            camp(range(0, 3), 3, A) + camp(range(4, 6), 3, B), (3, A), id="unless the organiser is among them"
        ),
        pytest.param(
            [*camp(range(1, 4), 3, A), says(0, 2, C), says(5, 3, B)],
            (2, C),
            id="or alone says something else",
        ),
        pytest.param(
            [*camp(range(1, 5), 3, A), says(0, 9, B)], (3, A), id="two thirds outvote the organiser"
        ),
        pytest.param(
            [*camp(range(1, 5), 3, A), says(5, 1 << 31, B)],
            (3, A),
            id="a round out of this world counts as one word",
        ),
        pytest.param(
            [says(1, 4, B), *echoes(range(2, 5), 3, A)],
            (4, B),
            id="three who fetched what one has gone on from",
        ),
        pytest.param(
            [says(1, 4, B), *echoes(range(2, 9), 3, A)], (4, B), id="or seven: there is nobody to outvote"
        ),
        pytest.param(
            [says(1, 3, A), *echoes([2], 3, A), says(3, 4, B), says(4, 4, B)],
            (4, B),
            id="an echo adds no weight",
        ),
        pytest.param(
            [*echoes(range(1, 3), 3, A), *echoes([3], 4, B)],
            (3, A),
            id="where all are echoes the larger camp",
        ),
        pytest.param(
            [*camp(range(1, 6), 3, A), *echoes([0], 9, B)], (3, A), id="also the organiser's is one"
        ),
    ],
)
def test_what_a_newcomer_believes(offers: list[Signed[Head]], taken: tuple[int, bytes] | None) -> None:
    for order in (offers, offers[::-1]):
        standing = fork_choice(order, ORGANISER)
        assert (standing and (standing.round, standing.state_root)) == taken


@pytest.mark.parametrize(
    ("outsiders", "mine", "companions", "goes_to"),
    [
        pytest.param([], says(1, 3, A), (1, 2), None, id="nobody trains without us"),
        pytest.param(camp(range(3, 6), 3, A), says(1, 3, A), (1, 2), None, id="they stand where we do"),
        pytest.param(
            camp(range(3, 6), 2, B), says(1, 3, A), (1, 2), (2, B), id="the larger camp, though it is behind"
        ),
        pytest.param(
            camp(range(3, 4), 9, B), says(1, 3, A), (1, 2), None, id="a smaller camp, though it is further"
        ),
        pytest.param(
            camp(HIGH, 9, B),
            says(LOW[0], 3, A),
            LOW,
            None,
            id="of equal camps ours, with the lowest id, however far they are",
        ),
        pytest.param(
            camp(LOW, 2, B), says(HIGH[0], 3, A), HIGH, (2, B), id="of equal camps theirs, with the lowest id"
        ),
        pytest.param(
            camp(HIGH[:3], 3, B),
            says(LOW[0], 3, A),
            LOW,
            None,
            id="of nearly equal camps ours, with the lowest id",
        ),
        pytest.param(
            camp(LOW[:3], 3, B),
            says(HIGH[0], 3, A),
            HIGH,
            (3, B),
            id="of nearly equal camps theirs: one is on its way",
        ),
        pytest.param(
            camp(LOW[:2], 3, B),
            says(HIGH[0], 3, A),
            HIGH,
            None,
            id="of two and four the four, whatever their ids",
        ),
        pytest.param(
            [says(0, 3, B), *camp(HIGH[:2], 3, B)],
            says(LOW[0], 4, A),
            LOW[:3],
            (3, B),
            id="of equal camps the organiser's",
        ),
        pytest.param(
            camp(LOW[:2], 9, B),
            says(0, 4, A),
            (0, HIGH[0]),
            None,
            id="of equal camps ours, with the organiser",
        ),
    ],
)
def test_when_a_camp_goes_over_to_another(
    outsiders: list[Signed[Head]],
    mine: Signed[Head],
    companions: Sequence[int],
    goes_to: tuple[int, bytes] | None,
) -> None:
    standing = other_side(
        outsiders, len(outsiders), mine, {key(number).peer_id for number in companions}, ORGANISER
    )
    assert (standing and (standing.round, standing.state_root)) == goes_to


@given(st.lists(st.integers(0, 12), min_size=2, max_size=13, unique=True), st.data())
def test_of_two_camps_exactly_one_goes(everybody: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(everybody) - 1))
    camps = {
        root: (members, data.draw(st.integers(0, 9)))
        for root, members in ((A, everybody[:size]), (B, everybody[size:]))
    }

    def goes(mine: bytes, other: bytes) -> bool:
        members, round_ = camps[mine]
        heard = camp(camps[other][0], camps[other][1], other)
        return (
            other_side(
                heard,
                len(heard),
                says(members[0], round_, mine),
                {key(n).peer_id for n in members},
                ORGANISER,
            )
            is not None
        )

    assert goes(A, B) != goes(B, A)


def test_a_few_answers_speak_for_all_that_train_without_us() -> None:
    ten = {key(number).peer_id for number in range(1, 11)}
    heard = camp(range(11, 16), 3, B)
    assert other_side(heard, 5, says(1, 3, A), ten, ORGANISER) is None
    assert other_side(heard, 40, says(1, 3, A), ten, ORGANISER) is not None
    with_ours = camp(range(11, 14), 3, B) + camp(range(14, 16), 3, A)
    assert other_side(with_ours, 10, says(1, 3, A), ten, ORGANISER) is None  # six there, fourteen here


def test_donors_are_those_who_have_the_state_that_is_believed() -> None:
    standing = fork_choice([says(3, 3, A), says(1, 3, A), says(2, 3, B)], ORGANISER)
    assert standing is not None
    assert standing.donors == tuple(sorted(key(n).peer_id for n in (1, 3)))


def test_who_only_repeats_it_is_a_donor_all_the_same() -> None:
    standing = fork_choice([says(3, 3, A), *echoes([1, 2], 3, A)], ORGANISER)
    assert standing is not None
    assert standing.donors == tuple(sorted(key(n).peer_id for n in (1, 2, 3)))


def test_one_liar_cannot_bend_the_time_or_the_tokens_of_a_camp() -> None:
    honest = [says(n, 3, A, tokens=100, seconds_left=5.0) for n in range(1, 4)]
    standing = fork_choice([*honest, says(4, 3, A, tokens=1 << 61, seconds_left=1e6)], ORGANISER)
    assert standing is not None
    assert standing.tokens == 100
    assert standing.seconds_left == 5.0


@pytest.mark.parametrize(
    "said",
    [
        (bytes(31), 0, 0.0),
        (bytes(32), -1, 0.0),
        (bytes(32), 1 << 62, 0.0),
        (bytes(32), 0, -0.1),
        (bytes(32), 0, float("nan")),
        (bytes(32), 0, float("inf")),
        (bytes(32), 0, 0.0, "more"),
        ("text", 0, 0.0),
    ],
)
def test_an_offer_out_of_range_is_refused(said: object) -> None:
    with pytest.raises(Malformed):
        unpack(pack(said), Head)
