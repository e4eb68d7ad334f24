"""What a peer answers to messages for rounds in which it has no open assembly."""

from __future__ import annotations

import asyncio

from averaging.certificate import packed, unpacked_group
from averaging.closed_rounds import REMEMBERED, ClosedRounds
from averaging.messages import Decline, DeclineReason, Proposal, Ready, Vote
from averaging.outcome import Alone, Unanswered
from swarm.machine import Received
from swarm.simulation.network import SimulatedNetwork
from swarm.transport.post import Inbox
from swarm.wire import LEVEL_2, NO_GROUP, Message, Stamp, open_frame, seal
from tests.averaging.averagers import KEYS, MANIFEST, OTHER, OTHERS_ID, ROOT, Peer, drawn, stage
from tests.certificates import Company


async def answers(
    asker: Peer, asked: Peer, round_: int, *messages: Message, level: bytes = NO_GROUP
) -> list[Message]:
    """What ``asked`` sends back within a second."""
    topic = (round_, level)
    inbox = asker.post.open(topic)
    stamp = Stamp(MANIFEST.run_id, round_, level)
    for message in messages:
        asker.post.send((asked.id,), message, stamp, deadline=1000, failures=Inbox())
    await asyncio.sleep(1)
    events = [inbox.events.get_nowait() for _ in range(inbox.events.qsize())]
    asker.post.close(topic)
    return [event.signed.message for event in events if isinstance(event, Received)]


def closed(peer: Peer, *rounds: int, root: bytes = ROOT) -> ClosedRounds:
    """Of a peer that has had a group in these rounds, in this order."""
    closed_rounds = ClosedRounds(MANIFEST, peer.post)
    for round_ in rounds:
        peer.post.open((round_, NO_GROUP))
        peer.post.close((round_, NO_GROUP))
        closed_rounds.begin(round_)
        closed_rounds.formed(round_, root, company(round_).group_certificate())
    return closed_rounds


def company(round_: int) -> Company:
    return Company(run=MANIFEST.run_id, keys=KEYS, round=round_)


def over(round_: int, now: int) -> Decline:
    proof = packed(company(round_).group_certificate())
    reason = f"round {round_} is over, the run is at {now}"
    return Decline(now, reason, DeclineReason.FORMED, proof)


def test_a_ready_or_a_proposal_for_a_round_that_is_over_is_declined_and_nothing_else_is_answered() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        a, b = peers
        closed(a, 3)
        assert await answers(b, a, 3, Ready(ROOT)) == [over(3, 3)]
        assert await answers(b, a, 3, Proposal((b"frame",))) == [over(3, 3)]
        assert await answers(b, a, 3, Decline(3, "no"), Vote()) == []

    stage(scene, 2)


def test_a_peer_that_had_no_group_turns_nobody_away() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        a, b = peers
        a.expects = ()
        assert isinstance(await a.average(drawn(0), 3, others=(OTHERS_ID,)), Alone)
        assert await answers(b, a, 3, Ready(ROOT)) == []

    stage(scene, 2)


def test_a_peer_that_had_a_group_turns_others_away() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        a, b = peers
        a.expects = ()
        await a.average(drawn(0), 3)
        (answer,) = await answers(b, a, 3, Ready(ROOT))
        assert isinstance(answer, Decline)
        assert unpacked_group(answer.certificate, MANIFEST.run_id).voters == {a.id}

    stage(scene, 2)


def test_a_peer_that_is_ready_with_another_model_hears_only_that_we_train_from_ours() -> None:
    """Both sides of a partition count the same rounds: one side's are not the other side's."""

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        a, b = peers
        closed(a, *range(3, 3 + REMEMBERED + 1))
        here = 3 + REMEMBERED
        absent = Decline(here, "we train from another model", DeclineReason.ABSENT)
        forgotten = Decline(here, f"round 3 is over, the run is at {here}", DeclineReason.ABSENT)
        assert await answers(b, a, 3, Ready(OTHER)) == [forgotten], "there is no proof any more"
        assert await answers(b, a, 4, Ready(OTHER)) == [absent]
        assert await answers(b, a, 4, Ready(ROOT)) == [over(4, here)]

    stage(scene, 2)


def test_a_round_that_is_further_than_the_next_one_waits_for_us_to_catch_up() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        a, b = peers
        closed(a, 3)
        next_round = seal(b.key, Ready(ROOT), Stamp(MANIFEST.run_id, 4))
        a.post.stray(open_frame(next_round, Ready, run=MANIFEST.run_id))
        assert await answers(b, a, 4) == [], "we may be in it soon"
        catching_up = Decline(3, "still catching up", DeclineReason.ABSENT)
        assert await answers(b, a, 5, Ready(ROOT)) == [catching_up]

    stage(scene, 2)


def test_a_peer_that_rejoins_an_earlier_round_turns_nobody_away_from_it() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        a, b = peers
        a.expects = ()
        for round_ in (3, 4):
            await a.average(drawn(0), round_)
        a.averager.rejoin(4)
        assert len(await answers(b, a, 3, Ready(ROOT))) == 1
        assert await answers(b, a, 4, Ready(ROOT)) == [], "it is heard as soon as we are ready"
        a.expects = (b.id,)
        b.expects = (a.id,)
        again = await a.average(drawn(0), 4)
        assert isinstance(again, Unanswered), "it has voted in this round before"
        group = await asyncio.gather(a.average(drawn(0), 5), b.average(drawn(1), 5))
        assert [len(each.group.members) for each in group] == [2, 2]  # type: ignore[union-attr]

    stage(scene, 2)


def test_a_peer_outside_the_level2_group_tells_the_peers_that_wait_for_it_there() -> None:
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        a, b = peers
        rounds = closed(a, 3)
        absent = Decline(3, "we are no representative now", DeclineReason.ABSENT)
        rounds.skip_level2(3)
        assert await answers(b, a, 3, Ready(ROOT), level=LEVEL_2) == [absent]

    stage(scene, 2)


def test_a_peer_that_is_ready_for_the_level2_group_is_answered_as_soon_as_we_know_that_we_are_not_in_it() -> (
    None
):
    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        a, b = peers
        rounds = closed(a, 3)
        asyncio.get_running_loop().call_later(0.5, rounds.skip_level2, 3)
        absent = Decline(3, "we are no representative now", DeclineReason.ABSENT)
        assert await answers(b, a, 3, Ready(ROOT), level=LEVEL_2) == [absent]

    stage(scene, 2)


def test_a_member_of_the_level2_group_proves_to_a_late_representative_that_this_group_stands() -> None:
    """The certificate of its level-1 group would prove nothing there."""

    async def scene(network: SimulatedNetwork, peers: list[Peer]) -> None:
        a, b = peers
        rounds = closed(a, 3)
        level2 = Company(run=MANIFEST.run_id, keys=KEYS, round=3, peers=16, level1_groups=4)
        a.post.open((3, LEVEL_2))
        rounds.formed_level2(3, ROOT, level2.group_certificate())
        a.post.close((3, LEVEL_2))
        proof = packed(level2.group_certificate())
        late = Decline(3, "round 3 is over, the run is at 3", DeclineReason.FORMED, proof)
        assert await answers(b, a, 3, Ready(ROOT, peers=16), level=LEVEL_2) == [late]
        assert unpacked_group(proof, MANIFEST.run_id).seated.level1_groups == 4
        assert await answers(b, a, 3, Ready(ROOT)) == [over(3, 3)], "on its own level the other one"

    stage(scene, 2)
