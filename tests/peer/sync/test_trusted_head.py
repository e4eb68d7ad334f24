"""The organiser's word, as a table of whom a newcomer believes, and as it goes from peer to peer."""

from __future__ import annotations

import asyncio

import pytest

from peer.sync.head import Head
from peer.sync.trusted_head import TELL_SECONDS, TrustedHeads, taken
from swarm.errors import Refused, SwarmError
from swarm.simulation.clock import simulate
from swarm.transport import Request
from swarm.wire import Signed, Stamp, open_frame, seal
from tests.peer.company import MANIFEST, RUN, Company, echoes, key, soon

ORGANISER = key(0).peer_id
A, B, C = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32


def says(number: int, round_: int, root: bytes, run: bytes = RUN) -> Signed[Head]:
    """The word of peer ``number``; 0 is the organiser."""
    return open_frame(seal(key(number), Head(root, 0, 0.0), Stamp(run, round_)), Head, run=run)


@pytest.mark.parametrize(
    ("offers", "anchor", "takes"),
    [
        pytest.param([], None, None, id="nobody answers"),
        pytest.param(
            [says(1, 3, A)], None, (3, A), id="without a word of the organiser a young run is believed"
        ),
        pytest.param(
            [says(1, 9, B), says(2, 9, B), says(0, 3, A)], None, (3, A), id="the organiser outweighs any few"
        ),
        pytest.param(
            [says(n, 9, B) for n in range(1, 5)] + [says(0, 3, A)],
            None,
            (9, B),
            id="but not two thirds of five",
        ),
        pytest.param(
            [says(1, 3, B), says(2, 3, B), says(3, 3, A)],
            says(0, 3, A),
            (3, A),
            id="who contradicts its word is out",
        ),
        pytest.param(
            [says(1, 2, B), says(2, 2, B), says(3, 4, A)], says(0, 3, C), (4, A), id="who is behind it is out"
        ),
        pytest.param(
            [says(1, 9, A), says(2, 9, A), says(3, 8, B)],
            says(0, 3, C),
            (9, A),
            id="who is ahead may be right",
        ),
        pytest.param(
            [says(1, 2, B), says(2, 3, B)], says(0, 3, A), None, id="nobody left to believe: ask again"
        ),
        pytest.param(
            [says(n, 2, B) for n in range(1, 6)], says(0, 3, A), (2, B), id="five that agree need no anchor"
        ),
        pytest.param(
            [says(0, 4, B), says(1, 4, B)],
            says(0, 3, A),
            (4, B),
            id="what it says now is newer than what it said",
        ),
        pytest.param(
            [*echoes([0], 3, A), says(1, 4, B)],
            None,
            (4, B),
            id="an organiser that has come back to its run is an echo",
        ),
        pytest.param(
            [*echoes([0], 4, A), *echoes(range(1, 4), 3, B)], None, (4, A), id="of which its own decides"
        ),
        pytest.param(
            [says(0, 4, B), *echoes(range(1, 9), 3, A)],
            None,
            (4, B),
            id="eight that were told of round 3 are still few",
        ),
    ],
)
def test_what_a_newcomer_takes(
    offers: list[Signed[Head]], anchor: Signed[Head] | None, takes: tuple[int, bytes] | None
) -> None:
    for order in (offers, offers[::-1]):
        standing = taken(order, ORGANISER, anchor)
        assert (standing and (standing.round, standing.state_root)) == takes


def anchors(company: Company, number: int) -> TrustedHeads:
    return TrustedHeads(MANIFEST, company.transport(number))


def test_a_word_goes_from_the_organiser_to_some_and_from_them_to_a_newcomer() -> None:
    async def story() -> None:
        company = Company()
        organiser, friend, newcomer = (anchors(company, number) for number in (0, 1, 9))
        some = lambda: (key(1).peer_id, key(40).peer_id)  # noqa: E731 - 40 is not there
        events = asyncio.create_task(organiser.keep_telling(key(0), lambda: (7, Head(A, 0, 0.0)), some))
        await asyncio.sleep(TELL_SECONDS + 1)
        events.cancel()
        assert friend.newest is not None
        assert (friend.newest.stamp.round, friend.newest.signer) == (7, ORGANISER)
        company.network.crash(ORGANISER)
        assert await newcomer.choose([says(1, 7, B)], soon()) is None, (
            "a friend that contradicts what it hands on"
        )
        standing = await newcomer.choose([says(1, 8, B)], soon())
        assert standing is not None
        assert standing.state_root == B

    simulate(story())


def test_nobody_else_s_word_is_an_anchor_and_an_older_one_changes_nothing() -> None:
    async def story() -> None:
        company = Company()
        friend, stranger = anchors(company, 1), company.transport(8)
        me = key(1).peer_id

        async def send(raw: bytes) -> None:
            await stranger.request(me, Request("anchor", raw), deadline=soon())

        await send(says(0, 5, A).raw)
        await send(says(0, 4, B).raw)
        assert friend.newest is not None
        assert friend.newest.message.state_root == A
        other = bytes([7]) * 32
        for raw in (
            says(8, 9, B).raw,
            says(0, 9, B, run=other).raw,
            says(0, 9, B).raw[:-1] + b"x",
            b"nonsense",
            bytes(5000),
        ):
            with pytest.raises(Refused):
                await send(raw)
        assert friend.newest.message.state_root == A

    simulate(story())


def test_a_peer_that_has_none_says_so_and_one_that_hangs_delays_nobody_beyond_the_deadline() -> None:
    async def story() -> None:
        company = Company()
        _, newcomer = anchors(company, 1), anchors(company, 9)
        with pytest.raises(SwarmError, match="no word of the organiser"):
            await company.transport(8).request(key(1).peer_id, Request("anchor"), deadline=soon())
        anchors(company, 2)
        company.network.freeze(key(2).peer_id)
        began = soon(0)
        standing = await newcomer.choose([says(1, 3, A), says(2, 3, A)], soon(3))
        assert standing is not None
        assert soon(0) - began <= 3.1

    simulate(story())
