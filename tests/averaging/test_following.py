"""A peer that was turned away waits for the record of the group that stands, and takes the same step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
import torch

from averaging.certificate import packed
from averaging.outcome import Decided, Declined, Followed, Outcome
from averaging.record import Judge, VerifiedRecord
from swarm.identity import PeerId
from swarm.simulation.network import SimulatedNetwork
from tests.averaging.averagers import (
    KEYS,
    MANIFEST,
    OTHER,
    ROOT,
    ROUND,
    Elsewhere,
    Peer,
    decided,
    drawn,
    ids_of,
    stage,
)
from tests.certificates import Company

WITHOUT_US = "the group of this round is formed without us"


async def late(peers: list[Peer], elsewhere: Elsewhere) -> tuple[Decided, Outcome]:
    """The average of two peers, and what a third one comes to that is late for it."""
    a, b, c = peers
    a.expects = b.expects = ids_of([a, b])
    averages = decided(await asyncio.gather(a.average(drawn(0)), b.average(drawn(1))))
    if elsewhere.heard is None:
        elsewhere.heard = averages[0].record
    close_at = asyncio.get_running_loop().time() + 5
    return averages[0], await c.average(drawn(2), close_at=close_at, elsewhere=elsewhere)


def test_a_late_peer_takes_the_same_step_and_carries_its_update_over() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        elsewhere = Elsewhere()
        averaged, followed = await late(peers, elsewhere)
        assert isinstance(followed, Followed)
        assert torch.equal(followed.average_P, averaged.average_P)
        assert (followed.record, followed.reason) == (averaged.record, WITHOUT_US)
        assert followed.origin == averaged.origin
        assert 1.0 <= followed.seconds < 2.0
        assert torch.equal(peers[2].residual, drawn(2))

    stage(scene)


def test_the_peer_that_turned_us_away_is_asked_first_and_the_next_leaders_are_told() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        elsewhere = Elsewhere()
        await late(peers, elsewhere)
        ((first, *_),) = elsewhere.asked
        assert first in ids_of(peers[:2])
        assert elsewhere.announced == [0], "the round of that peer"
        assert elsewhere.roots == [ROOT]
        now = asyncio.get_running_loop().time()
        assert elsewhere.deadlines == [pytest.approx(now + ROUND.average_seconds, abs=2.0)]

    stage(scene)


FORGER = Company(run=MANIFEST.run_id, keys=KEYS[2:], tokens=100)
"""A group of one peer that is in no average of the others."""


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"items": ()}, "the items of the record are not those that were decided"),
        ({"items": (b"x",)}, "the items of the record are not those that were decided"),
        ({"tokens": 2}, "the record is not what its certificate says"),
        ({"population": 9}, "the record is not what its certificate says"),
        ({"stops": (500, 1000)}, "the record is not what its certificate says"),
        ({"certificate": b""}, "not a DecisionCertificate"),
        ({"certificate": packed(FORGER.decision())}, "the items of the record are not those"),
    ],
    ids=["void", "other items", "tokens", "population", "parts", "no certificate", "of itself alone"],
)
def test_a_record_that_is_not_what_its_certificate_says_is_not_followed(
    change: dict[str, object], why: str
) -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        class Lies(Elsewhere):
            """Changes the record that is heard."""

            async def record(
                self, root: bytes, donors: Sequence[PeerId], judge: Judge, deadline: float
            ) -> VerifiedRecord | None:
                assert self.heard is not None
                self.heard = msgspec.structs.replace(self.heard, **change)
                return await super().record(root, donors, judge, deadline)

        elsewhere = Lies()
        _, outcome = await late(peers, elsewhere)
        assert isinstance(outcome, Declined)
        assert outcome.by in ids_of(peers[:2])
        assert elsewhere.refused[0].startswith(why)
        assert torch.equal(peers[2].residual, drawn(2))

    stage(scene)


def test_a_record_that_no_donor_has_is_not_followed() -> None:
    class Nobody(Elsewhere):
        async def record(self, root: bytes, donors: object, judge: object, deadline: float) -> None:
            return None

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        _, outcome = await late(peers, Nobody())
        assert isinstance(outcome, Declined)
        assert outcome.reason == WITHOUT_US

    stage(scene)


def test_a_peer_that_found_out_itself_that_it_is_not_in_the_group_follows_nobody() -> None:
    """It leads, but its model differs from the majority's: it has to fetch theirs."""

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        for leader in peers:
            elsewhere = Elsewhere()
            outcome = await odd_one(peers, leader, elsewhere)
            if isinstance(outcome, Declined) and outcome.by is None:
                assert outcome.reason == "our model differs from the majority's"
                assert elsewhere.asked == []
                return
        raise AssertionError("one of the three leads")

    rounds = iter(range(3))

    async def odd_one(peers: list[Peer], odd: Peer, elsewhere: Elsewhere) -> Outcome:
        round_ = next(rounds)
        close_at = asyncio.get_running_loop().time() + 5
        tasks = [
            peer.average(
                drawn(0),
                round_,
                close_at=close_at,
                state_root=OTHER if peer is odd else ROOT,
                elsewhere=elsewhere if peer is odd else None,
            )
            for peer in peers
        ]
        return (await asyncio.gather(*tasks))[peers.index(odd)]

    stage(scene)


def test_a_follower_has_a_part_in_the_next_round() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        await late(peers, Elsewhere())
        for peer in peers:
            peer.expects = ids_of(peers)
        close_at = asyncio.get_running_loop().time() + 5
        outcomes = await asyncio.gather(*(peer.average(drawn(9), 1, close_at=close_at) for peer in peers))
        members: set[PeerId] = {member for each in decided(outcomes) for member in each.present}
        assert members == set(ids_of(peers))
        assert peers[2].residual.norm() < 0.05 * drawn(2).norm(), "its first update is in this average"

    stage(scene)


def test_records_are_equal_on_all_members() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        outcomes = await asyncio.gather(*(peer.average(drawn(n)) for n, peer in enumerate(peers)))
        records = [each.record for each in decided(outcomes)]
        bare = {
            msgspec.msgpack.encode(msgspec.structs.replace(record, certificate=b""))
            for record in records
            if record
        }
        assert len(bare) == 1, "each has its own two thirds of the signatures"

    stage(scene)
