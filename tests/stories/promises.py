"""What every story ends with, whatever has happened in it."""

from __future__ import annotations

import math
from collections.abc import Collection

from peer.simulation.peers import Notebook, RehearsalResult

FRESH_BITS_PER_BYTE = 8.0
"""Of a model that knows nothing."""


def check(
    story: RehearsalResult, last: int, *, gone: Collection[str] = (), parted: Collection[int] = ()
) -> None:
    """All that are not ``gone`` reach the end of round ``last`` with the same model, and agreed all the way there.

    In the ``parted`` rounds the network was in two, so there may be two results.
    """
    living = {name: book for name, book in story.notebooks.items() if name not in gone}
    assert story.leftovers == ()
    for round_ in range(last + 1):
        said = {
            name: report.state_root
            for name, book in living.items()
            for report in book.rounds
            if report.round == round_ and round_ not in book.missed
        }
        assert len(set(said.values())) <= 1 or round_ in parted, f"round {round_} has several results: {said}"
    ends = {name: final(book, last) for name, book in living.items()}
    assert len(set(ends.values())) == 1, f"not all reach the same end: {ends}"
    scores = {
        report.bits_per_byte for book in living.values() for report in book.rounds if report.round == last
    }
    assert len(scores) == 1
    assert all(
        score is not None and math.isfinite(score) and score < FRESH_BITS_PER_BYTE for score in scores
    ), scores


def final(book: Notebook, last: int) -> str:
    """The state root that a peer ended with: of its own last round, or of the others' that it took over."""
    taken = [
        fields["state_root"]
        for name, fields in book.events
        if name == "synced" and fields["round"] == last + 1
    ]
    own = [report.state_root for report in book.rounds if report.round == last]
    return (own + taken)[-1] if own or taken else "none"
