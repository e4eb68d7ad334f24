"""What holds in every round, whatever the order in which things happen, and whoever vanishes meanwhile: hundreds of drawn ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from averaging.codecs import codec_of, result_codec
from averaging.feedback import Settle
from averaging.messages import Ballot, Commit, Receipt, flag_bytes
from averaging.partition import Part
from averaging.reduce import Reduced, ReducePart, digest, weighted_sum
from averaging.robust import Claim, coefficients
from averaging.whole_update import HEAD, EncodeUpdate
from swarm.identity import PeerId
from swarm.machine import Send, Ship
from swarm.manifest import Codec, Exchange
from tests.averaging.members import JOB_SECONDS, PLAIN, Lie, Member, Play, Stage, Weather, peer

CALM = Weather()
ROUGH = Weather(slowest=1.0, lost=0.03, twice=0.1, crash=0.1, skew=0.5)
STORM = Weather(slowest=5.0, lost=0.2, twice=0.3, crash=0.3, skew=2.0)


def check(stage: Stage, liars: Iterable[PeerId] = ()) -> list[Member]:
    """The promises of a round to all honest members that live to see its end; those that ended with an average."""
    honest = [member for member in stage.members.values() if member.id not in liars]
    ended = [member for member in honest if member.outcome]
    assert all(member.outcome or member.crash_at <= member.fetched + JOB_SECONDS for member in honest), (
        "a member hangs"
    )
    assert all(member.ended_at <= member.fetched + JOB_SECONDS for member in ended), "a member ends late"
    averaged = [member for member in ended if member.average is not None]
    for member in averaged:
        assert member.outcome
        assert averaged[0].outcome
        assert torch.equal(averaged[0].outcome.average_P, member.outcome.average_P), (
            "two averages of one round"
        )
        assert averaged[0].outcome.applied == member.outcome.applied
        assert averaged[0].outcome.missing == member.outcome.missing
    for member in ended:
        if member.average is None:
            assert member.outcome.reason, "it ends without a word why"
            assert not any(member.outcome.included), "it gives away what it does not apply"
    return averaged


def account(stage: Stage, member: Member, play: Play) -> None:
    """What was applied of an update, with what is kept of it, is the update: it was applied where it says so, and only there."""
    outcome, codec = member.outcome, member.contribution.codec or play.codec
    if play.exchange is Exchange.BUTTERFLY:
        results = [result_of(stage, member, part) for part in stage.parts]
        for index, (result, payload) in enumerate(zip(results, outcome.encoded, strict=True)):
            assert outcome.applied[index] == bool(result)
            assert outcome.included[index] == (
                bool(result) and payload in [share.payload for share in result[0].shares]
            )
    else:
        seat = stage.group.members.index(member.id)
        assert outcome.included == (outcome.applied[seat],)
    residual_P = Settle(member.vector_P, outcome.encoded, stage.parts, outcome.included, codec).run()
    for part, included, payload in zip(stage.parts, outcome.included, outcome.encoded, strict=True):
        decoded_N = codec_of(codec, part.shape).decode(payload, part.numbers)
        sent_N = decoded_N if included else torch.zeros(part.numbers)
        own_N = member.vector_P[part.start : part.stop]
        assert torch.allclose(residual_P[part.start : part.stop] + sent_N, own_N, atol=1e-6)


def result_of(stage: Stage, member: Member, part: Part) -> tuple[ReducePart, Reduced] | None:
    """How the result was made that the member has applied of ``part``."""
    outcome, head = member.outcome, flag_bytes(len(stage.members))
    numbers_N, codec = outcome.average_P[part.start : part.stop], result_codec(stage.play.codec)
    if not outcome.applied[part.index]:
        assert not numbers_N.any()
        return None
    made = [(job, result) for job, result in stage.reduced.values() if job.part == part]
    decoded = [codec_of(codec, part.shape).decode(result.payload[head:], part.numbers) for _, result in made]
    return next(one for one, its_N in zip(made, decoded, strict=True) if torch.equal(its_N, numbers_N))


def books(stage: Stage, averaged: list[Member]) -> None:
    """What the members together have given away is in the average that they apply: ``c · decoded`` of every update that is in it,
    and nothing else; in a butterfly as the codec of results writes their sum."""
    if not averaged:
        return
    if stage.play.exchange is Exchange.GATHER:
        given_P = gathered(
            stage, [id_ for id_ in stage.group.members if id_ not in averaged[0].outcome.missing]
        )
        assert torch.equal(averaged[0].average, given_P)
        return
    for part in stage.parts:
        if found := result_of(stage, averaged[0], part):
            job, result = found
            decoded = (
                codec_of(share.codec, part.shape).decode(share.payload, part.numbers) for share in job.shares
            )
            given_N = weighted_sum(decoded, (share.coefficient for share in job.shares))
            assert result.payload == job.head + codec_of(result_codec(stage.play.codec), part.shape).encode(
                given_N
            )


def gathered(stage: Stage, applied: list[PeerId]) -> Tensor:
    """The average of these members' updates, from what they brought."""
    (whole,), offerings = stage.parts, [stage.members[id_].contribution for id_ in applied]
    codecs = [contribution.codec or stage.play.codec for contribution in offerings]
    jobs = [
        EncodeUpdate(each.vector_P, whole, codec, each.weight)
        for each, codec in zip(offerings, codecs, strict=True)
    ]
    blobs = [job.run()[0] for job in jobs]
    claims = [
        Claim(float(each.weight), blob.norm, blob.norm) for each, blob in zip(offerings, blobs, strict=True)
    ]
    decoded = [
        codec_of(codec, whole.shape).decode(blob.payload[HEAD.size :], whole.numbers)
        for codec, blob in zip(codecs, blobs, strict=True)
    ]
    return weighted_sum(decoded, coefficients(claims)) if applied else torch.zeros(whole.numbers)


