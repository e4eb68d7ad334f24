"""One call: an update in, the group's average out. Two or three averagers on the simulated network, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import pytest
import torch
from torch import Tensor

from averaging.averager import BRIEF, FORMS, REMEMBERED, Averaged, Averager, Company, Update
from averaging.codecs import Shape, codec_of, result_codec
from averaging.messages import Decline, DeclineReason, Ready, flag_bytes
from swarm.identity import KeyPair, PeerId
from swarm.machine import Received, Report
from swarm.manifest import Codec, DataSpec, Exchange, InnerSpec, ModelSpec, OuterSpec, RoundSpec, RunManifest
from swarm.simulation.clock import simulate
from swarm.simulation.network import Link, SimulatedNetwork
from swarm.transport.post import Inbox, Post
from swarm.wire import PROTOCOL, Message, Stamp

T = TypeVar("T")

NUMBERS = 1000
ROOT, OTHER = bytes([7]) * 32, bytes([8]) * 32
KEYS = sorted((KeyPair.from_seed(bytes([n]) * 32) for n in range(3)), key=lambda key: key.peer_id)
ROUND = RoundSpec(average_seconds=20.0, assemble_seconds=4.0, codec=Codec.INT8)
MANIFEST = RunManifest(
    PROTOCOL,
    "a run",
    KEYS[0].public,
    0,
    ModelSpec(),
    DataSpec(bytes(32), 1000),
    ROUND,
    InnerSpec(),
    OuterSpec(),
    rounds=10,
)
"""Of a run in which nothing matters but how it averages."""


class Slow:
    """Arithmetic at a hundredth of a second a piece. Keeps who asked for it as brief, and who did not."""

    def __init__(self) -> None:
        self.asked: dict[bool, set[str]] = {False: set(), True: set()}

    async def run(self, job: Callable[[], T], *, is_brief: bool = False) -> T:
        self.asked[is_brief].add(type(getattr(job, "__self__", None)).__name__)
        await asyncio.sleep(0.01)
        return job()


@dataclass(eq=False)
class Person:
    """One averager, with its line to the others."""

    key: KeyPair
    post: Post
    averager: Averager
    arithmetic: Slow
    reports: list[Report] = field(default_factory=list)
    expects: Sequence[PeerId] = ()

    @property
    def id(self) -> PeerId:
        return self.key.peer_id

    async def brings(
        self,
        vector_P: Tensor,
        round_: int = 0,
        *,
        close_at: float = 5.0,
        root: bytes = ROOT,
        codec: Codec | None = None,
        fragment: int = 0,
        **more: bool,
    ) -> Averaged:
        """Average it with everybody."""
        update = Update(
            round=round_,
            vector_P=vector_P,
            tokens=100,
            seed=bytes(32),
            state_root=root,
            codec=codec,
            fragment=fragment,
        )
        expected = [peer for peer in self.expects if peer != self.id]
        return await self.averager.average(update, Company(expected, close_at, **more))


Scene = Callable[[SimulatedNetwork, list[Person]], Awaitable[None]]


def stage(scene: Scene, count: int = 3, manifest: RunManifest = MANIFEST) -> None:
    """Act a scene; no task may outlive it."""

    async def main() -> None:
        network = SimulatedNetwork(1, Link(latency=0.05, jitter=0.01))
        async with asyncio.TaskGroup() as tasks:
            people: list[Person] = []
            for key in KEYS[:count]:
                post = Post(network.attach(key.peer_id), key, manifest.run_id, tasks, FORMS)
                reports: list[Report] = []
                arithmetic = Slow()
                averager = Averager(manifest, key, post, arithmetic, tasks, reports.append)
                people.append(
                    Person(key, post, averager, arithmetic, reports, [k.peer_id for k in KEYS[:count]])
                )
            await scene(network, people)

    left: list[str] = []
    simulate(main(), leftovers=left)
    assert left == []


def drawn(seed: int) -> Tensor:
    return torch.randn(NUMBERS, generator=torch.Generator().manual_seed(seed))


def residual(person: Person) -> Tensor:
    residual_P = person.averager.residual()
    assert residual_P is not None
    return residual_P


def test_jobs_of_a_short_update_are_brief_but_for_the_sum_of_whole_updates() -> None:
    """What grows with the group would hold up the event loop: 64 updates of `BRIEF` numbers take 40 ms to sum."""
    kinds = {"EncodeParts", "CheckPart", "ReducePart", "CheckResult", "DecodeResults"}

    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        await asyncio.gather(*(person.brings(drawn(seat)) for seat, person in enumerate(people)))
        for person in people:
            assert person.arithmetic.asked[True] >= kinds
            assert person.arithmetic.asked[False] == set()

    async def gathers(network: SimulatedNetwork, people: list[Person]) -> None:
        await asyncio.gather(*(person.brings(drawn(seat)) for seat, person in enumerate(people)))
        assert all(person.arithmetic.asked[False] == {"CombineUpdates"} for person in people)

    async def long(network: SimulatedNetwork, people: list[Person]) -> None:
        await asyncio.gather(*(person.brings(torch.ones(BRIEF + 1)) for person in people))
        assert all(person.arithmetic.asked[False] >= kinds for person in people)
        assert all(not person.arithmetic.asked[True] & kinds for person in people)

    stage(scene)
    gather = msgspec.structs.replace(ROUND, exchange=Exchange.GATHER)
    stage(gathers, manifest=msgspec.structs.replace(MANIFEST, round=gather))
    stage(long)


async def together(people: list[Person], round_: int = 0, *, close_at: float = 5.0) -> list[Averaged]:
    return await asyncio.gather(
        *(person.brings(drawn(seat), round_, close_at=close_at) for seat, person in enumerate(people))
    )


def test_all_get_the_same_bits_and_keep_what_the_codec_lost() -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        averages = await together(people)
        first = averages[0]
        assert first.average_P is not None
        for averaged in averages:
            assert averaged.average_P is not None
            assert torch.equal(averaged.average_P, first.average_P)
            assert (averaged.members, averaged.missing, averaged.tokens) == (
                tuple(people_ids(people)),
                (),
                300,
            )
        mean = torch.stack([drawn(seat) for seat in range(3)]).mean(0)
        assert torch.nn.functional.cosine_similarity(first.average_P, mean, dim=0) > 0.99
        for seat, person in enumerate(people):
            assert 0 < residual(person).norm() < 0.02 * drawn(seat).norm()

    stage(scene)


def people_ids(people: list[Person]) -> list[PeerId]:
    return sorted(person.id for person in people)


def test_rounds_follow_each_other_and_mail_of_one_never_disturbs_the_next() -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        loop = asyncio.get_running_loop()
        for round_ in range(3):
            averages = await together(people, round_, close_at=loop.time() + 5)
            assert all(averaged.average_P is not None for averaged in averages)
            assert len(people[0].post.shelf) == 3

    stage(scene)


def test_alone_the_average_is_the_update_with_what_was_owed() -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        people[0].averager.restore(drawn(5))
        averaged = await people[0].brings(drawn(0))
        assert averaged.average_P is not None
        assert torch.equal(averaged.average_P, drawn(0) + drawn(5))
        assert not residual(people[0]).any()
        assert asyncio.get_running_loop().time() < 1

    stage(scene, 1)


def test_alone_where_others_are_here_the_update_is_kept() -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        averaged = await people[0].brings(drawn(0), alone_is_fine=False)
        assert (averaged.average_P, averaged.alone, averaged.declined) == (None, True, False)
        assert torch.equal(residual(people[0]), drawn(0))

    stage(scene, 1)


def test_who_is_turned_away_keeps_its_update_and_brings_it_again() -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        a, b, c = people
        left_out, *_ = await asyncio.gather(
            a.brings(drawn(0), root=OTHER), b.brings(drawn(1)), c.brings(drawn(2))
        )
        assert (left_out.average_P, left_out.declined) == (None, True)
        assert torch.equal(residual(a), drawn(0))
        averages = await together(people, 1, close_at=asyncio.get_running_loop().time() + 5)
        assert all(averaged.average_P is not None for averaged in averages)
        assert residual(a).norm() < 0.05 * drawn(0).norm()

    stage(scene)


def test_who_comes_when_the_group_stands_is_told_where_the_run_is() -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        a, b, c = people
        a.expects = b.expects = people_ids([a, b])
        await asyncio.gather(a.brings(drawn(0)), b.brings(drawn(1)))
        began = asyncio.get_running_loop().time()
        late = await c.brings(drawn(2), close_at=began + 5)
        assert (late.average_P, late.declined, late.round) == (None, True, 0)
        assert late.reason == "round 0 is over, the run is at 0"
        assert asyncio.get_running_loop().time() < began + 1

    stage(scene)


def test_who_has_no_group_itself_turns_nobody_away() -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        a, b, _ = people
        a.expects = b.expects = ()
        assert (await a.brings(drawn(0), 3, alone_is_fine=False)).alone
        answers = b.post.open((3, bytes(16)))
        b.post.send((a.id,), Ready(ROOT), Stamp(MANIFEST.run_id, 3), deadline=10, failures=Inbox())
        await asyncio.sleep(1)
        assert answers.events.empty()

    stage(scene)


def test_who_stands_in_an_earlier_round_again_turns_nobody_away_from_it() -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        a, b, _ = people
        a.expects = ()
        for round_ in (3, 4):
            await a.brings(drawn(0), round_)
        a.averager.stand(4)
        answers = {round_: b.post.open((round_, bytes(16))) for round_ in (3, 4)}
        for round_ in answers:
            b.post.send((a.id,), Ready(ROOT), Stamp(MANIFEST.run_id, round_), deadline=10, failures=Inbox())
        await asyncio.sleep(1)
        answer = answers[3].events.get_nowait()
        assert isinstance(answer, Received)
        assert answer.signed.message == Decline(4, "round 3 is over, the run is at 4")
        assert answers[4].events.empty()

    stage(scene)


def test_a_stray_ready_is_answered_with_a_refusal_and_nothing_else_is() -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        a, b, _ = people
        a.expects = ()
        await a.brings(drawn(0), 3)
        answers = b.post.open((3, bytes(16)))
        for message in (Ready(ROOT), Decline(3, "no")):
            b.post.send((a.id,), message, Stamp(MANIFEST.run_id, 3), deadline=10, failures=Inbox())
        await asyncio.sleep(1)
        answer = answers.events.get_nowait()
        assert isinstance(answer, Received)
        assert answer.signed.message == Decline(3, "round 3 is over, the run is at 3")
        assert answers.events.empty()

    stage(scene)


def test_who_is_ready_with_another_model_hears_only_that_we_train_from_ours() -> None:
    """Two camps count the same rounds: the word of one is none on the rounds of the other."""

    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        a, b, _ = people
        a.expects = ()
        for round_ in range(3, 3 + REMEMBERED + 1):
            await a.brings(drawn(0), round_)
        heard: dict[int, Message] = {}
        for round_ in (3, 4):
            inbox = b.post.open((round_, bytes(16)))
            b.post.send((a.id,), Ready(OTHER), Stamp(MANIFEST.run_id, round_), deadline=10, failures=Inbox())
            await asyncio.sleep(1)
            answer = inbox.events.get_nowait()
            assert isinstance(answer, Received)
            heard[round_] = answer.signed.message
        here = 3 + REMEMBERED
        assert heard[4] == Decline(here, "we train from another model", DeclineReason.ABSENT)
        assert heard[3] == Decline(here, f"round 3 is over, the run is at {here}"), (
            "it does not know any more which model that was"
        )

    stage(scene)


def test_a_crash_in_the_round_costs_the_others_that_member_and_no_bits() -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        a, b, c = people
        task = asyncio.create_task(c.brings(drawn(2)))
        asyncio.get_running_loop().call_at(0.4, network.crash, c.id)
        one, other = await asyncio.gather(a.brings(drawn(0)), b.brings(drawn(1)))
        assert one.average_P is not None
        assert other.average_P is not None
        assert torch.equal(one.average_P, other.average_P)
        assert one.seconds < ROUND.average_seconds
        task.cancel()

    stage(scene)


def test_without_a_decision_the_whole_update_is_kept() -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        a, b = people
        asyncio.get_running_loop().call_at(0.35, network.cut, a.id, b.id)
        averages = await together(people)
        assert [averaged.average_P for averaged in averages] == [None, None]
        assert all(averaged.reason and not averaged.declined for averaged in averages)
        for seat, person in enumerate(people):
            assert torch.equal(residual(person), drawn(seat))
        assert asyncio.get_running_loop().time() <= 5 + 2 * ROUND.assemble_seconds + ROUND.average_seconds + 1

    stage(scene, 2)


def test_who_is_late_itself_still_listens_before_it_leads() -> None:
    """Its time to wait for the others has passed before it began: they are there, and are not left behind."""

    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        await asyncio.sleep(100)
        averages = await together(people, close_at=50)
        assert all(averaged.members == tuple(people_ids(people)) for averaged in averages)

    stage(scene)


@pytest.mark.parametrize("codec", list(Codec))
def test_any_codec_of_the_manifest_serves(codec: Codec) -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        one, other = await together(people)
        assert one.average_P is not None
        assert other.average_P is not None
        assert torch.equal(one.average_P, other.average_P)
        size = codec_of(result_codec(codec), Shape((512,))).size(512)
        assert size + flag_bytes(2) in {len(item) for item in people[0].post.shelf.values()}

    stage(scene, 2, with_codec(codec))


@pytest.mark.parametrize("codec", [Codec.FP32, Codec.INT8])
def test_an_average_that_nobody_needs_any_more_is_room_for_the_next_one(codec: Codec) -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        averages = [await together(people, round_) for round_ in range(2)]
        kept_P, first_P = (each[0].average_P for each in averages)
        assert kept_P is not None
        assert first_P is not None
        before_P = kept_P.clone()
        people[0].averager.take_back(first_P)
        taken, other = await together(people, 2)
        assert taken.average_P is first_P, "its memory"
        assert other.average_P is not None
        assert torch.equal(first_P, other.average_P), "and the bits of all"
        people[0].averager.take_back(kept_P)
        fresh, _ = await together(people, 3)
        assert fresh.average_P is not kept_P, "only the last one comes back: others may be somebody's"
        assert torch.equal(kept_P, before_P)

    stage(scene, 2, with_codec(codec))


def test_the_update_of_a_peer_that_was_alone_is_not_taken_back() -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        alone = await people[0].brings(update_P := drawn(0), close_at=0.1)
        assert alone.average_P is update_P
        people[0].averager.take_back(alone.average_P)
        people[0].expects = [person.id for person in people]
        await together(people, 1)
        assert torch.equal(update_P, drawn(0))

    stage(scene, 2, with_codec(Codec.FP32))


@pytest.mark.parametrize("exchange", list(Exchange))
def test_a_slow_uplink_sends_a_smaller_update_than_the_others(exchange: Exchange) -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        averages = await asyncio.gather(
            people[0].brings(drawn(0)),
            people[1].brings(drawn(1), codec=Codec.INT4),
            people[2].brings(drawn(2)),
        )
        assert all(
            each.average_P is not None and torch.equal(each.average_P, averages[0].average_P)
            for each in averages
        )
        assert [each.missing for each in averages] == [()] * 3
        errors = [float(residual(person).norm() / drawn(seat).norm()) for seat, person in enumerate(people)]
        assert 0 < max(errors[0], errors[2]) < 0.02 < errors[1] < 0.2

    stage(
        scene, 3, msgspec.structs.replace(MANIFEST, round=msgspec.structs.replace(ROUND, exchange=exchange))
    )


@pytest.mark.parametrize("feedback", [0.0, 0.5])
def test_the_residual_decays_as_the_manifest_says(feedback: float) -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        await together(people)
        whole = codec_of(Codec.INT8)
        shares = [drawn(0)[:512], drawn(0)[512:]]
        left = torch.cat([share - whole.decode(whole.encode(share), len(share)) for share in shares])
        assert torch.allclose(residual(people[0]), feedback * left, atol=1e-7)

    stage(
        scene, 2, msgspec.structs.replace(MANIFEST, round=msgspec.structs.replace(ROUND, feedback=feedback))
    )


def with_codec(codec: Codec) -> RunManifest:
    return msgspec.structs.replace(MANIFEST, round=msgspec.structs.replace(ROUND, codec=codec))


def test_what_is_left_of_a_fragment_rides_with_the_next_update_of_the_same_one() -> None:
    async def scene(network: SimulatedNetwork, people: list[Person]) -> None:
        for round_ in range(4):
            numbers = NUMBERS + round_ % 2
            vectors = [
                torch.randn(numbers, generator=torch.Generator().manual_seed(seat)) for seat in range(2)
            ]
            before = [person.averager.residual(round_ % 2) for person in people]
            owed = [torch.zeros(numbers) if each is None else each.clone() for each in before]
            averages = await asyncio.gather(
                *(
                    person.brings(vector, round_, fragment=round_ % 2)
                    for person, vector in zip(people, vectors, strict=True)
                )
            )
            assert torch.equal(averages[0].average_P, averages[1].average_P)  # type: ignore[arg-type]
            if round_ > 1:
                assert all(each.any() for each in owed), "of the round before the last"
            mean = torch.stack([vector + rest for vector, rest in zip(vectors, owed, strict=True)]).mean(0)
            assert float((averages[0].average_P - mean).norm() / mean.norm()) < 0.2  # type: ignore[operator]
        assert {len(people[0].averager.residual(index)) for index in range(2)} == {NUMBERS, NUMBERS + 1}  # type: ignore[arg-type]

    stage(scene, 2, with_codec(Codec.INT4))
