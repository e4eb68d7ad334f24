"""One call in a small population: an update in, the average of the group out."""

# Axes: P parameters of the whole model

from __future__ import annotations

import asyncio

import msgspec
import pytest
import torch

from averaging.averager import _Asking
from averaging.certificate import EVERYBODY
from averaging.codecs import Shape, codec_of, result_codec
from averaging.group_average import BRIEF
from averaging.messages import header_bytes
from averaging.outcome import Alone, Decided, Declined, Followed, NoDecision, Undecided
from averaging.record import Record
from swarm.identity import KeyPair
from swarm.manifest import Codec, Exchange
from swarm.simulation.network import SimulatedNetwork
from tests.averaging.averagers import (
    NUMBERS,
    OTHER,
    OTHERS_ID,
    ROUND,
    Elsewhere,
    Peer,
    decided,
    drawn,
    ids_of,
    manifest_with,
    stage,
    together,
    update_of,
)


def test_jobs_of_a_short_update_are_brief_except_the_sum_of_whole_updates() -> None:
    """It grows with the group and would block the event loop: 64 updates of `BRIEF` numbers take 40 ms."""
    kinds = {"EncodeParts", "CheckPart", "ReducePart", "CheckResult", "DecodeResults"}

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        await together(peers)
        for peer in peers:
            assert peer.arithmetic.jobs[True] >= kinds
            assert peer.arithmetic.jobs[False] == {"KeepRound"}

    async def gather(network: SimulatedNetwork, peers: list[Peer]) -> None:
        await together(peers)
        assert all(peer.arithmetic.jobs[False] == {"CombineUpdates", "KeepRound"} for peer in peers)

    async def long(network: SimulatedNetwork, peers: list[Peer]) -> None:
        await asyncio.gather(*(peer.average(torch.ones(BRIEF + 1)) for peer in peers))
        assert all(peer.arithmetic.jobs[False] >= kinds for peer in peers)
        assert all(not peer.arithmetic.jobs[True] & kinds for peer in peers)

    stage(scene)
    stage(gather, manifest=manifest_with(exchange=Exchange.GATHER))
    stage(long)


def test_all_get_the_same_bits_and_keep_what_the_codec_lost() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        averages = decided(await together(peers))
        for averaged in averages:
            assert averaged.group.members == averaged.present == tuple(ids_of(peers))
            assert (averaged.missing, averaged.tokens, averaged.population) == ((), 300, 3)
            assert averaged.is_counted
            assert without_proof(averaged) == without_proof(averages[0])
        mean_P = torch.stack([drawn(seat) for seat in range(3)]).mean(0)
        assert torch.nn.functional.cosine_similarity(averages[0].average_P, mean_P, dim=0) > 0.99
        for seat, peer in enumerate(peers):
            assert 0 < peer.residual.norm() < 0.02 * drawn(seat).norm()

    stage(scene)


FOUR = sorted((KeyPair.from_seed(bytes([n]) * 32) for n in range(4)), key=lambda key: key.peer_id)


def without_proof(averaged: Decided) -> Record:
    """Its record. Every member has its own two thirds of the signatures."""
    assert averaged.record is not None
    return msgspec.structs.replace(averaged.record, certificate=b"")


def test_a_small_population_asks_nobody_what_others_have_decided() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        elsewhere = Elsewhere()
        outcomes = await asyncio.gather(
            *(peer.average(drawn(seat), elsewhere=elsewhere) for seat, peer in enumerate(peers))
        )
        decided(outcomes)
        assert (elsewhere.asked, elsewhere.announced) == ([], [])

    stage(scene)


def test_rounds_follow_each_other_and_messages_of_one_never_disturb_the_next() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        loop = asyncio.get_running_loop()
        for round_ in range(3):
            decided(await together(peers, round_, close_at=loop.time() + 5))
            assert len(peers[0].post.shelf) == 3

    stage(scene)


def test_the_average_of_a_peer_that_is_alone_is_its_update_with_the_residual() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        peers[0].averager.restore(drawn(5))
        averaged = await peers[0].average(drawn(0))
        assert isinstance(averaged, Decided)
        assert torch.equal(averaged.average_P, drawn(0) + drawn(5))
        assert averaged.record is None
        assert (averaged.tokens, averaged.population) == (100, 1)
        assert not peers[0].residual.any()
        assert asyncio.get_running_loop().time() < 1

    stage(scene, 1)