@pytest.mark.parametrize("count", [2, 3, 4, 7, 16])
def test_in_calm_weather_everybody_ends_early_with_everything_applied(count: int) -> None:
    for seed in range(5):
        stage = Stage(seed, count, CALM).act()
        averaged = check(stage)
        assert len(averaged) == count
        for member in averaged:
            account(stage, member, PLAIN)
            assert all(member.outcome.applied)
            assert all(member.outcome.included)
            assert member.outcome.missing == ()
            assert member.ended_at < member.fetched / 2


BUTTERFLY = [
    Play(codec=Codec.INT4),
    Play(codec=Codec.FP32),
    Play(codec=Codec.SPARSE128),
    Play(codec=Codec.INT8, is_mixed=True, owners=3),
]
GATHER = [
    Play(codec=Codec.FP32, exchange=Exchange.GATHER),
    Play(codec=Codec.SPARSE256, exchange=Exchange.GATHER),
    Play(codec=Codec.SPARSE256, exchange=Exchange.GATHER, is_mixed=True),
]


def name(value: object) -> str | None:
    if isinstance(value, Play):
        return f"{value.exchange.name}-{value.codec.name}{'-mixed' if value.is_mixed else ''}".lower()
    return None


@pytest.mark.parametrize("play", GATHER, ids=name)
def test_in_a_gather_everybody_ends_early_with_everything_applied(play: Play) -> None:
    for seed, count in enumerate([2, 3, 7, 16]):
        stage = Stage(seed, count, CALM, play).act()
        averaged = check(stage)
        assert len(averaged) == count
        for member in averaged:
            account(stage, member, play)
            assert (member.outcome.applied, member.outcome.included, member.outcome.missing) == (
                (True,) * count,
                (True,),
                (),
            )
            assert member.ended_at < member.fetched / 2


