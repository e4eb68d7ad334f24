"""Progress records: the bytes on the wire, and the values that are refused."""

import msgspec
import pytest

from swarm.membership.progress import Phase, Progress
from swarm.wire import pack, unpack

RECORD = Progress(
    phase=Phase.TRAINING,
    state_root=bytes(range(32)),
    tokens=1,
    tokens_per_second=2.0,
    up=3.0,
    down=4.0,
    loss=5.0,
    name="anna",
    device="cpu",
    version="1.2",
    contact=b"contact",
)


def test_the_bytes_of_a_record_never_change() -> None:
    numbers = "01" + "cb4000000000000000" + "cb4008000000000000" + "cb4010000000000000" + "cb4014000000000000"
    texts = "a4616e6e61" + "a3637075" + "a3312e32" + "c407636f6e74616374"
    assert pack(RECORD).hex() == "9b" + "02" + "c420" + bytes(range(32)).hex() + numbers + texts
    assert unpack(pack(RECORD), Progress) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"state_root": bytes(31)},
        {"tokens": -1},
        {"tokens_per_second": float("nan")},
        {"up": -1.0},
        {"down": 1e16},
        {"loss": float("inf")},
        {"name": "x" * 41},
        {"contact": bytes(2049)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_values_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"progress|must"):
        msgspec.structs.replace(RECORD, **change)
