"""Rules of the flat vector: it holds all tensors in order, and nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from averaging.layout import Layout

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=6)


def named(*sizes: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {f"layer.{index}": torch.randn(shape, generator=generator) for index, shape in enumerate(sizes)}


@given(shapes)
def test_flatten_then_write_gives_every_tensor_back(sizes: list[tuple[int, ...]]) -> None:
    tensors = named(*sizes)
    layout = Layout.of(tensors.items())
    vector_P = layout.flatten(tensors)
    copies = {name: torch.full_like(tensor, 9.0) for name, tensor in tensors.items()}
    layout.write(vector_P, copies)
    assert vector_P.shape == (layout.numbers,)
    assert vector_P.dtype == torch.float32
    assert all(torch.equal(copies[name], tensor) for name, tensor in tensors.items())


def test_the_vector_holds_the_tensors_one_after_another_in_the_order_given() -> None:
    tensors = {"b": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "a": torch.tensor(5.0)}
    assert Layout.of(tensors.items()).flatten(tensors).tolist() == [1, 2, 3, 4, 5]


def test_flatten_copies_and_unflatten_does_not() -> None:
    tensors = named((2, 3))
    layout = Layout.of(tensors.items())
    vector_P = layout.flatten(tensors)
    layout.unflatten(vector_P)["layer.0"].zero_()
    assert vector_P.count_nonzero() == 0
    assert tensors["layer.0"].count_nonzero() == 6


def test_a_tensor_that_is_not_contiguous_is_read_and_written_in_row_major_order() -> None:
    tensors = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]).t()}
    layout = Layout.of(tensors.items())
    assert layout.flatten(tensors).tolist() == [1, 3, 2, 4]
    layout.write(torch.tensor([5.0, 6.0, 7.0, 8.0]), tensors)
    assert tensors["w"].tolist() == [[5, 6], [7, 8]]


def test_writing_keeps_the_dtype_and_the_identity_of_parameters() -> None:
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    Layout.of([("w", weight)]).write(torch.tensor([1.0, 2.0, 3.0]), {"w": weight})
    assert weight.dtype == torch.bfloat16
    assert weight.requires_grad
    assert weight.is_leaf
    assert weight.tolist() == [1, 2, 3]


def test_flatten_leaves_no_gradient_behind() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    assert not Layout.of([("w", weight)]).flatten({"w": weight}).requires_grad


def test_nothing_is_written_where_one_tensor_does_not_fit() -> None:
    tensors = named((2,), (3,))
    layout = Layout.of(tensors.items())
    into = {"layer.0": torch.zeros(2), "layer.1": torch.zeros(4)}
    with pytest.raises(ValueError, match=r"layer\.1"):
        layout.write(layout.flatten(tensors), into)
    assert into["layer.0"].count_nonzero() == 0


def test_a_missing_tensor_a_wrong_length_and_a_name_twice_are_refused() -> None:
    layout = Layout.of(named((2,)).items())
    with pytest.raises(ValueError, match=r"layer\.0"):
        layout.flatten({})
    with pytest.raises(ValueError, match="2 numbers"):
        layout.unflatten(torch.zeros(3))
    with pytest.raises(ValueError, match="same name"):
        Layout.of([("w", torch.zeros(1)), ("w", torch.zeros(1))])
