"""The lone peer of the comparison: the same model, seed and schedule, and nobody to average with."""

from __future__ import annotations

from dataclasses import replace

from peer.alone import train_alone
from peer.data import corpus as corpora
from peer.recipe import manifest_of

from .company import RECIPE, key

TEXT = corpora.from_bytes(b"the quick brown fox jumps over the lazy dog\n" * 400)
MANIFEST = manifest_of(replace(RECIPE, max_steps=20), TEXT.spec, key(0))


def test_it_learns_in_as_many_rounds_as_it_is_given() -> None:
    told: list[int] = []
    start, end = train_alone(MANIFEST, TEXT, [20, 20, 20], told.append)
    assert told == [0, 1, 2]
    assert end < start


def test_without_a_round_it_is_the_fresh_model() -> None:
    start, end = train_alone(MANIFEST, TEXT, [])
    assert start == end
    assert start == train_alone(MANIFEST, TEXT, [])[0]
