"""What a liar says instead of the truth, to whom, and under whose name: its own."""

from __future__ import annotations

import random

import msgspec
import pytest

from averaging.messages import MESSAGES, Decline, Holdings, Ready, Vote
from averaging.record import Record
from peer.simulation.mind import Mind
from peer.simulation.strategies import Deed, Temper
from peer.sync.head import Head
from swarm.identity import PeerId
from swarm.transport import Request
from swarm.wire import Message, Signed, Stamp, open_frame, pack, seal
from tests.peer.company import MANIFEST, RUN, TEXT, key

ME = key(1)
EVERYBODY = [key(number).peer_id for number in range(6)]
OTHERS = [peer for peer in EVERYBODY if peer != ME.peer_id]
ROOT = bytes(range(32))
GROUP = bytes(range(16))
LIES = (Deed.VARY, Deed.SPLIT, Deed.BOAST, Deed.REPLAY, Deed.FORGE)


def mind(seed: int = 0) -> Mind:
    return Mind(MANIFEST, TEXT, ME, EVERYBODY, Temper(random.Random(seed), "chaos", [].append))


def mail(message: Message, number: int = 1) -> Request:
    return Request("mail", seal(key(number), message, Stamp(RUN, 3, GROUP)), limit=0)


def read(request: Request) -> Signed[Message]:
    return open_frame(bytes(request.body), *MESSAGES, run=RUN)


@pytest.mark.parametrize("deed", LIES)
@pytest.mark.parametrize(
    "message", [Ready(ROOT), Vote(), Holdings((ROOT, b""))], ids=lambda m: type(m).__name__
)
def test_a_lie_in_place_of_a_message_is_signed_by_the_liar_and_well_formed(
    deed: Deed, message: Message
) -> None:
    liar = mind()
    for _ in range(20):
        for peer in OTHERS:
            assert read(liar.in_place_of(mail(message), deed, peer)).signer == ME.peer_id


def test_one_half_of_the_peers_hears_the_truth_and_the_other_one_lie() -> None:
    liar = mind()
    truth = mail(Holdings((ROOT,)))
    said = {peer: bytes(liar.in_place_of(truth, Deed.SPLIT, peer).body) for peer in OTHERS}
    assert len(set(said.values())) == 2
    assert truth.body in said.values()
    again = {peer: bytes(liar.in_place_of(truth, Deed.SPLIT, peer).body) for peer in OTHERS}
    assert again == said


def test_a_variation_is_drawn_anew_for_each_receiver() -> None:
    liar = mind()
    truth = mail(Ready(ROOT, uplink=5))
    assert len({bytes(liar.in_place_of(truth, Deed.VARY, peer).body) for peer in OTHERS}) > 2


def test_a_replay_is_something_that_the_liar_has_sent_before() -> None:
    liar = mind()
    before = mail(Ready(ROOT, uplink=1))
    liar.hearsay.note_request(before)
    now = mail(Ready(ROOT, uplink=2))
    drawn = {bytes(liar.in_place_of(now, Deed.REPLAY, OTHERS[0]).body) for _ in range(20)}
    assert drawn == {before.body, now.body}


def test_a_decline_and_an_echo_answer_the_sender_s_own_message() -> None:
    liar = mind()
    heard = read(mail(Holdings((ROOT,)), number=2))
    assert read(liar.echo(heard)).message == heard.message
    assert read(liar.echo(heard)).stamp.group == GROUP
    declined = [read(liar.decline(heard)) for _ in range(20)]
    assert all(isinstance(each.message, Decline) and each.stamp.round == 3 for each in declined)
    assert {each.signer for each in declined} == {ME.peer_id}


def test_a_reply_that_is_packed_stays_well_formed() -> None:
    liar = mind()
    truth = pack(Record(3, members=(ROOT,), stops=(256,), items=(b"item",)))
    lies = [bytes(liar.changed_reply("record", truth, Deed.VARY)) for _ in range(40)]
    read_again = 0
    for lie in lies:
        try:
            read_again += msgspec.msgpack.decode(lie, type=Record) != msgspec.msgpack.decode(
                truth, type=Record
            )
        except (msgspec.DecodeError, ValueError):
            continue
    assert read_again > 20


def test_a_head_that_is_varied_is_the_liar_s_own_head() -> None:
    liar = mind()
    truth = seal(ME, Head(ROOT, 5, 1.0), Stamp(RUN, 3))
    for deed in (Deed.VARY, Deed.BOAST):
        lie = open_frame(bytes(liar.changed_reply("offer", truth, deed)), Head, run=RUN)
        assert lie.signer == ME.peer_id
        assert (lie.message, lie.stamp) != (Head(ROOT, 5, 1.0), Stamp(RUN, 3))


def test_without_an_occasion_a_liar_speaks_to_others_and_never_to_itself() -> None:
    liar = mind()
    liar.hearsay.note_request(mail(Ready(ROOT)))
    liar.hearsay.note_bytes(mail(Ready(ROOT), number=2).body)
    heard: set[PeerId] = set()
    kinds: set[type[Message]] = set()
    for _ in range(300):
        lie = liar.initiative()
        assert lie is not None
        receivers, request = lie
        heard.update(receivers)
        kinds.add(type(read(request).message))
    assert heard == set(OTHERS)
    assert kinds == set(MESSAGES)
