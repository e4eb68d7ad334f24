"""One call in a small population: an update in, the average of the group out."""

# Axes: P parameters of the whole model

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from averaging.certificate import packed
from averaging.codecs import Shape, codec_of, result_codec
from averaging.group_average import BRIEF, GroupResult
from averaging.messages import header_bytes
from averaging.outcome import (
    Alone,
    Decided,
    Declined,
    Followed,
    NoDecision,
    Outcome,
    Unanswered,
    Undecided,
    Void,
)
from averaging.record import Record, UpdateShape
from averaging.signed_rounds import SignedInMemory, SignedRounds
from swarm.identity import KeyPair
from swarm.manifest import Codec, Exchange
from swarm.simulation.network import SimulatedNetwork
from tests.averaging.averagers import (
    KEYS,
    MANIFEST,
    NUMBERS,
    OTHER,
    OTHERS_ID,
    ROOT,
    ROUND,
    SHAPE,
    Elsewhere,
    Peer,
    decided,
    drawn,
    ids_of,
    manifest_with,
    stage,
    together,
)
from tests.certificates import Company


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


# --- our group may have decided without us ------------------------------------------------------------------


def misses_decisions(peer: Peer, form: type[Undecided | Void] = Undecided) -> None:
    """From here on ``peer`` never hears what its groups decide."""
    averager: Any = peer.averager
    average = averager._groups.average

    async def without_decision(*args: Any) -> GroupResult:
        found: GroupResult = await average(*args)
        return replace(found, result=form("too few ballots", found.plan.group, ()))

    averager._groups.average = without_decision


async def round_with_one_unheard(
    peers: list[Peer], elsewhere: Elsewhere, round_: int = 0, **update: Any
) -> tuple[Outcome, list[Decided]]:
    """What the first peer comes to, which asks ``elsewhere``, and what the others have decided."""
    late, *others = peers
    close_at = asyncio.get_running_loop().time() + 5
    first = asyncio.create_task(
        late.average(drawn(0), round_, close_at=close_at, elsewhere=elsewhere, **update)
    )
    rest = [peer.average(drawn(seat), round_, close_at=close_at) for seat, peer in enumerate(others, 1)]
    averages = decided(await asyncio.gather(*rest))
    elsewhere.heard = elsewhere.heard or averages[0].record
    return await first, averages


@pytest.mark.parametrize("form", [Undecided, Void])
def test_a_member_that_has_missed_the_decision_asks_the_other_members_for_it(
    form: type[Undecided | Void],
) -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        elsewhere = Elsewhere()
        misses_decisions(peers[0], form)
        followed, averages = await round_with_one_unheard(peers, elsewhere)
        assert isinstance(followed, Followed)
        assert torch.equal(followed.average_P, averages[0].average_P)
        assert (followed.record, followed.reason) == (averages[0].record, "too few ballots")
        assert followed.origin == averages[0].origin
        assert elsewhere.asked == [tuple(ids_of(peers[1:]))], "and nobody else"
        assert elsewhere.announced == [], "it has not come late"

    stage(scene)


@pytest.mark.parametrize("exchange", list(Exchange))
@pytest.mark.parametrize("feedback", [1.0, 0.5])
@pytest.mark.parametrize("codec", [None, Codec.INT4])
def test_after_the_record_of_its_own_group_a_member_has_the_residual_of_one_that_has_heard_the_decision(
    exchange: Exchange, feedback: float, codec: Codec | None
) -> None:
    """Bit for bit: what was applied of its update is not carried over a second time, and nothing is lost."""
    manifest = manifest_with(exchange=exchange, feedback=feedback)

    def residual(*, is_heard: bool) -> Tensor:
        found: list[Tensor] = []

        async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
            shape = UpdateShape(spec=manifest.round, tensors=(NUMBERS,))
            await round_with_one_unheard(peers, Elsewhere(shape))
            if not is_heard:
                misses_decisions(peers[0])
            outcome, _ = await round_with_one_unheard(peers, Elsewhere(shape), 1, codec=codec)
            assert isinstance(outcome, Decided if is_heard else Followed)
            found.append(peers[0].residual.clone())

        stage(scene, manifest=manifest)
        return found[0]

    assert torch.equal(residual(is_heard=False), residual(is_heard=True))


