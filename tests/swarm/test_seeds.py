"""Draws by hash: the same on all peers and in all versions, and different for different labels."""

from hypothesis import given
from hypothesis import strategies as st

from swarm.seeds import Label, derive, derive_bytes, shuffled

RUN = bytes(range(32))
LABELS: st.SearchStrategy[list[Label]] = st.lists(
    st.one_of(st.text(max_size=8), st.binary(max_size=8), st.integers()), max_size=4
)


@given(LABELS, LABELS)
def test_other_labels_give_another_draw(labels: list[Label], others: list[Label]) -> None:
    same_form = [(type(label), label) for label in labels] == [(type(label), label) for label in others]
    assert (derive_bytes(RUN, *labels) == derive_bytes(RUN, *others)) == same_form


def test_the_type_of_a_label_and_where_it_ends_belong_to_it() -> None:
    draws = [derive(RUN, *labels) for labels in (("12",), (12,), (b"12",), ("1", "2"), ("12", ""), ("1", 2))]
    assert len(set(draws)) == len(draws)
    assert derive(RUN, "x") != derive(bytes(32), "x")


def test_the_draws_of_a_release_never_change() -> None:
    """Peers of different versions in one run must draw alike: these numbers are part of the protocol."""
    assert (
        derive_bytes(RUN, "group", 7, b"\x00").hex()
        == "f73a1e1a28675cd4890d6176bf48fc0d5b7264fc9644e5cdc1e15388d63142f0"
    )


@given(LABELS)
def test_a_draw_fits_every_seed_argument(labels: list[Label]) -> None:
    assert 0 <= derive(RUN, *labels) < 1 << 63


@given(st.lists(st.text(max_size=4)), st.randoms())
def test_a_shuffle_depends_on_the_set_of_items_only(items: list[str], chance: object) -> None:
    mixed = list(items)
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    assert shuffled(RUN, mixed, 3) == shuffled(RUN, items, 3)
    assert sorted(shuffled(RUN, items, 3)) == sorted(set(items))


def test_another_round_is_another_order() -> None:
    items = [str(number) for number in range(50)]
    assert len({tuple(shuffled(RUN, items, round_)) for round_ in range(10)}) == 10
