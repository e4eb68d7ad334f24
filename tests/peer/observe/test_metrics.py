"""One picture of this peer for every screen: what metrics are told, and what a snapshot shows of it."""

from __future__ import annotations

import os

import pytest

from peer.observe.metrics import (
    RATES,
    About,
    GroupFigures,
    Metrics,
    TrainingFigures,
    WireFigures,
)
from peer.observe.snapshot import EVENTS, LISTED, Fetching, decode, encode
from swarm.identity import petname
from swarm.membership.progress import Phase, Progress
from swarm.membership.roster import Row
from swarm.wire import Signed, open_frame
from tests.peer.company import MANIFEST, RUN, contact_of, described, key, progress_of

ME = key(0).peer_id


class Clock:
    """A clock that stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics(MANIFEST, About(ME, "", "1", 9000), clock)


def row(number: int, phase: Phase = Phase.TRAINING, *, tokens_per_second: float = 0.0) -> Row:
    """What we know of peer ``number``."""
    signed: Signed[Progress] = open_frame(progress_of(number, phase=phase), Progress, run=RUN)
    progress = described(number, phase=phase, tokens_per_second=tokens_per_second)
    return Row(Signed(progress, signed.signer, signed.public, signed.stamp, b""), 0.0)


def test_rates_are_what_was_added_since_the_last_sample() -> None:
    wire = WireFigures()
    wire.sample(100, 10, 1.0)
    wire.sample(300, 10, 2.0)
    assert (list(wire.up), list(wire.down)) == ([100.0, 100.0], [10.0, 0.0])
    assert (wire.total_up, wire.total_down) == (300, 10)
    assert wire.recent() == (100.0, 5.0)
    wire.sample(0, 0, 1.0)  # a counter that began again
    assert wire.up[-1] == 0
    for _ in range(2 * RATES):
        wire.sample(0, 0, 1.0)
    assert len(wire.up) == RATES


def test_nothing_sampled_is_nothing_sent() -> None:
    assert WireFigures().recent() == (0.0, 0.0)


def test_a_home_whose_path_is_not_text_does_not_break_the_status_page(metrics: Metrics) -> None:
    path = os.fsdecode(b"/home/J\xfcrgen/round-1")
    metrics.shown.checkpoint = path
    metrics.note(f"saved {path}")
    shown = decode(encode(metrics.snapshot([])))
    assert (shown.checkpoint, shown.events[0].text) == ("/home/J?rgen/round-1", "saved /home/J?rgen/round-1")


def test_the_health_follows_from_the_phase_the_others_and_the_reason(metrics: Metrics, clock: Clock) -> None:
    others = [(row(1), 0.0, True)]
    assert metrics.snapshot(others).health == "SYNCING"
    metrics.entered(Phase.TRAINING, clock() + 5.0)
    assert metrics.snapshot([]).health == "WAITING"
    assert metrics.snapshot(others).health == "HEALTHY"
    reason = "too few of the group answered"
    metrics.group = GroupFigures(members=1, reason=reason)
    snapshot = metrics.snapshot(others)
    assert (snapshot.health, snapshot.reason) == ("DEGRADED", reason)
    metrics.shown.is_finished = True
    assert metrics.snapshot(others).health == "FINISHED"


def test_a_phase_counts_down_and_begins_at_step_0(metrics: Metrics, clock: Clock) -> None:
    metrics.training.on_step(7, 2.5)
    assert metrics.snapshot([]).step == 7
    metrics.entered(Phase.TRAINING, clock() + 5.0)
    clock.now += 2
    snapshot = metrics.snapshot([])
    assert (snapshot.phase_left, snapshot.step, snapshot.phase) == (3.0, 0, "training")
    clock.now += 20
    assert metrics.snapshot([]).phase_left == 0.0
    assert metrics.snapshot([]).uptime == 22.0


def test_states_of_others_are_what_they_say_unless_they_are_absent(metrics: Metrics) -> None:
    roster = [(row(1), 1.0, True), (row(2), 70.0, False), (row(3, Phase.LEAVING), 1.0, False)]
    mine, *others = metrics.snapshot(roster).peers
    assert (mine.is_me, mine.name) == (True, petname(ME))
    assert [(each.name, each.state) for each in others] == [
        ("p1", "training"),
        ("p2", "unreachable"),
        ("p3", "left"),
    ]


def test_shares_are_those_of_the_peers_that_are_present(metrics: Metrics) -> None:
    metrics.training.trained(600, 2.0)
    other = row(1, tokens_per_second=100.0)
    assert [each.share for each in metrics.snapshot([(other, 0.0, True)]).peers] == [0.75, 0.25]
    assert [each.share for each in metrics.snapshot([(other, 0.0, False)]).peers] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("speeds", "slow"),
    [
        ([100.0, 110.0, 10.0], [False, False, True]),
        ([100.0, 110.0, 30.0], [False, False, False]),
        ([10.0], [False]),
        ([0.0, 0.0, 10.0], [False, False, False]),
        ([100.0, 1e15, 90.0], [False, False, False]),
        ([100.0, 100.0, 0.0], [False, False, False]),
    ],
    ids=[
        "ten times slower",
        "a little slower",
        "of two it is not known which is unusual",
        "nothing known",
        "one that boasts makes nobody slow",
        "new",
    ],
)
def test_stragglers_are_shown_as_such(metrics: Metrics, speeds: list[float], slow: list[bool]) -> None:
    metrics.training.trained(200, 2.0)
    rows = [row(number, tokens_per_second=speed) for number, speed in enumerate(speeds, 1)]
    roster = [(each, 0.0, True) for each in rows]
    mine, *others = metrics.snapshot(roster).peers
    assert [each.state == "slow" for each in others] == slow
    assert mine.state == "starting"


def test_a_download_is_shown_while_it_goes_on(metrics: Metrics, clock: Clock) -> None:
    metrics.entered(Phase.SYNCING, clock())
    metrics.shown.fetching = Fetching(what="model", here=10, whole=40, bytes_per_second=3.1e6, donors=4)
    snapshot = decode(encode(metrics.snapshot([])))
    assert (snapshot.health, snapshot.reason) == (
        "SYNCING",
        "fetching the model from 4 peers: 25.0 % at 3.1 MB/s",
    )
    assert snapshot.fetching == metrics.shown.fetching
    metrics.entered(Phase.TRAINING, clock() + 5.0)
    assert metrics.snapshot([(row(1), 0.0, True)]).health == "HEALTHY"
    assert metrics.snapshot([]).fetching == Fetching()


def test_what_is_told_to_others_is_within_the_limits_of_a_message_whatever_happens_here() -> None:
    metrics = Metrics(MANIFEST, About(ME, "n" * 100, "1", 9000), lambda: 0.0)
    metrics.training.add_loss(0, 1e30)
    progress = metrics.progress(Phase.TRAINING, bytes(32), contact_of(0))
    assert (len(progress.name), progress.loss) == (40, 1e6)


def test_a_peer_tells_the_others_its_phase_its_speed_and_its_traffic(metrics: Metrics) -> None:
    metrics.training.trained(300, 3.0)
    metrics.training.trained(500, 2.0)
    metrics.sample(1000, 400, 1.0)
    root = bytes([1]) * 32
    progress = metrics.progress(Phase.AVERAGING, root, contact_of(0))
    assert (progress.phase, progress.state_root, progress.contact) == (Phase.AVERAGING, root, contact_of(0))
    assert (progress.tokens, progress.tokens_per_second) == (800, 250.0)
    assert (progress.up, progress.down) == (1000.0, 400.0)


def test_the_place_in_the_run_is_what_the_position_says(metrics: Metrics) -> None:
    metrics.moved(7, bytes([1]) * 32, 900)
    snapshot = metrics.snapshot([])
    assert (snapshot.round, snapshot.tokens, snapshot.state_root) == (7, 900, (bytes([1]) * 32).hex())
    assert snapshot.peers[0].round == 7


def test_companions_are_shown_where_we_are_until_they_tell_something_newer(
    metrics: Metrics, clock: Clock
) -> None:
    metrics.moved(7, bytes(32), 0)
    metrics.averaged_with([ME, key(1).peer_id])
    clock.now += 2
    old = (row(1), 30.0, True)
    new = (row(1), 1.0, True)
    absent = (row(1), 30.0, False)
    stranger = (row(2), 30.0, True)
    shown = [metrics.snapshot([each]).peers[1] for each in (old, new, absent, stranger)]
    assert [(each.round, each.seen_seconds) for each in shown] == [(7, 2.0), (0, 1.0), (0, 30.0), (0, 30.0)]


def test_however_many_peers_there_are_a_snapshot_lists_some_and_counts_the_rest(metrics: Metrics) -> None:
    roster = [(row(number), 1.0, True) for number in range(1, LISTED + 50)]
    snapshot = metrics.snapshot(roster)
    assert (len(snapshot.peers), snapshot.more_peers) == (LISTED, 50)
    assert snapshot.peers[0].is_me
    assert metrics.snapshot(roster[: LISTED - 1]).more_peers == 0
    assert metrics.snapshot([]).more_peers == 0


def test_new_identities_push_neither_companions_nor_present_peers_out_of_the_list(metrics: Metrics) -> None:
    companion = key(1).peer_id
    metrics.averaged_with([ME, companion])
    friends = [(row(1), 50.0, False), (row(2), 40.0, True)]
    flood = [(row(number), 1.0, False) for number in range(3, 2 * LISTED)]
    listed = [shown.peer for shown in metrics.snapshot([*flood, *friends]).peers]
    assert listed[-2:] == [companion, key(2).peer_id], "in the order of the roster"


def test_the_figures_of_training_add_up() -> None:
    figures = TrainingFigures()
    figures.trained(100, 0.0)
    figures.trained(50, 10.0)
    assert (figures.given_tokens, figures.tokens_per_second) == (150, 5.0)
    figures.add_loss(3, 2.5)
    assert figures.loss == 2.5
    assert [(point.round, point.value) for point in figures.losses] == [(3, 2.5)]


def test_old_events_are_dropped_and_the_picture_survives_the_way_to_a_screen(metrics: Metrics) -> None:
    for number in range(2 * EVENTS):
        metrics.note(f"event {number}")
    metrics.training.add_loss(1, 2.5)
    metrics.training.add_loss(2, float("nan"))
    metrics.training.add_evaluation(2, 1.5)
    snapshot = decode(encode(metrics.snapshot([(row(1), 1.0, True)])))
    assert [event.text for event in snapshot.events] == [
        f"event {number}" for number in range(EVENTS, 2 * EVENTS)
    ]
    assert [point.value for point in snapshot.losses] == [2.5]
    assert [point.value for point in snapshot.evaluations] == [1.5]


def test_the_time_left_is_that_of_the_last_round_for_each_round_that_is_left(metrics: Metrics) -> None:
    metrics.moved(40, bytes(32), 0)
    metrics.finish_round(39, 2.5, 2.0, GroupFigures(members=1))
    assert metrics.snapshot([]).seconds_left == (MANIFEST.rounds - 40) * 2.0
    metrics.moved(MANIFEST.rounds + 1, bytes(32), 0)
    assert metrics.snapshot([]).seconds_left == 0
