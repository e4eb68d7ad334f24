"""Data = f(run, round, peer), and never from the held-out tail."""

from itertools import islice, pairwise

import pytest
import torch

from peer.data.corpus import from_bytes, train_length
from peer.data.shards import assign, shard_bounds, shard_count
from peer.data.stream import Draw, batches, held_out
from swarm.errors import NoData
from swarm.identity import PeerId

RUN = b"r" * 32
ME = PeerId("me")
YOU = PeerId("you")
# each line tells its own place
CORPUS = from_bytes(b"".join(b"%07d\n" % index for index in range(4000)), held_out=0.1)
CONTEXT = 16


def first(count, *, run=RUN, round_=0, shards=None, me=ME, corpus=CORPUS):
    shards = list(range(shard_count(corpus.spec, CONTEXT))) if shards is None else shards
    return list(islice(batches(corpus, Draw(run, round_, me), shards, 4, CONTEXT), count))


def places(drawn):
    """Where in the corpus the windows begin."""
    text = bytes(CORPUS.data)
    windows = [
        bytes(x_T.tolist()) + bytes(y_T[-1:].tolist())
        for x_BT, y_BT in drawn
        for x_T, y_T in zip(x_BT, y_BT, strict=True)
    ]
    assert all(text.count(window) == 1 for window in windows)
    return [text.index(window) for window in windows]


def test_targets_are_the_inputs_one_position_later():
    for x_BT, y_BT in first(5):
        assert x_BT.shape == y_BT.shape == (4, CONTEXT)
        assert x_BT.dtype == y_BT.dtype == torch.int64
        assert torch.equal(x_BT[:, 1:], y_BT[:, :-1])


def test_anybody_can_draw_a_peers_batches_again():
    assert all(torch.equal(x, x_again) for (x, _), (x_again, _) in zip(first(5), first(5), strict=True))


@pytest.mark.parametrize("other", [{"run": b"s" * 32}, {"round_": 1}, {"me": YOU}])
def test_another_run_round_or_peer_draws_other_batches(other):
    assert not torch.equal(first(1)[0][0], first(1, **other)[0][0])


def test_batches_stay_inside_the_shards():
    shards = shard_count(CORPUS.spec, CONTEXT)
    mine = assign(RUN, 0, [ME, YOU], ME, shards)
    inside = [shard_bounds(shard, shards, train_length(CORPUS.spec)) for shard in mine]
    found = places(first(100, shards=mine))
    assert all(any(start <= place and place + CONTEXT < stop for start, stop in inside) for place in found)
    assert (
        len({next(i for i, (start, stop) in enumerate(inside) if start <= place < stop) for place in found})
        > len(mine) * 0.8
    )


def test_two_members_never_train_on_the_same_bytes():
    shards = shard_count(CORPUS.spec, CONTEXT)
    seen = {
        who: {
            place + i
            for place in places(first(100, shards=assign(RUN, 0, [ME, YOU], who, shards), me=who))
            for i in range(CONTEXT + 1)
        }
        for who in (ME, YOU)
    }
    assert not seen[ME] & seen[YOU]


def test_the_smallest_text_still_gives_batches():
    tiny = from_bytes(bytes(range(CONTEXT + 1)) * 2, held_out=0.5)
    assert train_length(tiny.spec) == CONTEXT + 1
    assert first(1, corpus=tiny)[0][1][:, -1].tolist() == [CONTEXT] * 4


def test_held_out_windows_are_fixed_distinct_and_from_the_tail():
    windows_WU = held_out(CORPUS, CONTEXT, 50, seed=1)
    found = sorted(places([(windows_WU[:, :-1], windows_WU[:, 1:])]))
    assert windows_WU.shape == (50, CONTEXT + 1)
    assert torch.equal(windows_WU, held_out(CORPUS, CONTEXT, 50, seed=1))
    assert not torch.equal(windows_WU, held_out(CORPUS, CONTEXT, 50, seed=2))
    assert found[0] >= train_length(CORPUS.spec)
    assert all(one + CONTEXT < two for one, two in pairwise(found))


def test_a_short_tail_gives_all_it_has_and_an_empty_one_is_no_data():
    assert len(held_out(CORPUS, CONTEXT, 10**6, seed=0)) == (
        CORPUS.spec.length - train_length(CORPUS.spec)
    ) // (CONTEXT + 1)
    with pytest.raises(NoData):
        held_out(from_bytes(bytes(1000), held_out=0.01), CONTEXT, 4, seed=0)
