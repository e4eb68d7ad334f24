"""Every preset is allowed, and combinations that are known to fail are refused with a reason."""

from __future__ import annotations

from dataclasses import asdict

import msgspec
import pytest

from averaging.codecs import bytes_per_parameter, is_sparse
from swarm.errors import ConfigError
from swarm.manifest import Codec, Exchange, OuterOptimiser, OuterSpec, RoundSpec
from swarm.presets import PRESETS, SPARSE_GROUPS, Preset, check, describe, preset_name

PLAIN = OuterSpec()


def nesterov(momentum: float) -> OuterSpec:
    return OuterSpec(momentum=momentum, optimiser=OuterOptimiser.NESTEROV)


def spec_of(name: str, **changes: object) -> RoundSpec:
    return msgspec.structs.replace(RoundSpec(**asdict(PRESETS[name])), **changes)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_allowed_and_known_by_its_fields(name: str) -> None:
    spec = spec_of(name)
    check(spec, PLAIN, 100)
    assert preset_name(spec) == name
    assert describe(spec).startswith(f"{name}: {spec.codec.name.lower()}, ")
    assert Preset.of(spec) == PRESETS[name]


def test_the_default_rounds_are_the_safe_ones() -> None:
    assert preset_name(RoundSpec()) == "safe"


def test_changed_values_are_shown_as_own() -> None:
    assert preset_name(spec_of("wan", seconds=59.0)) == "own"
    assert describe(spec_of("ahead", seconds=29.0)) == "own: int4, butterfly, every 29 s, overlap 0.1"


@pytest.mark.parametrize(
    ("spec", "outer", "rounds", "reason"),
    [
        (spec_of("wan", feedback=0.0), PLAIN, 500, "error feedback"),
        (spec_of("wan"), nesterov(0.6), 500, "momentum"),
        (spec_of("thin"), nesterov(0.9), 500, "momentum"),
        (spec_of("wan", group_size=10), PLAIN, 500, "groups"),
        (spec_of("thin", group_size=37), PLAIN, 500, "groups"),
    ],
)
def test_what_is_known_to_fail_is_refused_with_reason_and_advice(
    spec: RoundSpec, outer: OuterSpec, rounds: int, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        check(spec, outer, rounds)
    assert refused.value.advice


@pytest.mark.parametrize(
    ("spec", "outer", "rounds"),
    [
        (spec_of("wan"), nesterov(0.5), 500),
        (spec_of("safe", feedback=0.0), nesterov(0.9), 1),
        (spec_of("safe", codec=Codec.SPARSE256), PLAIN, 20),
        (spec_of("safe", exchange=Exchange.GATHER), PLAIN, 20),
    ],
)
def test_what_is_next_to_it_is_allowed(spec: RoundSpec, outer: OuterSpec, rounds: int) -> None:
    check(spec, outer, rounds)


def test_the_sparse_codecs_are_those_of_the_other_room() -> None:
    assert set(SPARSE_GROUPS) == {codec for codec in Codec if is_sparse(codec)}


@pytest.mark.parametrize("codec", SPARSE_GROUPS)
def test_the_largest_groups_follow_from_the_bytes(codec: Codec) -> None:
    def cost(members: int) -> float:
        return (members - 1) * bytes_per_parameter(codec)

    def in_parts(members: int) -> float:
        return 2 * (members - 1) / members * bytes_per_parameter(Codec.INT4)

    most = SPARSE_GROUPS[codec]
    assert cost(most) < 1.05 * in_parts(most)
    assert cost(most + 1) > 0.97 * in_parts(most + 1)