def test_a_peer_that_is_alone_while_others_are_present_carries_its_update_over() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        outcome = await peers[0].average(drawn(0), others=(OTHERS_ID,))
        assert outcome == Alone("nobody else came, though others are here", 0)
        assert torch.equal(peers[0].residual, drawn(0))

    stage(scene, 1)


def test_a_peer_that_is_turned_away_carries_its_update_over_to_the_next_round() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        a, b, c = peers
        left_out, *_ = await asyncio.gather(
            a.average(drawn(0), state_root=OTHER), b.average(drawn(1)), c.average(drawn(2))
        )
        assert isinstance(left_out, Declined)
        assert torch.equal(a.residual, drawn(0))
        decided(await together(peers, 1, close_at=asyncio.get_running_loop().time() + 5))
        assert a.residual.norm() < 0.05 * drawn(0).norm()

    stage(scene)


def test_a_peer_that_comes_when_the_group_stands_is_told_where_the_run_is() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        a, b, c = peers
        a.expects = b.expects = ids_of([a, b])
        await asyncio.gather(a.average(drawn(0)), b.average(drawn(1)))
        began = asyncio.get_running_loop().time()
        late = await c.average(drawn(2), close_at=began + 5)
        assert isinstance(late, Declined)
        assert (late.round, late.reason) == (0, "the group of this round is formed without us")
        assert late.by in (a.id, b.id)
        assert asyncio.get_running_loop().time() < began + 1

    stage(scene)


def test_a_crash_in_the_round_costs_the_others_that_member_and_no_bits() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        *others, last = peers
        task = asyncio.create_task(last.average(drawn(2)))
        asyncio.get_running_loop().call_at(0.4, network.crash, last.id)
        averages = decided(await asyncio.gather(*(peer.average(drawn(0)) for peer in others)))
        assert averages[0].seconds < ROUND.average_seconds
        task.cancel()

    stage(scene, 4, keys=FOUR)


def test_of_three_members_each_is_needed_and_without_one_all_carry_their_updates_over() -> None:
    """More than two thirds of three are three: two could not tell a dead member from a liar."""

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        a, b, c = peers
        task = asyncio.create_task(c.average(drawn(2)))
        asyncio.get_running_loop().call_at(0.4, network.crash, c.id)
        for outcome in await asyncio.gather(a.average(drawn(0)), b.average(drawn(1))):
            assert isinstance(outcome, NoDecision)
        assert torch.equal(a.residual, drawn(0))
        task.cancel()

    stage(scene)


def test_a_member_that_has_missed_the_decision_gets_the_record_from_a_member_that_has_it() -> None:
    """Then what was applied of its update is not carried over a second time."""

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        averaged = decided(await together(peers))[0]
        late = peers[0]
        outcome = Undecided("too few ballots", averaged.group, ())
        late.averager._feedbacks[0].adopt(drawn(0))
        elsewhere = Elsewhere(heard=averaged.record)
        asking = _Asking(elsewhere, ids_of(peers[1:]), EVERYBODY)
        followed = await late.averager._ask_own_group(update_of(drawn(0)), outcome, asking)
        assert isinstance(followed, Followed)
        assert torch.equal(followed.average_P, averaged.average_P)
        assert 0 < late.residual.norm() < 0.02 * drawn(0).norm()

    stage(scene)


def test_without_a_decision_the_whole_update_is_carried_over() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        a, b = peers
        asyncio.get_running_loop().call_at(0.35, network.cut, a.id, b.id)
        for outcome in await together(peers):
            assert isinstance(outcome, NoDecision)
            assert outcome.reason
            assert outcome.group.members == tuple(ids_of(peers))
        for seat, peer in enumerate(peers):
            assert torch.equal(peer.residual, drawn(seat))
        assert asyncio.get_running_loop().time() <= 5 + 2 * ROUND.assemble_seconds + ROUND.average_seconds + 1

    stage(scene, 2)


def test_a_peer_that_is_late_itself_still_listens_before_it_leads() -> None:
    """Its time to wait for the others was over before it began: they are present, and not left behind."""

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        await asyncio.sleep(100)
        for averaged in decided(await together(peers, close_at=50)):
            assert averaged.group.members == tuple(ids_of(peers))

    stage(scene)


