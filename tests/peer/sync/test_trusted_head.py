"""The trusted head: which head a newcomer takes, as a table; and how the organiser's frame travels."""

from __future__ import annotations

import asyncio

import pytest

from peer.sync.head import Claim, Head
from peer.sync.trusted_head import TELL_SECONDS, TrustedHeads, choose_for_newcomer
from swarm.errors import Refused, SwarmError
from swarm.simulation.clock import simulate
from swarm.transport import Request
from swarm.wire import Signed
from tests.peer.company import (
    MANIFEST,
    Company,
    claim_of,
    claims_of,
    head_of,
    key,
    sealed_head,
    soon,
)

ORGANISER = key(0).peer_id
A = bytes([1]) * 32
B = bytes([2]) * 32
C = bytes([3]) * 32


@pytest.mark.parametrize(
    ("claims", "trusted", "takes"),
    [
        pytest.param([], None, None, id="no peer answers"),
        pytest.param([claim_of(1, 3, A)], None, (3, A), id="without a trusted head a young run is believed"),
        pytest.param(
            [*claims_of([1, 2], 9, B), claim_of(0, 3, A)],
            None,
            (3, A),
            id="the organiser outweighs any few",
        ),
        pytest.param(
            [*claims_of(range(1, 5), 9, B), claim_of(0, 3, A)],
            None,
            (9, B),
            id="but not two thirds of five",
        ),
        pytest.param(
            [*claims_of([1, 2], 3, B), claim_of(3, 3, A)],
            head_of(0, 3, A),
            (3, A),
            id="heads that contradict the trusted head do not count",
        ),
        pytest.param(
            [*claims_of([1, 2], 2, B), claim_of(3, 4, A)],
            head_of(0, 3, C),
            (4, A),
            id="heads that are behind it do not count",
        ),
        pytest.param(
            [*claims_of([1, 2], 9, A), claim_of(3, 8, B)],
            head_of(0, 3, C),
            (9, A),
            id="heads that are ahead of it may be right",
        ),
        pytest.param(
            [claim_of(1, 2, B), claim_of(2, 3, B)], head_of(0, 3, A), None, id="no head is left: ask again"
        ),
        pytest.param(
            claims_of(range(1, 6), 2, B),
            head_of(0, 3, A),
            (2, B),
            id="five that agree need no trusted head",
        ),
        pytest.param(
            claims_of([0, 1], 4, B),
            head_of(0, 3, A),
            (4, B),
            id="what the organiser claims now is newer than what it signed",
        ),
        pytest.param(
            [claim_of(0, 3, A, [0, 1]), claim_of(1, 4, B, [0, 1])],
            None,
            (4, B),
            id="an organiser that has lost its checkpoint follows what it has decided itself",
        ),
        pytest.param(
            [claim_of(0, 4, B), *claims_of(range(1, 9), 3, A, [0])],
            None,
            (4, B),
            id="eight that joined at round 3 do not count against the founder that has gone on",
        ),
    ],
)
def test_what_a_newcomer_takes(
    claims: list[Claim], trusted: Signed[Head] | None, takes: tuple[int, bytes] | None
) -> None:
    for order in (claims, claims[::-1]):
        chosen = choose_for_newcomer(order, ORGANISER, trusted)
        assert (chosen and (chosen.round, chosen.state_root)) == takes


def trusted_heads(company: Company, number: int) -> TrustedHeads:
    return TrustedHeads(MANIFEST, company.transport(number))


def test_a_trusted_head_goes_from_the_organiser_to_some_peers_and_from_them_to_a_newcomer() -> None:
    async def story() -> None:
        company = Company()
        organiser = trusted_heads(company, 0)
        friend = trusted_heads(company, 1)
        newcomer = trusted_heads(company, 9)
        told = (key(1).peer_id, key(40).peer_id)  # 40 is not there
        frame = sealed_head(0, 7, Head(A, 0, 0.0))
        telling = asyncio.create_task(organiser.keep_telling(lambda: frame, lambda: told))
        await asyncio.sleep(TELL_SECONDS + 1)
        telling.cancel()
        assert organiser.newest is not None
        assert friend.newest is not None
        assert (friend.newest.stamp.round, friend.newest.signer) == (7, ORGANISER)
        company.network.crash(ORGANISER)
        assert await newcomer.choose([claim_of(1, 7, B)], soon()) is None, (
            "a peer that contradicts the head that it passes on"
        )
        chosen = await newcomer.choose([claim_of(1, 8, B)], soon())
        assert chosen is not None
        assert chosen.state_root == B

    simulate(story())


def test_only_the_organisers_head_is_trusted_and_an_older_one_changes_nothing() -> None:
    async def story() -> None:
        company = Company()
        friend = trusted_heads(company, 1)
        stranger = company.transport(8)
        me = key(1).peer_id

        async def send(raw: bytes) -> None:
            await stranger.request(me, Request("anchor", raw), deadline=soon())

        await send(head_of(0, 5, A).raw)
        await send(head_of(0, 4, B).raw)
        assert friend.newest is not None
        assert friend.newest.message.state_root == A
        other = bytes([7]) * 32
        for raw in (
            head_of(8, 9, B).raw,
            head_of(0, 9, B, run=other).raw,
            head_of(0, 9, B).raw[:-1] + b"x",
            sealed_head(0, MANIFEST.rounds + 1, Head(B, 0, 0.0)),
            sealed_head(0, (1 << 32) - 1, Head(B, 0, 0.0)),
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
        trusted_heads(company, 1)
        newcomer = trusted_heads(company, 9)
        with pytest.raises(SwarmError, match="no word of the organiser"):
            await company.transport(8).request(key(1).peer_id, Request("anchor"), deadline=soon())
        trusted_heads(company, 2)
        company.network.freeze(key(2).peer_id)
        began = soon(0)
        chosen = await newcomer.choose(claims_of([1, 2], 3, A), soon(3))
        assert chosen is not None
        assert soon(0) - began <= 3.1

    simulate(story())


def test_an_organiser_without_a_state_tells_nothing() -> None:
    async def story() -> None:
        company = Company()
        organiser = trusted_heads(company, 0)
        friend = trusted_heads(company, 1)
        telling = asyncio.create_task(organiser.keep_telling(lambda: None, lambda: [key(1).peer_id]))
        await asyncio.sleep(2 * TELL_SECONDS + 1)
        telling.cancel()
        assert friend.newest is None

    simulate(story())
