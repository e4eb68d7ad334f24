"""A partition of a minute: what each side does meanwhile, and whose state is taken over.

All seconds here are virtual.
"""

from __future__ import annotations

from functools import cache

import pytest

from peer.simulation.peers import Notebook, RehearsalResult
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.simulation.faults import Faults
from tests.stories.agreement import assert_agreement

# All tests in one process of pytest-xdist, because they share the rehearsals in the cache of `partitioned`.
pytestmark = pytest.mark.xdist_group("partition")

PARTED_AT = 24.0
HEALED_AT = 84.0
ROUNDS = 32
UNDER_WAY_SECONDS = 6.0
"""A round that had been decided when the network fell apart may still end in this time."""
REUNION_SECONDS = 45.0
"""So long after the network has healed all peers are in one group again."""

both_sizes = pytest.mark.parametrize("peers", [8, pytest.param(16, marks=pytest.mark.slow)])
"""The number of peers. A half of them, or three quarters, is one side of the partition."""
both_splits = pytest.mark.parametrize("share", [0.5, 0.75])


@cache
def partitioned(peers: int, share: float) -> RehearsalResult:
    """For a minute the first ``share`` of the peers, the organiser p0 among them, cannot reach the others."""
    names = [f"p{number}" for number in range(peers)]
    size = int(peers * share)
    faults = Faults().split(names[:size], names[size:], between=(PARTED_AT, HEALED_AT))
    return rehearse(
        Scenario(peers=peers, rounds=ROUNDS, seed=2, step_seconds=0.6, faults=faults, patience=1000)
    )


def sides(peers: int, share: float) -> tuple[list[Notebook], list[Notebook]]:
    """The notebooks of the organiser's side, and of the other one."""
    notebooks = partitioned(peers, share).notebooks
    size = int(peers * share)
    return (
        [notebooks[f"p{number}"] for number in range(size)],
        [notebooks[f"p{number}"] for number in range(size, peers)],
    )


def group_sizes(notebook: Notebook, begin: float, end: float) -> list[int]:
    """Members of each average that this peer had between two times."""
    reports = zip(notebook.rounds, notebook.told_at, strict=True)
    return [
        report.members for report, at in reports if begin < at <= end and report.round not in notebook.missed
    ]


@both_sizes
@both_splits
def test_in_the_end_all_peers_are_in_one_group_with_one_model(peers: int, share: float) -> None:
    result = partitioned(peers, share)
    since = {
        report.round
        for notebook in result.notebooks.values()
        for report, at in zip(notebook.rounds, notebook.told_at, strict=True)
        if at > PARTED_AT
    }
    assert_agreement(result, ROUNDS - 1, partitioned=since)
    for notebook in result.notebooks.values():
        assert set(group_sizes(notebook, HEALED_AT + REUNION_SECONDS, 1000)) == {peers}


@both_sizes
@both_splits
def test_meanwhile_each_side_is_by_itself_and_more_than_a_half_or_the_organisers_half_trains_on_as_one_group(
    peers: int, share: float
) -> None:
    """The other side waits for the others, until it knows that it cannot reach them."""
    for is_organisers, side in zip((True, False), sides(peers, share), strict=True):
        for notebook in side:
            assert group_sizes(notebook, 0, PARTED_AT)[0] == peers
            apart = group_sizes(notebook, PARTED_AT + UNDER_WAY_SECONDS, HEALED_AT)
            assert max(apart, default=0) <= len(side)
            if is_organisers:
                assert len(apart) >= 5
                assert set(apart) == {len(side)}


@both_sizes
def test_a_side_of_more_than_two_thirds_decides_even_the_round_in_which_the_network_parts(peers: int) -> None:
    large, _ = sides(peers, 0.75)
    for notebook in large:
        assert not notebook.missed


@both_sizes
def test_of_two_halves_the_one_without_the_organiser_takes_over_the_state_of_the_other(peers: int) -> None:
    here, there = sides(peers, 0.5)
    roots_here = roots_since_parted(here, HEALED_AT)
    roots_there = roots_since_parted(there, HEALED_AT)
    only_there = roots_there - roots_here
    for notebook in here:
        assert not downloaded(notebook) & only_there, "the organiser's side downloads nothing from the other"
    only_here = roots_since_parted(here, HEALED_AT + REUNION_SECONDS) - roots_there
    for notebook in there:
        assert downloaded(notebook) & only_here, "the other side downloads the organiser's state"


def roots_since_parted(side: list[Notebook], until: float) -> set[str]:
    """The state roots after the rounds that the peers of a side reported since the network fell apart."""
    return {
        report.state_root
        for notebook in side
        for report, at in zip(notebook.rounds, notebook.told_at, strict=True)
        if PARTED_AT < at <= until
    }


def downloaded(notebook: Notebook) -> set[str]:
    """The roots of the states that this peer has downloaded."""
    return {fields["state_root"] for name, fields in notebook.events if name == "synced"}