@pytest.mark.parametrize("codec", list(Codec))
def test_any_codec_of_the_manifest_serves(codec: Codec) -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        decided(await together(peers))
        size = codec_of(result_codec(codec), Shape((512,))).size(512)
        assert size + header_bytes(2) in {len(item) for item in peers[0].post.shelf.values()}

    stage(scene, 2, manifest_with(codec=codec))


@pytest.mark.parametrize("codec", [Codec.FP32, Codec.INT8])
def test_an_average_is_written_over_by_the_next_one_and_not_before(codec: Codec) -> None:
    """Fresh memory costs more than the work done in it."""

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        first = decided(await together(peers))[0].average_P
        copy = first.clone()
        await asyncio.sleep(60)
        assert torch.equal(first, copy), "valid until the next call"
        second, others = decided(await together(peers, 1))
        assert second.average_P is first, "its memory"
        assert torch.equal(first, others.average_P), "and the bits of all"

    stage(scene, 2, manifest_with(codec=codec))


def test_an_average_of_another_length_is_not_written_over() -> None:
    """The fragments of a model may differ in length."""

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        first = decided(await together(peers))[0].average_P
        copy = first.clone()
        vectors = [drawn(seat, NUMBERS + 1) for seat in range(2)]
        outcomes = await asyncio.gather(
            *(peer.average(vector, 1, fragment=1) for peer, vector in zip(peers, vectors, strict=True))
        )
        assert len(decided(outcomes)[0].average_P) == NUMBERS + 1
        assert torch.equal(first, copy)

    stage(scene, 2)


def test_the_update_of_a_peer_that_was_alone_is_never_written_over() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        update_P = drawn(0)
        peers[0].expects = ()
        alone = await peers[0].average(update_P, close_at=0.1)
        assert isinstance(alone, Decided)
        assert alone.average_P is update_P
        peers[0].expects = ids_of(peers)
        decided(await together(peers, 1))
        assert torch.equal(update_P, drawn(0))

    stage(scene, 2, manifest_with(codec=Codec.FP32))


@pytest.mark.parametrize("exchange", list(Exchange))
def test_a_slow_uplink_sends_a_smaller_update_than_the_others(exchange: Exchange) -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        outcomes = await asyncio.gather(
            peers[0].average(drawn(0)),
            peers[1].average(drawn(1), codec=Codec.INT4),
            peers[2].average(drawn(2)),
        )
        assert [each.missing for each in decided(outcomes)] == [()] * 3
        errors = [float(peer.residual.norm() / drawn(seat).norm()) for seat, peer in enumerate(peers)]
        assert 0 < max(errors[0], errors[2]) < 0.02 < errors[1] < 0.2

    stage(scene, 3, manifest_with(exchange=exchange))


@pytest.mark.parametrize("feedback", [0.0, 0.5])
def test_the_residual_decays_as_the_manifest_says(feedback: float) -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        await together(peers)
        codec = codec_of(Codec.INT8)
        parts = [drawn(0)[:512], drawn(0)[512:]]
        lost_P = torch.cat([part - codec.decode(codec.encode(part), len(part)) for part in parts])
        assert torch.allclose(peers[0].residual, feedback * lost_P, atol=1e-7)

    stage(scene, 2, manifest_with(feedback=feedback))


def test_what_is_not_applied_of_a_fragment_rides_with_the_next_update_of_the_same_fragment() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        for round_ in range(4):
            fragment = round_ % 2
            numbers = NUMBERS + fragment
            vectors = [drawn(seat, numbers) for seat in range(2)]
            before = [peer.averager.residual(fragment) for peer in peers]
            residuals = [torch.zeros(numbers) if each is None else each.clone() for each in before]
            outcomes = await asyncio.gather(
                *(
                    peer.average(vector, round_, fragment=fragment)
                    for peer, vector in zip(peers, vectors, strict=True)
                )
            )
            average_P = decided(outcomes)[0].average_P
            if round_ > 1:
                assert all(residual.any() for residual in residuals), "of the round before the last"
            carried = [vector + residual for vector, residual in zip(vectors, residuals, strict=True)]
            mean_P = torch.stack(carried).mean(0)
            assert float((average_P - mean_P).norm() / mean_P.norm()) < 0.2
        lengths = {
            len(residual) for residual in map(peers[0].averager.residual, (0, 1)) if residual is not None
        }
        assert lengths == {NUMBERS, NUMBERS + 1}

    stage(scene, 2, manifest_with(codec=Codec.INT4))
