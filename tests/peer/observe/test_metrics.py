"""The board: one picture of this peer, whose numbers come from where they say."""

from __future__ import annotations

import pytest

from peer.observe.metrics import EVENTS, RATES, Meter, Metrics
from peer.observe.snapshot import Fetching, decode, encode
from swarm.identity import petname
from swarm.manifest import Codec
from swarm.membership.progress import Phase, Progress
from swarm.membership.roster import Row
from swarm.wire import Signed, open_frame
from tests.peer.company import MANIFEST, RUN, contact_of, key, progress_of

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
    return Metrics(MANIFEST, ME, "", "1", 9000, clock)


def row(number: int, phase: Phase = Phase.TRAINING) -> Row:
    signed: Signed[Progress] = open_frame(progress_of(number, phase=phase), Progress, run=RUN)
    return Row(signed, 0.0)


def test_rates_are_what_was_added_since_the_last_sample() -> None:
    meter = Meter()
    meter.sample(100, 10, 1.0)
    meter.sample(300, 10, 2.0)
    assert (list(meter.up), list(meter.down)) == ([100.0, 100.0], [10.0, 0.0])
    assert (meter.total_up, meter.total_down) == (300, 10)
    assert meter.recent() == (100.0, 5.0)
    meter.sample(0, 0, 1.0)  # a counter that began again
    assert meter.up[-1] == 0
    for _ in range(2 * RATES):
        meter.sample(0, 0, 1.0)
    assert len(meter.up) == RATES


def test_nothing_sampled_is_nothing_sent() -> None:
    assert Meter().recent() == (0.0, 0.0)


def test_the_health_follows_from_phase_company_and_reason(metrics: Metrics) -> None:
    company = [(row(1), 0.0, True)]
    assert metrics.snapshot(company).health == "SYNCING"
    metrics.enter(Phase.TRAINING, 5.0)
    assert metrics.snapshot([]).health == "WAITING"
    assert metrics.snapshot(company).health == "HEALTHY"
    metrics.reason = "too few of the group answered"
    assert (metrics.snapshot(company).health, metrics.snapshot(company).reason) == (
        "DEGRADED",
        metrics.reason,
    )
    metrics.finished = True
    assert metrics.snapshot(company).health == "FINISHED"


def test_a_phase_counts_down_and_begins_at_step_0(metrics: Metrics, clock: Clock) -> None:
    metrics.step = 7
    metrics.enter(Phase.TRAINING, 5.0)
    clock.now += 2
    assert (metrics.snapshot([]).phase_left, metrics.snapshot([]).step, metrics.snapshot([]).phase) == (
        3.0,
        0,
        "training",
    )
    clock.now += 20
    assert metrics.snapshot([]).phase_left == 0.0
    assert metrics.snapshot([]).uptime == 22.0


def test_states_of_others_are_what_they_say_unless_they_are_away(metrics: Metrics) -> None:
    roster = [(row(1), 1.0, True), (row(2), 70.0, False), (row(3, Phase.LEAVING), 1.0, False)]
    mine, *others = metrics.snapshot(roster).peers
    assert (mine.is_me, mine.name) == (True, petname(ME))
    assert [(each.name, each.state) for each in others] == [
        ("p1", "training"),
        ("p2", "unreachable"),
        ("p3", "left"),
    ]


def test_shares_are_of_those_who_are_here(metrics: Metrics) -> None:
    metrics.tokens_per_second = 300.0
    record = open_frame(progress_of(1), Progress, run=RUN)
    fast = Progress(Phase.TRAINING, bytes(32), 0, 100.0, 0.0, 0.0, 0.0, "fast", "cpu", "1", contact_of(1))
    here = Row(Signed(fast, record.signer, record.public, record.stamp, b""), 0.0)
    assert [each.share for each in metrics.snapshot([(here, 0.0, True)]).peers] == [0.75, 0.25]
    assert [each.share for each in metrics.snapshot([(here, 0.0, False)]).peers] == [1.0, 0.0]


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
        "of two nobody is unusual",
        "nothing known",
        "a boaster makes nobody slow",
        "new",
    ],
)
def test_stragglers_are_shown_as_such(metrics: Metrics, speeds: list[float], slow: list[bool]) -> None:
    metrics.tokens_per_second = 100.0
    roster = []
    for number, speed in enumerate(speeds, 1):
        record = open_frame(progress_of(number), Progress, run=RUN)
        said = Progress(
            Phase.TRAINING, bytes(32), 0, speed, 0.0, 0.0, 0.0, f"p{number}", "cpu", "1", contact_of(number)
        )
        roster.append((Row(Signed(said, record.signer, record.public, record.stamp, b""), 0.0), 0.0, True))
    mine, *others = metrics.snapshot(roster).peers
    assert [each.state == "slow" for each in others] == slow
    assert mine.state == "starting"


def test_a_download_is_shown_while_it_goes_on(metrics: Metrics) -> None:
    metrics.enter(Phase.SYNCING)
    metrics.fetching = Fetching(what="model", here=10, whole=40, bytes_per_second=3.1e6, donors=4)
    snapshot = decode(encode(metrics.snapshot([])))
    assert (snapshot.health, snapshot.reason) == (
        "SYNCING",
        "fetching the model from 4 peers: 25.0 % at 3.1 MB/s",
    )
    assert snapshot.fetching == metrics.fetching
    metrics.enter(Phase.TRAINING, 5.0)
    assert metrics.snapshot([(row(1), 0.0, True)]).health == "HEALTHY"
    assert metrics.snapshot([]).fetching == Fetching()


def test_what_is_told_to_others_fits_their_rules_whatever_happens_here() -> None:
    metrics = Metrics(MANIFEST, ME, "n" * 100, "1", 9000, lambda: 0.0)
    metrics.loss = float("1e30")
    said = metrics.progress(contact_of(0))
    assert (len(said.name), said.loss) == (40, 1e6)


def test_old_events_make_room_and_the_picture_survives_the_way_to_a_screen(metrics: Metrics) -> None:
    for number in range(2 * EVENTS):
        metrics.note(f"event {number}")
    metrics.add_loss(1, 2.5)
    metrics.add_loss(2, float("nan"))
    metrics.add_evaluation(2, 1.5)
    snapshot = decode(encode(metrics.snapshot([(row(1), 1.0, True)])))
    assert [event.text for event in snapshot.events] == [
        f"event {number}" for number in range(EVENTS, 2 * EVENTS)
    ]
    assert [point.value for point in snapshot.losses] == [2.5]
    assert [point.value for point in snapshot.evaluations] == [1.5]


def test_the_time_left_is_the_rounds_left_times_the_last(metrics: Metrics) -> None:
    metrics.round, metrics.round_seconds = 40, 2.0
    assert metrics.snapshot([]).seconds_left == (MANIFEST.rounds - 40) * 2.0
    metrics.round = MANIFEST.rounds + 1
    assert metrics.snapshot([]).seconds_left == 0


def test_it_is_told_once_that_a_slow_line_sends_less(metrics: Metrics) -> None:
    usual = MANIFEST.round.codec
    for codec in (usual, Codec.FP16, Codec.FP16, usual, usual):
        metrics.sends(codec)
    texts = [event.text for event in metrics.snapshot([]).events]
    assert texts == [
        f"this line is slow for the run: its updates go as fp16 instead of {usual.name.lower()}",
        f"updates go as {usual.name.lower()} again",
    ]
