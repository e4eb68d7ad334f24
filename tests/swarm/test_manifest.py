"""The manifest: its bytes, what is refused when it comes from a stranger, and values out of range."""

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import (
    BadSignature,
    ConfigError,
    Malformed,
    Oversized,
    TheirFault,
    WrongContent,
    WrongVersion,
)
from swarm.identity import KeyPair
from swarm.manifest import (
    Admission,
    Codec,
    DataSpec,
    Exchange,
    InnerSpec,
    ModelSpec,
    OuterOptimiser,
    OuterSpec,
    RoundSpec,
    RunManifest,
    open_manifest,
)
from swarm.wire import CONTROL_LIMIT, PROTOCOL, Kind, Stamp, pack, seal_body

KEY = KeyPair.from_seed(bytes(32))


def manifest(**changes: object) -> RunManifest:
    plain = RunManifest(
        protocol=PROTOCOL,
        name="tiny",
        organiser=KEY.public,
        seed=1,
        model=ModelSpec(),
        data=DataSpec(root=bytes(32), length=1000),
        round=RoundSpec(),
        inner=InnerSpec(),
        outer=OuterSpec(),
    )
    return msgspec.structs.replace(plain, **changes)


MANIFEST = manifest()


def test_the_bytes_of_a_manifest_never_change() -> None:
    """One manifest has all default values, the other has none of them in the round and in the run."""
    assert MANIFEST.run_id.hex() == "4eef90041e7184240f26d7ebb42042d929b2f8998b66d11536f592e152ebb5e6"
    round_ = RoundSpec(
        seconds=61.0,
        max_steps=70,
        average_seconds=8.0,
        assemble_seconds=9.0,
        codec=Codec.SPARSE256,
        exchange=Exchange.GATHER,
        feedback=0.95,
        group_size=9,
        owners=3,
        overlap=0.25,
        fragments=2,
    )
    other = manifest(
        round=round_, rounds=11, tokens=12, evaluate_every=13, start_with=14, admission=Admission.INVITE
    )
    assert other.run_id.hex() == "740d73e89e64395906b98fcaedb29e69aabfb135a5812176b42bd7fc513ba562"


def test_a_manifest_travels_signed_and_arrives_equal() -> None:
    opened = open_manifest(MANIFEST.seal(KEY), MANIFEST.run_id)
    assert opened == MANIFEST
    assert opened.run_id == MANIFEST.run_id
    assert opened.organiser_id == KEY.peer_id


@pytest.mark.parametrize(("protocol", "advice"), [(PROTOCOL + 1, "upgrade"), (0, "organiser")])
def test_another_protocol_number_means_another_version_whatever_follows(protocol: int, advice: str) -> None:
    for body in (manifest(protocol=protocol).body, pack([protocol, {"fields": "of the future"}])):
        run = hashlib.sha256(body).digest()
        with pytest.raises(WrongVersion) as caught:
            open_manifest(seal_body(KEY, Kind.MANIFEST, body, Stamp(run)), run)
        assert advice in caught.value.advice


def test_a_manifest_of_another_hash_is_refused() -> None:
    with pytest.raises(WrongContent):
        open_manifest(manifest(seed=2).seal(KEY), MANIFEST.run_id)


def test_only_the_organisers_signature_counts() -> None:
    stranger = KeyPair.generate()
    raw = seal_body(stranger, Kind.MANIFEST, MANIFEST.body, Stamp(MANIFEST.run_id))
    with pytest.raises(Malformed, match="organiser"):
        open_manifest(raw, MANIFEST.run_id)
    with pytest.raises(ConfigError):
        MANIFEST.seal(stranger)


def test_a_broken_signature_is_refused() -> None:
    raw = bytearray(MANIFEST.seal(KEY))
    raw[120] ^= 1
    with pytest.raises(BadSignature):
        open_manifest(bytes(raw), MANIFEST.run_id)


