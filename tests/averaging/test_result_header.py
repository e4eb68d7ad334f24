"""Rules of how long a result may be, by the commits that one member has heard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging.messages import Commit, bits, header_bytes
from averaging.result_header import LOOSE, ResultHeaders
from averaging.robust import Claim, coefficients, longest, whole_norm
from averaging.tally import Tally
from swarm.errors import Malformed
from swarm.identity import PeerId
from swarm.manifest import Codec
from tests.averaging.members import ROOT, group_of
from tests.averaging.test_round import PARTS, PLAN

SEVEN = replace(PLAN, group=group_of(7))
A, B, C, D, E, F, G = SEVEN.group.members
HUGE = 1e30


def commit(*norms: float) -> Commit:
    """A commit to these norms of the parts."""
    return Commit((bytes(32),) * len(PARTS), norms, 1, bytes(32), ROOT, Codec.INT8)


def headers(norms: Mapping[PeerId, float]) -> ResultHeaders:
    """Those of a member that has heard commits to this norm of every part."""
    tally = Tally(SEVEN)
    for member, norm in norms.items():
        tally.hear(member, commit(*(norm,) * len(PARTS)))
    return ResultHeaders(tally)


def usual(norms: Iterable[float]) -> float:
    """How long an average of updates with these norms of every part can be."""
    return longest([Claim(1.0, whole_norm((norm,) * len(PARTS)), norm) for norm in norms])


ALL = dict.fromkeys(SEVEN.group.members, 1.0) | {B: 0.5, C: 2.0}


def test_a_result_may_be_as_long_as_if_all_its_updates_pointed_in_one_direction() -> None:
    ours = headers(ALL)
    header = ours.header_of(SEVEN.group.members)
    assert len(header) == header_bytes(7) == SEVEN.header_bytes
    claims = [ours.tally.claim(member, 1) for member in SEVEN.group.members]
    shares = coefficients(claims)
    assert ours.most(1, header) == pytest.approx(
        sum(share * claim.part_norm for share, claim in zip(shares, claims, strict=True))
    )
    without_two = [A, C, D, F, G]
    assert ours.most(1, ours.header_of(without_two)) == usual(ALL[member] for member in without_two)


def test_two_members_with_the_same_commits_write_the_same_header() -> None:
    backwards = headers(dict(reversed(ALL.items())))
    assert headers(ALL).header_of([A, C, G]) == backwards.header_of([A, C, G])
    assert headers(ALL).header_of([A, C, G]) != backwards.header_of([A, D, G])


@pytest.mark.parametrize("theirs", [0.0, 0.9, HUGE])
def test_a_result_by_other_commits_than_ours_may_be_longer_but_not_much(theirs: float) -> None:
    """A liar that commits to different things must not cost the others a result."""
    header = headers(ALL | {D: theirs}).header_of(SEVEN.group.members)
    assert headers(ALL).most(0, header) == LOOSE * usual(ALL.values())


def test_a_result_with_an_update_whose_commit_we_lack_may_be_longer_but_not_much() -> None:
    header = headers(ALL).header_of(SEVEN.group.members)
    known = {member: norm for member, norm in ALL.items() if member != D}
    assert headers(known).most(0, header) == LOOSE * usual(known.values())


def test_an_owner_cannot_allow_itself_a_long_result_by_including_few_members() -> None:
    liars = headers(ALL | {A: HUGE, G: HUGE})
    for included in ([A], [A, G], [A, B, G]):
        assert liars.most(0, liars.header_of(included)) <= LOOSE * 2.0


def test_nothing_is_judged_before_more_than_half_of_the_members_have_committed() -> None:
    known = list(ALL.items())
    assert not headers(dict(known[:3])).can_judge
    assert headers(dict(known[:4])).can_judge


@pytest.mark.parametrize(
    "flags",
    [bits([False] * 7), bits([True] * 8), bits([False] * 31 + [True]), b"\xff" * 4],
    ids=["nobody", "one too many", "only a stranger", "all bits"],
)
def test_a_header_that_does_not_say_whose_updates_are_in_it_is_malformed(flags: bytes) -> None:
    with pytest.raises(Malformed):
        headers(ALL).most(0, flags + bytes(32))


norms = st.floats(0.5, 2)
lies = st.one_of(st.just(0.0), st.floats(0, HUGE), norms)


@settings(max_examples=300)
@given(st.data(), st.integers(4, 30))
def test_fewer_than_a_third_of_liars_cannot_allow_a_long_result_whatever_they_commit_to(
    data: st.DataObject, count: int
) -> None:
    """Even if they own the part, choose who is in it, and tell the owner something else."""
    members = group_of(count).members
    liars = members[: (count - 1) // 3]
    honest = dict.fromkeys(members, 1.0) | {member: data.draw(norms) for member in members[len(liars) :]}
    plan = replace(PLAN, group=group_of(count))
    views = []
    for _ in range(2):
        tally = Tally(plan)
        for member in members:
            said = data.draw(lies) if member in liars else honest[member]
            tally.hear(member, commit(*(said,) * len(PARTS)))
        views.append(ResultHeaders(tally))
    ours, theirs = views
    included = data.draw(st.lists(st.sampled_from(members), min_size=1, unique=True))
    header = theirs.header_of([member for member in members if member in included])
    assert ours.most(0, header) <= LOOSE * 2.0 * (1 + 1e-6)