def test_without_a_record_that_holds_a_member_that_has_missed_the_decision_carries_everything_over() -> None:
    """Also a record that a single member has made up."""

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        misses_decisions(peers[0])
        forger = Company(run=MANIFEST.run_id, keys=KEYS[2:], root=ROOT, tokens=100)
        made_up = Record(0, items=(b"x",), certificate=packed(forger.decision()))
        for round_, heard in enumerate((made_up, Record(0))):
            elsewhere = Elsewhere(heard=heard)
            before_P = peers[0].residual.clone() if round_ else torch.zeros(NUMBERS)
            outcome, averages = await round_with_one_unheard(peers, elsewhere, round_)
            assert isinstance(outcome, Undecided)
            assert outcome.group == averages[0].group
            assert len(elsewhere.refused) == 1
            assert torch.equal(peers[0].residual, drawn(0) + before_P)

    stage(scene)


def test_a_member_asks_for_the_record_of_its_own_group_no_longer_than_forming_a_group_takes() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        elsewhere = Elsewhere()
        misses_decisions(peers[0])
        _, averages = await round_with_one_unheard(peers, elsewhere)
        now = asyncio.get_running_loop().time()
        assert elsewhere.deadlines == [pytest.approx(now - 1.0 + ROUND.assemble_seconds, abs=0.1)]
        assert averages

    stage(scene)


# --- rounds that it may have signed for ---------------------------------------------------------------------


async def after_restart(peers: list[Peer], elsewhere: Elsewhere | None) -> Outcome:
    """What the first peer comes to in a round that it may have signed for before it was started again."""
    first, *rest = peers
    store = SignedInMemory()
    store.keep(0)
    averager: Any = first.averager
    averager._groups._signed_rounds = SignedRounds(store, first.arithmetic)
    others = [peer.average(drawn(seat)) for seat, peer in enumerate(rest, 1)]
    late = asyncio.create_task(first.average(drawn(0), elsewhere=elsewhere))
    averages = [each for each in await asyncio.gather(*others) if isinstance(each, Decided)]
    if elsewhere and averages:
        elsewhere.heard = averages[0].record
    return await late


def test_a_peer_stays_out_of_a_round_that_it_may_have_signed_for_and_follows_the_others() -> None:
    """A second vote, for another group, would be evidence against it."""

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        for peer in peers[1:]:
            peer.expects = ids_of(peers[1:])
        elsewhere = Elsewhere(SHAPE)
        followed = await after_restart(peers, elsewhere)
        assert isinstance(followed, Followed)
        assert followed.reason == "this peer may have signed for another group of this round"
        assert not {peers[0].id} & set(followed.origin.members)
        assert set(elsewhere.asked[0]) <= set(ids_of(peers[1:]))
        assert torch.equal(peers[0].residual, drawn(0)), "its update rides with the next one"

    stage(scene, 3)


@pytest.mark.parametrize("asks", [True, False])
def test_a_peer_that_stays_out_and_hears_of_no_record_carries_its_update_over(asks: bool) -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        peers[0].expects = [OTHERS_ID]
        elsewhere = Elsewhere() if asks else None
        outcome = await after_restart(peers, elsewhere)
        assert outcome == Unanswered("this peer may have signed for another group of this round", 0)
        assert elsewhere is None or OTHERS_ID in elsewhere.asked[0]
        assert torch.equal(peers[0].residual, drawn(0))
        peers[0].expects = ()
        next_one = await peers[0].average(drawn(1), 1)
        assert isinstance(next_one, Decided), "in that one it may sign"
        assert torch.equal(next_one.average_P, drawn(1) + drawn(0))

    stage(scene, 1)


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
