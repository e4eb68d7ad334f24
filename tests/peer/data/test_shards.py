"""Disjoint shards, drawn by a hash."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.data.corpus import from_bytes, train_length
from peer.data.shards import MOST, assign, shard_bounds, shard_count
from swarm.errors import NoData
from swarm.identity import PeerId

RUN = b"r" * 32
PEERS = [PeerId(f"peer{index}") for index in range(7)]


@given(st.integers(0, 1000), st.integers(1, 7), st.integers(7, 64))
def test_the_members_shards_are_disjoint_and_cover_all(round_, members, shards):
    population = PEERS[:members]
    drawn = [shard for me in population for shard in assign(RUN, round_, population, me, shards)]
    assert sorted(drawn) == list(range(shards))


def test_members_have_equally_many_shards_give_or_take_one():
    sizes = {len(assign(RUN, 0, PEERS, me, 64)) for me in PEERS}
    assert sizes == {9, 10}


def test_the_order_in_which_members_are_listed_does_not_matter():
    assert assign(RUN, 3, PEERS, PEERS[2], 64) == assign(RUN, 3, [*reversed(PEERS), PEERS[0]], PEERS[2], 64)


def test_every_round_and_every_run_deals_anew():
    dealt = {
        tuple(assign(run, round_, PEERS, PEERS[0], 64)) for run in (RUN, b"other") for round_ in range(3)
    }
    assert len(dealt) == 6


def test_a_peer_that_is_not_a_member_yet_draws_one_shard():
    strangers = [assign(RUN, 0, PEERS, PeerId(f"stranger{index}"), 64) for index in range(20)]
    assert all(len(shards) == 1 and 0 <= shards[0] < 64 for shards in strangers)
    assert len({shards[0] for shards in strangers}) > 10


def test_with_more_members_than_shards_every_member_still_has_one():
    shards = [assign(RUN, 0, PEERS, me, 3) for me in PEERS]
    assert all(len(mine) == 1 for mine in shards)
    assert {mine[0] for mine in shards} == {0, 1, 2}


@given(st.integers(1, 1 << 44), st.integers(1, MOST))
def test_shards_follow_each_other_without_gaps(length, shards):
    bounds = [shard_bounds(shard, shards, length) for shard in range(shards)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == length
    assert all(one[1] == two[0] for one, two in pairwise(bounds))


@pytest.mark.parametrize(
    ("length", "context", "shards"), [(10_000, 64, 9), (1000, 64, 1), (1 << 24, 64, MOST)]
)
def test_a_shard_holds_many_contexts(length, context, shards):
    assert shard_count(from_bytes(bytes(length)).spec, context) == shards


def test_a_text_of_less_than_a_context_is_no_data():
    spec = from_bytes(bytes(100), held_out=0.36).spec
    assert train_length(spec) == 64
    with pytest.raises(NoData):
        shard_count(spec, 64)
    assert shard_count(spec, 63) == 1
