"""What one member has heard: first messages count, strangers' do not, and settled items stay settled."""

from __future__ import annotations

import random
from dataclasses import replace

from averaging.messages import Ballot, Commit, Holdings, Receipt, Takeover
from averaging.partition import plan
from averaging.robust import Claim
from averaging.round_plan import RoundPlan, Schedule
from averaging.tally import Tally
from swarm.identity import PeerId
from swarm.manifest import Codec, Exchange
from swarm.wire import Message
from tests.averaging.members import ROOT, group_of

A, B, C, D = group_of(4).members
GROUP = group_of(4, {A: 5, B: 7, C: 9, D: 1})
PARTS = plan(1024, GROUP.members)
AT = Schedule(
    patience=10.0, commits=1.0, parts=2.0, takeover=2.2, spares=2.6, results=3.0, holdings=4.0, fetched=5.0
)
PLAN = RoundPlan(group=GROUP, parts=PARTS, codec=Codec.INT8, schedule=AT)
X = bytes([1]) * 32
Y = bytes([2]) * 32
NONE = b""


def tally(*messages: tuple[PeerId, Message]) -> Tally:
    heard = Tally(PLAN)
    for sender, message in messages:
        heard.hear(sender, message)
    return heard


def commit(
    weight: int = 5,
    root: bytes = ROOT,
    parts: int = 4,
    norms: tuple[float, ...] = (3.0, 4.0, 0.0, 0.0),
    codec: Codec = Codec.INT8,
) -> Commit:
    return Commit((X,) * parts, norms[:parts], weight, X, root, codec)


def held(*hashes: bytes) -> Holdings:
    return Holdings((*hashes, *(NONE,) * (4 - len(hashes))))


def test_of_two_messages_of_one_kind_the_first_counts() -> None:
    heard = tally(
        (A, commit()),
        (A, commit(norms=(1.0, 4.0, 0.0, 0.0))),
        (A, held(X)),
        (A, held(Y)),
        (A, Ballot((X,) * 4)),
        (A, Ballot((Y,) * 4)),
    )
    assert heard.commits[A] == commit()
    assert heard.holdings[A] == held(X)
    assert heard.ballots[A].hashes == (X,) * 4
    owner = PARTS[0].owner
    assert tally((owner, Receipt(0, X)), (owner, Receipt(0, Y))).receipts[0, owner].hash == X


def test_a_message_that_does_not_fit_the_plan_does_not_count() -> None:
    stranger = next(member for member in GROUP.members if member not in PLAN.chain(PARTS[0]))
    heard = tally(
        (A, commit(4)),
        (A, commit(parts=3)),
        (A, commit(root=X)),
        (A, commit(codec=Codec.FP32)),
        (stranger, Receipt(0, X)),
        (A, Receipt(4, X)),
        (PARTS[0].owner, Takeover(0)),
        (stranger, Takeover(0)),
        (A, Takeover(4)),
        (A, Holdings((X,) * 3)),
        (A, Ballot((X,) * 5)),
    )
    assert (heard.commits, heard.receipts, heard.takeovers) == ({}, {}, {})
    assert (heard.holdings, heard.ballots) == ({}, {})


def test_receipts_and_takeovers_of_owner_and_spares_count() -> None:
    owner, *spares = PLAN.chain(PARTS[0])
    heard = tally((owner, Receipt(0, X)), (spares[0], Receipt(0, Y)), (spares[1], Takeover(0)))
    assert heard.receipts_of(0) == {X, Y}
    assert heard.takeovers == {0: {spares[1]}}


def test_in_a_gather_nobody_owns_anything_and_a_commit_has_one_hash() -> None:
    gather = replace(PLAN, parts=plan(1024, GROUP.members[:1]), exchange=Exchange.GATHER)
    heard = Tally(gather)
    for message in (commit(), commit(parts=1), Receipt(0, X), Takeover(0), held(X, Y)):
        heard.hear(A, message)
    assert heard.commits[A] == commit(parts=1)
    assert (heard.receipts, heard.takeovers) == ({}, {})
    assert heard.holdings[A] == held(X, Y)


def test_nobody_waits_for_members_that_are_gone_nor_for_late_commits() -> None:
    heard = tally((A, commit()), (B, commit(7)))
    heard.gone.add(B)
    assert heard.awaited({A}, now=0.5) == {C, D}
    assert heard.awaited(frozenset(), now=1.0) == {A}


def test_a_claim_is_what_the_commit_says() -> None:
    assert tally((A, commit(5))).claim(A, 1) == Claim(5.0, 5.0, 4.0)


def test_an_item_is_supported_if_two_thirds_hold_the_same() -> None:
    heard = tally((A, held(X, X)), (B, held(X, Y)), (C, held(X, X)))
    assert [heard.supported(index) for index in range(4)] == [X, NONE, NONE, NONE]
    assert heard.holders(1, X) == sorted([A, C])


def test_an_item_is_settled_when_no_message_can_change_it() -> None:
    heard = tally((A, held(X, X)), (B, held(X, Y)))
    assert [heard.is_settled(index) for index in range(4)] == [False, False, True, True]
    heard.hear(C, held(X, X))
    assert [heard.is_settled(index) for index in range(4)] == [True, False, True, True]


def test_members_that_find_everything_settled_agree_whatever_each_has_heard() -> None:
    chance = random.Random(1)
    compared = 0
    for _ in range(500):
        sent = [
            (member, Holdings(tuple(chance.choice([X, X, X, Y, NONE]) for _ in range(4))))
            for member in GROUP.members
        ]
        one, other = (tally(*chance.sample(sent, chance.randrange(2, 5))) for _ in range(2))
        for index in range(4):
            if one.is_settled(index) and other.is_settled(index):
                compared += 1
                assert one.supported(index) == other.supported(index)
    assert compared > 500


def test_ballots_are_counted_as_wholes_and_a_split_is_known_before_the_end() -> None:
    heard = tally((A, Ballot((X, X, X, X))), (B, Ballot((X, X, X, NONE))))
    assert heard.leading()[1] == 1
    assert not heard.is_split()
    heard.hear(C, Ballot((X, X, X, X)))
    assert heard.leading() == ((X, X, X, X), 2)
    assert not heard.is_split()
    heard.hear(D, Ballot((X, X, NONE, NONE)))
    assert heard.is_split()
    assert tally().leading() == ((), 0)


def test_nobody_waits_for_members_that_have_let_us_down_and_what_they_send_counts() -> None:
    heard = Tally(replace(PLAN, unawaited=frozenset({B})))
    assert heard.awaited(frozenset(), now=0.5) == {A, C, D}
    heard.hear(B, commit(7))
    assert heard.commits[B].weight == 7