def test_bytes_that_nobody_promised_are_never_believed_about_the_version() -> None:
    """A frame just over the limit has a body that is under it: its hash is checked before its version."""
    lie = seal_body(
        KEY, Kind.MANIFEST, pack([PROTOCOL + 1, "x" * (CONTROL_LIMIT - 100)]), Stamp(MANIFEST.run_id)
    )
    assert len(lie) > CONTROL_LIMIT
    with pytest.raises(Oversized):
        open_manifest(lie, MANIFEST.run_id)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(TheirFault):
        open_manifest(raw, MANIFEST.run_id)


@given(st.binary(max_size=100))
def test_an_organiser_who_signs_garbage_is_refused(body: bytes) -> None:
    run = hashlib.sha256(body).digest()
    with pytest.raises((TheirFault, WrongVersion, ConfigError)):
        open_manifest(seal_body(KEY, Kind.MANIFEST, body, Stamp(run)), run)


@pytest.mark.parametrize(
    "change",
    [
        {"organiser": b"short"},
        {"name": ""},
        {"name": "x" * 61},
        {"seed": -1},
        {"rounds": 1 << 32},
        {"evaluate_every": 0},
        {"model": {"heads": 3}},
        {"model": {"width": 4}},
        {"model": {"context": 1}},
        {"model": {"layers": 10**9}},
        {"data": {"root": bytes(32), "length": 1 << 44, "chunk": 1 << 10}},
        {"data": {"root": bytes(32), "length": (1 << 42) + 1, "chunk": 1 << 22}},
        {"data": {"root": b"", "length": 1}},
        {"data": {"root": bytes(32), "length": 0}},
        {"round": {"seconds": float("nan")}},
        {"round": {"max_steps": 0}},
        {"round": {"group_size": 0}},
        {"round": {"overlap": 0.6}},
        {"inner": {"learning_rate": 0.0}},
        {"inner": {"batch": 0}},
        {"outer": {"momentum": 1.0, "optimiser": OuterOptimiser.NESTEROV}},
        {"outer": {"momentum": 0.5}},
        {"outer": {"optimiser": OuterOptimiser.NESTEROV}},
        {"outer": {"effective": 5.0}},
        {"outer": {"plain_rounds": -1}},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(change: dict[str, object]) -> None:
    specs = {"model": ModelSpec, "data": DataSpec, "round": RoundSpec, "inner": InnerSpec, "outer": OuterSpec}
    ((name, value),) = change.items()
    with pytest.raises(ValueError):  # noqa: PT011 - the rule is that it is refused, the words are for people
        manifest(**{name: specs[name](**value) if isinstance(value, dict) else value}).__post_init__()


def test_a_text_may_have_a_terabyte_in_larger_chunks() -> None:
    assert DataSpec(bytes(32), 1 << 40, 1 << 20).length == 1 << 40
    assert DataSpec(bytes(32), 1 << 42, 1 << 22).length == 1 << 42


def test_a_run_that_is_not_possible_is_named_as_such_and_is_nobodys_lie() -> None:
    """The hash is the run's id: no other peer of the run has other values."""
    values = msgspec.msgpack.decode(MANIFEST.body)
    values[5] = [bytes(32), 1 << 44, 1 << 10, 0.05, ""]
    body = pack(values)
    run = hashlib.sha256(body).digest()
    with pytest.raises(ConfigError, match="17179869184 chunks") as caught:
        open_manifest(seal_body(KEY, Kind.MANIFEST, body, Stamp(run)), run)
    assert "another run" in caught.value.advice


def test_the_number_of_a_removed_codec_belongs_to_no_other() -> None:
    assert 9 not in {codec.value for codec in Codec}


def test_a_run_is_finished_at_its_rounds_or_tokens_and_never_without_a_limit() -> None:
    assert not MANIFEST.is_finished(10**6, 10**12)
    assert manifest(rounds=5).is_finished(5, 0)
    assert not manifest(rounds=5).is_finished(4, 10**9)
    assert manifest(tokens=100).is_finished(0, 100)
