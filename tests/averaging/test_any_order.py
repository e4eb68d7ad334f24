"""What holds in every round, in any order of events, whichever members vanish: hundreds of drawn rounds."""

# Axes: P parameters of the whole model, N numbers of one part

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
from averaging.messages import Ballot, Commit, Receipt, header_bytes
from averaging.outcome import Undecided, Void
from averaging.partition import Part
from averaging.reduce import Reduced, ReducePart, digest, weighted_sum
from averaging.robust import Claim, coefficients
from averaging.round_plan import Applied
from averaging.whole_update import HEAD, EncodeUpdate
from swarm.identity import PeerId
from swarm.machine import Send, Ship
from swarm.manifest import Codec, Exchange
from tests.averaging.members import (
    JOB_SECONDS,
    PLAIN,
    Lie,
    Member,
    Play,
    Stage,
    Weather,
    applied_items,
    peer,
)

CALM = Weather()
ROUGH = Weather(slowest=1.0, lost=0.03, twice=0.1, crash=0.1, skew=0.5)
STORM = Weather(slowest=5.0, lost=0.2, twice=0.3, crash=0.3, skew=2.0)


def check(stage: Stage, liars: Iterable[PeerId] = ()) -> list[Member]:
    """Check what a round promises to all honest members that live to see its end.

    Returns those that have an average.
    """
    honest = [member for member in stage.members.values() if member.id not in liars]
    ended = [member for member in honest if member.outcome]
    assert all(member.outcome or member.crash_at <= member.fetched + JOB_SECONDS for member in honest), (
        "a member hangs"
    )
    assert all(member.ended_at <= member.fetched + JOB_SECONDS for member in ended), "a member ends late"
    averaged = [member for member in ended if isinstance(member.outcome, Applied)]
    for member in averaged:
        first = averaged[0].applied
        assert torch.equal(first.average_P, member.applied.average_P), "two averages of one round"
        assert [bytes(item) for item in first.items] == [bytes(item) for item in member.applied.items]
        assert first.missing == member.applied.missing
    for member in ended:
        if not isinstance(member.outcome, Applied):
            assert isinstance(member.outcome, Undecided | Void)
            assert member.outcome.reason, "it ends without a reason"
            assert member.outcome.group is stage.group
    return averaged


def account(stage: Stage, member: Member, play: Play) -> None:
    """Check that what was applied of an update and what its sender keeps of it make the whole update.

    So the update was applied where the outcome says so, and only there.
    """
    result = member.applied
    codec = member.update.codec or play.codec
    if play.exchange is Exchange.BUTTERFLY:
        for part, payload in zip(stage.parts, result.encoded, strict=True):
            made = result_of(stage, member, part)
            assert applied_items(result)[part.index] == bool(made)
            is_in_it = made is not None and payload in [share.payload for share in made[0].shares]
            assert result.included[part.index] == is_in_it
    else:
        seat = stage.group.members.index(member.id)
        assert result.included == (applied_items(result)[seat],)
    residual_P = Settle(member.vector_P, result.encoded, stage.parts, result.included, codec).run()
    for part, included, payload in zip(stage.parts, result.included, result.encoded, strict=True):
        decoded_N = codec_of(codec, part.shape).decode(payload, part.numbers)
        sent_N = decoded_N if included else torch.zeros(part.numbers)
        own_N = member.vector_P[part.start : part.stop]
        assert torch.allclose(residual_P[part.start : part.stop] + sent_N, own_N, atol=1e-6)


def result_of(stage: Stage, member: Member, part: Part) -> tuple[ReducePart, Reduced] | None:
    """How the result was made that the member has applied of ``part``; None if nothing was applied of it."""
    size = header_bytes(len(stage.members))
    numbers_N = member.applied.average_P[part.start : part.stop]
    codec = codec_of(result_codec(stage.play.codec), part.shape)
    if not applied_items(member.applied)[part.index]:
        assert not numbers_N.any()
        return None
    made = [(job, result) for job, result in stage.reduced.values() if job.part == part]
    decoded = [codec.decode(result.payload[size:], part.numbers) for _, result in made]
    return next(one for one, its_N in zip(made, decoded, strict=True) if torch.equal(its_N, numbers_N))


