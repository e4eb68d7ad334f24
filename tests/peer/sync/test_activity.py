"""The phase of a peer, and what is left of its local training."""

from __future__ import annotations

import pytest

from peer.sync.activity import Activity
from swarm.manifest import RoundSpec
from swarm.membership.progress import Phase

SPEC = RoundSpec(seconds=10.0)


class Clock:
    """A clock that stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def test_a_listener_is_told_every_phase_and_when_it_should_end() -> None:
    told: list[tuple[Phase, float]] = []
    clock = Clock()
    activity = Activity(SPEC, clock, lambda phase, ends_at: told.append((phase, ends_at)))
    assert activity.phase is Phase.STARTING
    activity.enter(Phase.AVERAGING, 5.0)
    clock.now += 2
    activity.enter(Phase.WAITING)
    assert activity.phase is Phase.WAITING
    assert told == [(Phase.AVERAGING, 105.0), (Phase.WAITING, 102.0)]


@pytest.mark.parametrize(("seconds_left", "seconds"), [(None, 10.0), (3.0, 3.0), (0.0, 0.0)])
def test_training_takes_a_whole_round_or_what_the_others_have_left_of_theirs(
    seconds_left: float | None, seconds: float
) -> None:
    activity = Activity(SPEC, Clock(), lambda phase, ends_at: None)
    activity.seconds_left = seconds_left
    assert activity.begin_training() == seconds
    assert activity.phase is Phase.TRAINING
    assert activity.train_until == 100.0 + seconds
    assert activity.begin_training() == 10.0, "the next round is a whole one"


@pytest.mark.parametrize(
    ("phase", "left"),
    [
        (Phase.STARTING, 0.0),
        (Phase.SYNCING, 0.0),
        (Phase.WAITING, 10.0),
        (Phase.TRAINING, 6.0),
        (Phase.AVERAGING, 0.0),
        (Phase.FOLLOWING, 0.0),
        (Phase.LEAVING, 0.0),
    ],
)
def test_what_is_left_of_local_training_depends_on_the_phase(phase: Phase, left: float) -> None:
    clock = Clock()
    activity = Activity(SPEC, clock, lambda phase, ends_at: None)
    activity.begin_training()
    clock.now += 4
    activity.enter(phase)
    assert activity.training_left == left


def test_nothing_is_left_of_training_that_takes_too_long() -> None:
    clock = Clock()
    activity = Activity(SPEC, clock, lambda phase, ends_at: None)
    activity.begin_training()
    clock.now += 40
    assert activity.training_left == 0.0
