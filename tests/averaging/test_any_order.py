"""What holds in every round, whatever the order in which things happen, and whoever vanishes meanwhile: hundreds of drawn ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

from averaging.codecs import codec_of
from averaging.feedback import Settle
from averaging.messages import Ballot, Receipt
from averaging.reduce import digest
from swarm.identity import PeerId
from swarm.machine import Send, Ship
from swarm.manifest import Codec

from .members import JOB_SECONDS, Lie, Member, Stage, Weather, peer

CALM = Weather()
ROUGH = Weather(slowest=1.0, lost=0.03, twice=0.1, crash=0.1, skew=0.5)
STORM = Weather(slowest=5.0, lost=0.2, twice=0.3, crash=0.3, skew=2.0)


def check(stage: Stage, liars: Iterable[PeerId] = ()) -> list[Member]:
    """The promises of a round to all honest members that live to see its end; those that ended with an average."""
    honest = [member for member in stage.members.values() if member.id not in liars]
    ended = [member for member in honest if member.outcome]
    assert all(member.outcome or member.crash_at <= member.fetched + JOB_SECONDS for member in honest), "a member hangs"
    assert all(member.ended_at <= member.fetched + JOB_SECONDS for member in ended), "a member ends late"
    averaged = [member for member in ended if member.average is not None]
    for member in averaged:
        assert member.outcome
        assert averaged[0].outcome
        assert torch.equal(averaged[0].outcome.average_P, member.outcome.average_P), "two averages of one round"
        assert averaged[0].outcome.applied == member.outcome.applied
        assert averaged[0].outcome.missing == member.outcome.missing
    for member in ended:
        if member.average is None:
            assert member.outcome.reason, "it ends without a word why"
            assert not any(member.outcome.included), "it gives away what it does not apply"
    return averaged


def account(stage: Stage, member: Member, codec: Codec) -> None:
    """What was applied of an update, with what is kept of it, is the update: it was applied where it says so, and only there."""
    outcome = member.outcome
    for part, applied, included, payload in zip(stage.parts, outcome.applied, outcome.included, outcome.encoded, strict=True):
        numbers_N = outcome.average_P[part.start : part.stop]
        if not applied:
            assert not numbers_N.any()
            assert not included
            continue
        payloads, result = stage.reduced[part.index]
        assert torch.equal(numbers_N, codec_of(codec).decode(result[-codec_of(codec).size(part.numbers) :], part.numbers))
        assert included == (payload in payloads), f"wrong about part {part.index}"
    residual_P = Settle(member.vector_P, outcome.encoded, stage.parts, outcome.included, codec).run()
    for part, included, payload in zip(stage.parts, outcome.included, outcome.encoded, strict=True):
        sent_N = codec_of(codec).decode(payload, part.numbers) if included else torch.zeros(part.numbers)
        own_N = member.vector_P[part.start : part.stop]
        assert torch.allclose(residual_P[part.start : part.stop] + sent_N, own_N, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 4, 7, 16])
def test_in_calm_weather_everybody_ends_early_with_everything_applied(count: int) -> None:
    for seed in range(5):
        stage = Stage(seed, count, CALM).act()
        averaged = check(stage)
        assert len(averaged) == count
        for member in averaged:
            account(stage, member, Codec.INT4)
            assert all(member.outcome.applied)
            assert all(member.outcome.included)
            assert member.outcome.missing == ()
            assert member.ended_at < member.fetched / 2


@pytest.mark.parametrize(("weather", "share"), [(ROUGH, 0.8), (STORM, 0.1)], ids=["rough", "storm"])
@pytest.mark.parametrize("codec", [Codec.INT4, Codec.FP32])
def test_in_any_weather_averages_agree_and_nothing_is_lost(weather: Weather, share: float, codec: Codec) -> None:
    averages = rounds = 0
    for seed in range(100):
        stage = Stage(seed, 2 + seed % 7, weather, codec=codec).act()
        averaged = check(stage)
        for member in averaged:
            account(stage, member, codec)
        rounds += len([member for member in stage.members.values() if member.outcome])
        averages += len(averaged)
    assert averages > share * rounds, "so few averages prove nothing"
    assert averages < rounds, "nothing has gone wrong, so nothing is proven"


# --- liars --------------------------------------------------------------------------------------------------------


def two_tongues(liars: frozenset[PeerId]) -> Lie:
    """Liars tell members of odd and even seat different results, and cast different ballots."""

    def lie(stage: Stage, sender: PeerId, receiver: PeerId, command: Any) -> Any:
        if sender not in liars or stage.group.members.index(receiver) % 2:
            return command
        match command:
            case Send(_, Receipt(part, hash_), _):
                return replace(command, message=Receipt(part, digest(other(stage.members[sender].shelf[hash_.hex()]))))
            case Send(_, Ballot(hashes), _):
                return replace(command, message=Ballot((hashes[0] and bytes(32), *hashes[1:])))
            case Ship(_, item, payload) if item.startswith("result"):
                return replace(command, payload=other(payload))
        return command

    return lie


def wrong_bytes(liars: frozenset[PeerId]) -> Lie:
    """Liars send other bytes than those whose hash they have signed."""

    def lie(stage: Stage, sender: PeerId, receiver: PeerId, command: Any) -> Any:
        return replace(command, payload=other(command.payload)) if sender in liars and isinstance(command, Ship) else command

    return lie


def other(payload: bytes) -> bytes:
    """Another payload of the same form."""
    return bytes([payload[0] ^ 1]) + payload[1:]


@pytest.mark.parametrize("tale", [two_tongues, wrong_bytes])
@pytest.mark.parametrize("weather", [CALM, ROUGH], ids=["calm", "rough"])
def test_less_than_a_third_of_liars_cannot_make_two_averages(tale: Any, weather: Weather) -> None:
    averages = 0
    for seed in range(100):
        count = 4 + seed % 7
        liars = frozenset(peer(number) for number in range((count - 1) // 3))
        stage = Stage(seed, count, weather, lie=tale(liars), codec=Codec.FP32).act()
        averages += len(check(stage, liars))
    assert averages > 0


def test_who_sends_other_bytes_than_it_signed_is_left_out_and_named() -> None:
    liar = peer(0)
    stage = Stage(3, 7, CALM, lie=wrong_bytes(frozenset({liar}))).act()
    averaged = check(stage, {liar})
    assert len(averaged) == 6
    liars_seat = stage.group.members.index(liar)
    for member in averaged:
        account(stage, member, Codec.INT4)
        assert {report.peer for report in member.reports} == {liar}
        assert [part.owner == liar for part in stage.parts] == [not applied for applied in member.outcome.applied]
    heads = [result[0] for index, (_, result) in stage.reduced.items() if stage.parts[index].owner != liar]
    assert not any(head >> liars_seat & 1 for head in heads)