def check_sum(stage: Stage, averaged: list[Member]) -> None:
    """Check that the average is the sum of ``c · decoded`` of every update that is in it, and nothing else.

    In a butterfly exchange: as the codec of results encodes that sum.
    """
    if not averaged:
        return
    if stage.play.exchange is Exchange.GATHER:
        missing = averaged[0].applied.missing
        sum_P = gathered(stage, [id_ for id_ in stage.group.members if id_ not in missing])
        assert torch.equal(averaged[0].applied.average_P, sum_P)
        return
    for part in stage.parts:
        made = result_of(stage, averaged[0], part)
        if made:
            job, result = made
            decoded = (
                codec_of(share.codec, part.shape).decode(share.payload, part.numbers) for share in job.shares
            )
            sum_N = weighted_sum(decoded, (share.coefficient for share in job.shares))
            codec = codec_of(result_codec(stage.play.codec), part.shape)
            assert result.payload == job.head + codec.encode(sum_N)


def gathered(stage: Stage, applied: list[PeerId]) -> Tensor:
    """The average of these members' updates, computed from what they brought."""
    (whole,) = stage.parts
    brought = [stage.members[id_].update for id_ in applied]
    codecs = [update.codec or stage.play.codec for update in brought]
    jobs = [
        EncodeUpdate(each.vector_P, whole, codec, each.tokens)
        for each, codec in zip(brought, codecs, strict=True)
    ]
    blobs = [job.run()[0] for job in jobs]
    claims = [
        Claim(float(each.tokens), blob.norm, blob.norm) for each, blob in zip(brought, blobs, strict=True)
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
            assert all(applied_items(member.applied))
            assert all(member.applied.included)
            assert member.applied.missing == ()
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
            assert applied_items(member.applied) == (True,) * count
            assert member.applied.included == (True,)
            assert member.applied.missing == ()
            assert member.ended_at < member.fetched / 2


@pytest.mark.parametrize(("weather", "share"), [(ROUGH, 0.75), (STORM, 0.05)], ids=["rough", "storm"])
@pytest.mark.parametrize("play", BUTTERFLY + GATHER, ids=name)
def test_in_any_weather_averages_agree_and_nothing_is_lost(
    weather: Weather, share: float, play: Play
) -> None:
    averages = 0
    rounds = 0
    for seed in range(60):
        stage = Stage(seed, 2 + seed % 7, weather, play).act()
        averaged = check(stage)
        for member in averaged:
            account(stage, member, play)
        check_sum(stage, averaged)
        rounds += len([member for member in stage.members.values() if member.outcome])
        averages += len(averaged)
    assert averages > share * rounds, "so few averages prove nothing"
    assert averages < rounds, "nothing has gone wrong, so nothing is proven"


# --- liars --------------------------------------------------------------------------------------------------


def two_stories(liars: frozenset[PeerId]) -> Lie:
    """Liars send members of odd and of even seats different results and different ballots."""

    def lie(stage: Stage, sender: PeerId, receiver: PeerId, command: Any) -> Any:
        if sender not in liars or stage.group.members.index(receiver) % 2:
            return command
        match command:
            case Send(_, Receipt(part, hash_), _):
                payload = stage.members[sender].shelf[hash_.hex()]
                return replace(command, message=Receipt(part, digest(other(payload))))
            case Send(_, Ballot(hashes), _):
                return replace(command, message=Ballot((hashes[0] and bytes(32), *hashes[1:])))
            case Ship(_, item, payload) if item.startswith("result"):
                return replace(command, payload=other(payload))
        return command

    return lie


def wrong_bytes(liars: frozenset[PeerId]) -> Lie:
    """Liars send other bytes than those whose hash they have signed."""

    def lie(stage: Stage, sender: PeerId, receiver: PeerId, command: Any) -> Any:
        if sender in liars and isinstance(command, Ship):
            return replace(command, payload=other(command.payload))
        return command

    return lie


def two_commits(liars: frozenset[PeerId]) -> Lie:
    """To every other member, liars commit to ten times the tokens and twice the norm, with the same hash."""

    def lie(stage: Stage, sender: PeerId, receiver: PeerId, command: Any) -> Any:
        if sender not in liars or stage.group.members.index(receiver) % 2:
            return command
        match command:
            case Send(_, Commit() as commit, _):
                norms = tuple(2 * norm for norm in commit.norms)
                claim = msgspec.structs.replace(commit, weight=10 * commit.weight, norms=norms)
                return replace(command, message=claim)
        return command

    return lie


def other_seed(liars: frozenset[PeerId]) -> Lie:
    """To every other member, liars commit to the same parts, made from other data."""

    def lie(stage: Stage, sender: PeerId, receiver: PeerId, command: Any) -> Any:
        if sender not in liars or stage.group.members.index(receiver) % 2:
            return command
        match command:
            case Send(_, Commit() as commit, _):
                return replace(command, message=msgspec.structs.replace(commit, seed=bytes([1]) * 32))
        return command

    return lie


def huge_results(liars: frozenset[PeerId]) -> Lie:
    """Liars multiply the averages that they publish by a million, and sign that for everybody."""

    def lie(stage: Stage, sender: PeerId, receiver: PeerId, command: Any) -> Any:
        if sender not in liars:
            return command
        match command:
            case Send(_, Receipt(part, hash_), _):
                payload = huge(stage, part, stage.members[sender].shelf[hash_.hex()])
                return replace(command, message=Receipt(part, digest(payload)))
            case Ship(_, item, payload) if item.startswith("result"):
                return replace(command, payload=huge(stage, int(item.split(".")[1]), payload))
        return command

    return lie


def huge(stage: Stage, index: int, payload: bytes) -> bytes:
    """The same result with a million times its numbers."""
    size = header_bytes(len(stage.members))
    part = stage.parts[index]
    codec = codec_of(result_codec(stage.play.codec), part.shape)
    numbers_N = codec.decode(payload[size:], part.numbers)
    return bytes(payload[:size]) + codec.encode(1e6 * numbers_N)


def other(payload: bytes) -> bytes:
    """Another payload of the same form."""
    return bytes([payload[0] ^ 1]) + payload[1:]


@pytest.mark.parametrize("play", [BUTTERFLY[1], GATHER[0]], ids=name)
@pytest.mark.parametrize("strategy", [two_stories, wrong_bytes, two_commits])
@pytest.mark.parametrize("weather", [CALM, ROUGH], ids=["calm", "rough"])
def test_less_than_a_third_of_liars_cannot_make_two_averages(
    strategy: Any, weather: Weather, play: Play
) -> None:
    averages = 0
    for seed in range(100):
        count = 4 + seed % 7
        liars = frozenset(peer(number) for number in range((count - 1) // 3))
        stage = Stage(seed, count, weather, replace(play, lie=strategy(liars))).act()
        averages += len(check(stage, liars))
    assert averages > 0


@pytest.mark.parametrize("play", BUTTERFLY[:3], ids=name)
def test_owners_that_publish_huge_results_cost_no_part_of_the_average(play: Play) -> None:
    """Nobody holds these results, and spares reduce the parts."""
    for seed in range(12):
        count = 4 + seed % 7
        liars = frozenset(peer(number) for number in range((count - 1) // 3))
        stage = Stage(seed, count, CALM, replace(play, lie=huge_results(liars))).act()
        averaged = check(stage, liars)
        assert len(averaged) == count - len(liars)
        for member in averaged:
            longest = max(float(other.vector_P.norm()) for other in stage.members.values())
            assert float(member.applied.average_P.norm()) < longest
            assert all(applied_items(member.applied))
            assert {report.peer for report in member.reports} <= liars
        check_sum(stage, averaged)


@pytest.mark.parametrize("play", BUTTERFLY, ids=name)
@pytest.mark.parametrize("strategy", [two_commits, other_seed])
def test_members_with_two_commits_cost_no_honest_member_the_round(strategy: Any, play: Play) -> None:
    """Else one liar could stop every round, and nobody could say which member it is."""
    for seed in range(12):
        count = 4 + seed % 7
        liars = frozenset(peer(number) for number in range((count - 1) // 3))
        stage = Stage(seed, count, CALM, replace(play, lie=strategy(liars))).act()
        averaged = check(stage, liars)
        assert len(averaged) == count - len(liars)
        for member in averaged:
            assert all(applied_items(member.applied))
            assert {report.peer for report in member.reports} <= liars


@pytest.mark.parametrize("play", [PLAIN, *GATHER[:2]], ids=name)
def test_a_member_that_sends_other_bytes_than_it_signed_is_left_out_and_named(play: Play) -> None:
    """It costs nobody but the liar: its spares reduce the parts that it owns."""
    liar = peer(0)
    stage = Stage(3, 7, CALM, replace(play, lie=wrong_bytes(frozenset({liar})))).act()
    averaged = check(stage, {liar})
    assert len(averaged) == 6
    for member in averaged:
        account(stage, member, play)
        assert {report.peer for report in member.reports} == {liar}
        assert member.applied.missing == (liar,)
        assert all(member.applied.included)
    check_sum(stage, averaged)
