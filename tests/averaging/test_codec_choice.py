"""Which codecs a member may use instead of the run's, and which one fits a slow link."""

from __future__ import annotations

import pytest

from averaging.codec_choice import allowed, copies, fitting
from averaging.codecs import bytes_per_parameter
from swarm.manifest import Codec, Exchange

ALL = pytest.mark.parametrize("codec", list(Codec))


@ALL
def test_the_run_s_codec_comes_first_and_what_follows_is_smaller(codec: Codec) -> None:
    codecs = allowed(codec)
    assert codecs[0] == codec
    assert all(bytes_per_parameter(other) < bytes_per_parameter(codec) for other in codecs[1:])


@ALL
def test_a_link_of_unknown_rate_uses_the_codec_of_the_run(codec: Codec) -> None:
    assert fitting(codec, 1e9, 0, 1) == codec


@pytest.mark.parametrize(
    ("codec", "megabytes_per_second", "chosen"),
    [
        (Codec.INT8, 100, Codec.INT8),
        (Codec.INT8, 10.1, Codec.INT8),
        (Codec.INT8, 10, Codec.INT4),
        (Codec.INT8, 0.1, Codec.INT4),
        (Codec.SPARSE256, 1.2, Codec.SPARSE256),
        (Codec.SPARSE256, 1.0, Codec.SPARSE128),
        (Codec.SPARSE256, 0.3, Codec.SPARSE64),
        (Codec.SPARSE256, 0.001, Codec.SPARSE64),
        (Codec.INT4, 0.001, Codec.INT4),
    ],
)
def test_the_first_codec_is_chosen_that_sends_ten_million_numbers_in_a_second(
    codec: Codec, megabytes_per_second: float, chosen: Codec
) -> None:
    assert fitting(codec, 1e7, megabytes_per_second * 1e6, 1) == chosen


def test_an_update_goes_to_all_or_in_parts_to_their_owners() -> None:
    assert copies(Exchange.GATHER, 9) == 8
    assert copies(Exchange.BUTTERFLY, 4) == 0.75
    assert copies(Exchange.BUTTERFLY, 0) <= 0, "before the first group the size is not known"
    assert copies(Exchange.GATHER, 1) == 0
