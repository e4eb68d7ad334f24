"""`newest` picks one record per signer."""

from hypothesis import given
from hypothesis import strategies as st

from swarm.dht.directory import newest
from swarm.membership.progress import Progress
from swarm.wire import Signed, open_frame
from tests.swarm.memory import RUN, key, record


def signed(peer: int, round_: int, seq: int) -> Signed[Progress]:
    return open_frame(record(key(peer), round_, seq), Progress, run=RUN)


@given(st.permutations([(0, 1, 9), (0, 2, 0), (0, 2, 1), (1, 0, 0), (1, 0, 1), (2, 5, 5)]))
def test_of_every_signer_the_highest_round_and_then_the_highest_seq_is_the_newest(
    order: list[tuple[int, int, int]],
) -> None:
    best = newest(signed(*item) for item in order)
    assert {(one.signer, one.stamp.round, one.stamp.seq) for one in best} == {
        (key(0).peer_id, 2, 1),
        (key(1).peer_id, 0, 1),
        (key(2).peer_id, 5, 5),
    }
    assert [one.signer for one in best] == sorted(one.signer for one in best)


def test_of_two_records_with_one_version_the_first_is_kept() -> None:
    first = signed(0, 1, 1)
    second = open_frame(record(key(0), 1, 1, name="anton"), Progress, run=RUN)
    assert newest([first, second]) == [first]


def test_no_records_have_no_newest() -> None:
    assert newest([]) == []
