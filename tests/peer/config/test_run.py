"""From an organiser's few settings to a manifest, or to an error with advice."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import click
import pytest

from averaging.codecs import bytes_per_parameter
from peer.commands.main import cli
from peer.config.run import RunSettings, learning_rate, manifest_of
from peer.models.registry import count, presets
from swarm.errors import ConfigError
from swarm.manifest import (
    Admission,
    Codec,
    Exchange,
    InnerOptimiser,
    OuterOptimiser,
    OuterSpec,
    open_manifest,
)
from swarm.presets import PRESETS, Preset, preset_name
from tests.peer.company import TEXT, key


@pytest.mark.parametrize("model", sorted(presets))
def test_every_model_makes_a_manifest_that_everybody_can_read(model: str) -> None:
    manifest = manifest_of(RunSettings(model=model), TEXT.spec, key(0))
    assert open_manifest(manifest.seal(key(0)), manifest.run_id) == manifest
    assert manifest.model == presets[model]
    assert 1 <= len(manifest.name) <= 60


def test_larger_models_learn_more_slowly() -> None:
    by_size = sorted(presets, key=lambda name: count(presets[name]))
    rates = [manifest_of(RunSettings(model=name), TEXT.spec, key(0)).inner.learning_rate for name in by_size]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [
        (1, 8e-3),
        (118_784, 8e-3),
        (1_000_000, 4e-3),
        (10_000_000, 1e-3),
        (124_000_000, 4.3e-4),
        (1 << 40, 4e-4),
    ],
)
def test_the_local_rate_follows_from_the_size(parameters: int, rate: float) -> None:
    assert learning_rate(parameters) == rate


def test_the_rate_between_two_sizes_lies_between_theirs() -> None:
    assert 1e-3 < learning_rate(3_000_000) < 4e-3


@pytest.mark.parametrize(
    ("chosen", "outer"),
    [
        ({}, (OuterOptimiser.PLAIN, 0.0)),
        ({"momentum": 0.6}, (OuterOptimiser.NESTEROV, 0.6)),
        ({"outer": "nesterov"}, (OuterOptimiser.NESTEROV, 0.5)),
        ({"outer": "nesterov", "momentum": 0.3}, (OuterOptimiser.NESTEROV, 0.3)),
    ],
)
def test_momentum_comes_with_an_optimiser_and_an_optimiser_with_momentum(
    chosen: dict[str, Any], outer: tuple[Any, float]
) -> None:
    spec = manifest_of(RunSettings(rounds=1000, **chosen), TEXT.spec, key(0)).outer
    assert (spec.optimiser, spec.momentum) == outer
    assert spec == OuterSpec() or (spec.effective, spec.plain_rounds) == (1.1, 100)


def test_muon_can_be_chosen() -> None:
    assert manifest_of(RunSettings(inner="muon"), TEXT.spec, key(0)).inner.optimiser is InnerOptimiser.MUON


@pytest.mark.parametrize(
    ("chosen", "rounds", "tokens"),
    [({}, 100, 0), ({"rounds": 7}, 7, 0), ({"tokens": 9}, 0, 9), ({"rounds": 7, "tokens": 9}, 7, 9)],
)
def test_a_run_ends_by_rounds_by_tokens_or_after_a_hundred_rounds(
    chosen: dict[str, int], rounds: int, tokens: int
) -> None:
    manifest = manifest_of(RunSettings(**chosen), TEXT.spec, key(0))  # type: ignore[arg-type]
    assert (manifest.rounds, manifest.tokens) == (rounds, tokens)


def test_names_become_the_values_of_the_manifest() -> None:
    manifest = manifest_of(RunSettings(codec="int8", admission="invite", name="mine"), TEXT.spec, key(0))
    assert (manifest.round.codec, manifest.admission, manifest.name) == (Codec.INT8, Admission.INVITE, "mine")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_in_the_manifest_field_by_field(name: str) -> None:
    spec = manifest_of(RunSettings(preset=name, rounds=500), TEXT.spec, key(0)).round
    assert Preset.of(spec) == PRESETS[name]


@pytest.mark.parametrize(
    ("model", "preset", "codec", "seconds", "patience"),
    [
        ("nano", "safe", "", 30.0, 30.0),
        ("small", "safe", "", 49.0, 30.0),
        ("small", "safe", "fp32", 386.0, 115.8),
        ("small", "wan", "", 60.0, 30.0),
        ("small", "lan", "", 10.0, 30.0),
        ("base", "safe", "", 570.0, 171.0),
    ],
)
def test_a_round_is_long_enough_for_an_uplink_at_home(
    model: str, preset: str, codec: str, seconds: float, patience: float
) -> None:
    """At 20 Mbit/s an average takes a tenth of the time at most, if the uplink is full for 80 % of it."""
    spec = manifest_of(
        RunSettings(model=model, preset=preset, codec=codec, rounds=500), TEXT.spec, key(0)
    ).round
    assert spec.seconds == pytest.approx(seconds, rel=0.02)
    assert spec.average_seconds == pytest.approx(patience, rel=0.02)
    uplink = 125e6 if preset == "lan" else 2.5e6
    sent = (
        count(presets[model])
        * bytes_per_parameter(spec.codec)
        * (2 if spec.exchange is Exchange.BUTTERFLY else spec.group_size - 1)
    )
    assert sent / uplink / 0.8 <= 0.1 * (spec.seconds + sent / uplink / 0.8)
    assert preset_name(spec) == ("own" if codec else preset)
    assert manifest_of(RunSettings(model=model, round_seconds=5.0), TEXT.spec, key(0)).round.seconds == 5.0, (
        "a given length is kept"
    )


def test_what_is_given_overrides_the_preset() -> None:
    spec = manifest_of(
        RunSettings(preset="wan", codec="sparse64", round_seconds=7.0), TEXT.spec, key(0)
    ).round
    assert (spec.codec, spec.seconds, spec.exchange) == (Codec.SPARSE64, 7.0, Exchange.GATHER)
    assert (
        manifest_of(RunSettings(exchange="gather", codec="int4"), TEXT.spec, key(0)).round.exchange
        is Exchange.GATHER
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "wan", "momentum": 0.9},
    ],
)
def test_what_is_known_to_fail_is_refused_with_the_reason(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        manifest_of(RunSettings(**wrong), TEXT.spec, key(0))
    assert refused.value.advice
    assert "round" in refused.value.fact or "momentum" in refused.value.fact


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "gpt9"},
        {"preset": "moon"},
        {"round_seconds": math.nan},
        {"round_seconds": 0.0},
        {"max_steps": 0},
        {"momentum": 1.0},
        {"outer": "plain", "momentum": 0.5},
        {"evaluate_every": 0},
        {"start_with": 0},
        {"start_with": 257},
        {"seed": -1},
        {"name": "x" * 61},
        {"rounds": 1 << 32},
    ],
)
def test_what_no_run_can_have_is_told_with_advice(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        manifest_of(replace(RunSettings(), **wrong), TEXT.spec, key(0))
    assert refused.value.advice


def test_the_run_is_named_by_everything_in_it() -> None:
    ids = {
        manifest_of(RunSettings(seed=seed, momentum=m), TEXT.spec, key(k)).run_id
        for seed in (0, 1)
        for m in (0.0, 0.9)
        for k in (0, 1)
    }
    assert len(ids) == 8


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("preset", list(PRESETS)),
        ("codec", [codec.name.lower() for codec in Codec]),
        ("inner", [optimiser.name.lower() for optimiser in InnerOptimiser]),
        ("outer", [optimiser.name.lower() for optimiser in OuterOptimiser]),
    ],
)
def test_the_command_line_offers_what_there_is(option: str, names: list[str]) -> None:
    (kind,) = [param.type for param in cli.commands["new"].params if param.name == option]
    assert isinstance(kind, click.Choice)
    assert sorted(kind.choices) == sorted(names)