@pytest.mark.parametrize(("weather", "share"), [(ROUGH, 0.8), (STORM, 0.05)], ids=["rough", "storm"])
@pytest.mark.parametrize("play", BUTTERFLY + GATHER, ids=name)
def test_in_any_weather_averages_agree_and_nothing_is_lost(
    weather: Weather, share: float, play: Play
) -> None:
    averages = rounds = 0
    for seed in range(60):
        stage = Stage(seed, 2 + seed % 7, weather, play).act()
        averaged = check(stage)
        for member in averaged:
            account(stage, member, play)
        books(stage, averaged)
        rounds += len([member for member in stage.members.values() if member.outcome])
        averages += len(averaged)
    assert averages > share * rounds, "so few averages prove nothing"
    assert averages < rounds, "nothing has gone wrong, so nothing is proven"


# --- liars --------------------------------------------------------------------------------------------------


def two_tongues(liars: frozenset[PeerId]) -> Lie:
    """Liars tell members of odd and even seat different results, and cast different ballots."""

    def lie(stage: Stage, sender: PeerId, receiver: PeerId, command: Any) -> Any:
        if sender not in liars or stage.group.members.index(receiver) % 2:
            return command
        match command:
            case Send(_, Receipt(part, hash_), _):
                return replace(
                    command, message=Receipt(part, digest(other(stage.members[sender].shelf[hash_.hex()])))
                )
            case Send(_, Ballot(hashes), _):
                return replace(command, message=Ballot((hashes[0] and bytes(32), *hashes[1:])))
            case Ship(_, item, payload) if item.startswith("result"):
                return replace(command, payload=other(payload))
        return command

    return lie


def wrong_bytes(liars: frozenset[PeerId]) -> Lie:
    """Liars send other bytes than those whose hash they have signed."""

    def lie(stage: Stage, sender: PeerId, receiver: PeerId, command: Any) -> Any:
        return (
            replace(command, payload=other(command.payload))
            if sender in liars and isinstance(command, Ship)
            else command
        )

    return lie


def two_commits(liars: frozenset[PeerId]) -> Lie:
    """Liars claim ten times the tokens and another norm before every other member: the hash is the same, what it counts is not."""

    def lie(stage: Stage, sender: PeerId, receiver: PeerId, command: Any) -> Any:
        if sender not in liars or stage.group.members.index(receiver) % 2:
            return command
        match command:
            case Send(_, Commit() as commit, _):
                norms = tuple(2 * norm for norm in commit.norms)
                return replace(
                    command, message=msgspec.structs.replace(commit, weight=10 * commit.weight, norms=norms)
                )
        return command

    return lie


def other(payload: bytes) -> bytes:
    """Another payload of the same form."""
    return bytes([payload[0] ^ 1]) + payload[1:]


@pytest.mark.parametrize("play", [BUTTERFLY[1], GATHER[0]], ids=name)
@pytest.mark.parametrize("tale", [two_tongues, wrong_bytes, two_commits])
@pytest.mark.parametrize("weather", [CALM, ROUGH], ids=["calm", "rough"])
def test_less_than_a_third_of_liars_cannot_make_two_averages(tale: Any, weather: Weather, play: Play) -> None:
    averages = 0
    for seed in range(100):
        count = 4 + seed % 7
        liars = frozenset(peer(number) for number in range((count - 1) // 3))
        stage = Stage(seed, count, weather, replace(play, lie=tale(liars))).act()
        averages += len(check(stage, liars))
    assert averages > 0


@pytest.mark.parametrize("play", [PLAIN, *GATHER[:2]], ids=name)
def test_who_sends_other_bytes_than_it_signed_is_left_out_and_named(play: Play) -> None:
    """It costs nobody but the liar: the parts that it owns are its spares' from then on."""
    liar = peer(0)
    stage = Stage(3, 7, CALM, replace(play, lie=wrong_bytes(frozenset({liar})))).act()
    averaged = check(stage, {liar})
    assert len(averaged) == 6
    for member in averaged:
        account(stage, member, play)
        assert {report.peer for report in member.reports} == {liar}
        assert member.outcome.missing == (liar,)
        assert all(member.outcome.included)
    books(stage, averaged)
