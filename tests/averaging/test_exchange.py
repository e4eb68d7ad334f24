"""The state that a round and its exchange share: what one member contributes, has heard, and holds."""

from __future__ import annotations

import torch

from averaging.exchange import ExchangeState
from averaging.messages import Ballot, Holdings
from averaging.reduce import CheckResult
from averaging.round_plan import Scratch
from averaging.tally import Tally
from swarm.machine import Compute, Send
from swarm.manifest import Codec
from tests.averaging.members import update_of
from tests.averaging.test_round import GROUP, PARTS, PLAN, A, B, C, D

HASH = bytes([1]) * 32
OTHER = bytes([2]) * 32


def state(codec: Codec | None = None) -> ExchangeState:
    update = update_of(torch.zeros(1024), 1, codec)
    return ExchangeState(PLAN, A, update, Scratch(), Tally(PLAN))


def test_a_message_to_the_others_counts_as_heard_from_ourselves_at_once() -> None:
    ours = state()
    holdings = Holdings((HASH, b"", b"", b""))
    assert ours.others == (B, C, D)
    assert ours.tell(holdings) == Send((B, C, D), holdings, GROUP.id)
    assert ours.tally.holdings == {A: holdings}
    ours.tell(Ballot((b"",) * 4))
    assert A in ours.tally.ballots


def test_our_update_has_the_codec_of_the_plan_unless_we_chose_another() -> None:
    assert state().codec is Codec.INT8
    assert state(Codec.INT4).codec is Codec.INT4


def test_two_results_of_one_part_may_be_held_at_once() -> None:
    ours = state()
    ours.hold(3, HASH, b"one")
    ours.hold(3, OTHER, b"other", torch.ones(2))
    assert ours.held == {3: {HASH: b"one", OTHER: b"other"}}
    assert list(ours.decoded) == [(3, OTHER)]
    assert ours.items((b"", b"", b"", OTHER)) == (b"", b"", b"", b"other")


def test_an_item_is_pending_while_any_copy_of_it_is_being_checked() -> None:
    ours = state()
    job = CheckResult(PARTS[1], b"bytes", HASH, Codec.INT8)
    assert ours.begin_check(1, job) == Compute(job)
    ours.begin_check(1, job)
    ours.end_check(1)
    assert ours.pending[1] == 1
    ours.end_check(1)
    ours.end_check(1)
    assert ours.pending[1] == 0, "an answer that nobody waits for changes nothing"
