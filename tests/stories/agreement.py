"""The check at the end of every story: the peers agree, round by round, and have learnt something."""

from __future__ import annotations

import math
from collections.abc import Collection

from peer.simulation.peers import Notebook, RehearsalResult

FRESH_BITS_PER_BYTE = 8.0
"""The score of a model that has learnt nothing."""


def assert_agreement(
    result: RehearsalResult, last: int, *, gone: Collection[str] = (), partitioned: Collection[int] = ()
) -> None:
    """Check that the peers that are not ``gone`` agreed after each round, up to round ``last``.

    In the ``partitioned`` rounds the network was in two parts, so there may be two state roots.
    """
    present = {name: notebook for name, notebook in result.notebooks.items() if name not in gone}
    assert result.leftovers == ()
    for round_ in range(last + 1):
        roots = {
            name: report.state_root
            for name, notebook in present.items()
            for report in notebook.rounds
            if report.round == round_ and round_ not in notebook.missed
        }
        assert len(set(roots.values())) <= 1 or round_ in partitioned, f"round {round_}: {roots}"
    final_roots = {name: final_root(notebook, last) for name, notebook in present.items()}
    assert len(set(final_roots.values())) == 1, f"not all peers end with the same state: {final_roots}"
    scores = {
        report.bits_per_byte
        for notebook in present.values()
        for report in notebook.rounds
        if report.round == last
    }
    (score,) = scores
    assert score is not None
    assert math.isfinite(score)
    assert score < FRESH_BITS_PER_BYTE


def final_root(notebook: Notebook, last: int) -> str:
    """The state root that a peer ended with: after its round ``last``, or of a state downloaded later."""
    downloaded = [
        fields["state_root"]
        for name, fields in notebook.events
        if name == "synced" and fields["round"] == last + 1
    ]
    own = [report.state_root for report in notebook.rounds if report.round == last]
    return (own + downloaded)[-1] if own or downloaded else "none"
