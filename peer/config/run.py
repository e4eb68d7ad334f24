"""The manifest of a run from a few settings; the rest follows from the size of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from averaging.codecs import bytes_per_parameter, result_codec
from swarm.errors import ConfigError
from swarm.identity import KeyPair
from swarm.manifest import (
    Admission,
    Codec,
    DataSpec,
    Exchange,
    InnerOptimiser,
    InnerSpec,
    OuterOptimiser,
    OuterSpec,
    RoundSpec,
    RunManifest,
)
from swarm.presets import PRESETS, check
from swarm.wire import PROTOCOL

from ..models.registry import count, presets

LEARNING_RATES = ((120_000, 8e-3), (1_000_000, 4e-3), (10_000_000, 1e-3), (150_000_000, 4e-4))
"""(parameters, peak learning rate) of the local optimiser, from small sweeps and what others use.

Between two sizes the rate follows a straight line in the logarithms. Muon's updates are scaled to the size of
AdamW's, so both use the same rates."""
DEFAULT_ROUNDS = 100
"""Length of a run that has no limit, and the length of the schedule where only tokens limit the run."""
MOMENTUM = 0.5
"""Momentum of the outer step where the organiser wants momentum but names none."""
EFFECTIVE = 1.1
"""How far an outer step with momentum should go, in averages."""
PLAIN_ROUNDS = 100
"""Rounds before the outer momentum begins; at most a quarter of the run."""

UPLINK = 2.5e6
"""Bytes per second that a computer at home can send (20 Mbit/s). Rounds are so long that a peer with this
uplink waits for averages during `AVERAGING_SHARE` of the time at most."""
UPLINKS = {"lan": 125e6}
"""The same for presets that are made for other networks (1 Gbit/s)."""
AVERAGING_SHARE = 0.1
"""Largest share of the time in which a peer waits for averages."""
PATIENCE = 3.0
"""An average is given up after this many times its expected seconds, but not before
`RoundSettings.average_seconds`."""
UTILISATION = 0.8
"""Share of an average's time in which the uplink is full; in the rest, peers compute and wait for each
other's messages. Measured with 10.7 million parameters: 0.77 to 0.84."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The model and its optimisers."""

    model: str = "nano"
    seed: int = 0
    inner: str = "adamw"
    """Local optimiser."""
    outer: str = ""
    """Outer step. Empty: plain, or Nesterov where ``momentum`` is given."""
    momentum: float = 0.0
    """Of the outer step. 0: none where that is plain, else `MOMENTUM`."""


@dataclass(frozen=True, kw_only=True)
class RoundSettings:
    """How a round goes. Empty, 0 and None mean: as in ``preset``."""

    preset: str = "safe"
    """How exact averages are (`swarm.presets`)."""
    round_seconds: float | None = None
    """Seconds of local training. None: the preset's, or `long_enough` for a large model."""
    max_steps: int = 500
    """Local steps at most."""
    codec: str = ""
    exchange: str = ""
    fragments: int = 0
    average_seconds: float = 30.0
    """Seconds after which an average is given up; longer for large models."""
    assemble_seconds: float = 5.0
    """Seconds to find the members of a group."""


@dataclass(frozen=True, kw_only=True)
class RunSettings(TrainingSettings, RoundSettings):
    """What `swarm new` lets an organiser choose: the model, the rounds, the run's length, who may join."""

    name: str = ""
    rounds: int = 0
    """The run ends after this many. 0: no limit, or `DEFAULT_ROUNDS` where ``tokens`` is 0, too."""
    tokens: int = 0
    """The run ends after this many. 0: no limit."""
    admission: str = "open"
    start_with: int = 1
    """Peers to wait for before the first round."""
    evaluate_every: int = 1
    """Rounds between two evaluations."""


def manifest_of(settings: RunSettings, data: DataSpec, key: KeyPair) -> RunManifest:
    """The manifest of a new run of the organiser ``key``. Raises `ConfigError` for impossible values."""
    if settings.model not in presets:
        raise ConfigError(
            f"there is no model called {settings.model!r}", f"choose one of {', '.join(presets)}"
        )
    if settings.preset not in PRESETS:
        raise ConfigError(
            f"there is no preset called {settings.preset!r}", f"choose one of {', '.join(PRESETS)}"
        )
    spec = presets[settings.model]
    parameters = count(spec)
    rounds = settings.rounds or (0 if settings.tokens else DEFAULT_ROUNDS)
    steps = settings.max_steps * (rounds or DEFAULT_ROUNDS)
    try:
        manifest = RunManifest(
            protocol=PROTOCOL,
            name=settings.name or f"{settings.model} on {data.description or 'text'}"[:60],
            organiser=key.public,
            seed=settings.seed,
            model=spec,
            data=data,
            round=_round(settings, parameters),
            inner=_inner(settings, parameters, steps),
            outer=_outer(settings, rounds),
            rounds=rounds,
            tokens=settings.tokens,
            evaluate_every=settings.evaluate_every,
            start_with=settings.start_with,
            admission=Admission[settings.admission.upper()],
        )
    except ValueError as error:
        raise ConfigError(str(error), "see 'swarm new --help' for what is possible") from error
    check(manifest.round, manifest.outer, manifest.rounds)
    return manifest


def _round(settings: RoundSettings, parameters: int) -> RoundSpec:
    preset = PRESETS[settings.preset]
    chosen = RoundSpec(
        seconds=preset.seconds,
        max_steps=settings.max_steps,
        average_seconds=settings.average_seconds,
        assemble_seconds=settings.assemble_seconds,
        codec=Codec[settings.codec.upper()] if settings.codec else preset.codec,
        exchange=Exchange[settings.exchange.upper()] if settings.exchange else preset.exchange,
        feedback=preset.feedback,
        group_size=preset.group_size,
        overlap=preset.overlap,
        fragments=settings.fragments or preset.fragments,
    )
    needed = long_enough(chosen, parameters, UPLINKS.get(settings.preset, UPLINK))
    seconds = max(preset.seconds, needed) if settings.round_seconds is None else settings.round_seconds
    patience = max(settings.average_seconds, PATIENCE * needed * AVERAGING_SHARE)
    return msgspec.structs.replace(chosen, seconds=seconds, average_seconds=patience)


def long_enough(spec: RoundSpec, parameters: int, bytes_per_second: float) -> float:
    """Whole seconds of local training, so that averaging takes `AVERAGING_SHARE` of the round at most.

    That is for a peer with an uplink of ``bytes_per_second`` in a full group, and a model of ``parameters``.
    """
    update = bytes_per_parameter(spec.codec)
    if spec.exchange is Exchange.BUTTERFLY:
        sent = update + bytes_per_parameter(result_codec(spec.codec))
    else:
        sent = (spec.group_size - 1) * update
    average_seconds = sent * parameters / spec.fragments / bytes_per_second / UTILISATION
    return math.ceil(average_seconds * (1 - AVERAGING_SHARE) / AVERAGING_SHARE)


def learning_rate(parameters: int) -> float:
    """The peak learning rate of a model with so many ``parameters``, to two digits."""
    smallest = LEARNING_RATES[0][0]
    largest = LEARNING_RATES[-1][0]
    size = min(max(parameters, smallest), largest)
    (below, rate_below), (above, rate_above) = next(
        (lower, upper) for lower, upper in pairwise(LEARNING_RATES) if size <= upper[0]
    )
    share = math.log(size / below) / math.log(above / below)
    return float(f"{rate_below * (rate_above / rate_below) ** share:.1e}")


def _inner(settings: TrainingSettings, parameters: int, steps: int) -> InnerSpec:
    return InnerSpec(
        learning_rate=learning_rate(parameters),
        batch=4 if parameters < 1_000_000 else 8,
        warmup_steps=min(60, max(1, steps // 10)),
        horizon_steps=steps,
        optimiser=InnerOptimiser[settings.inner.upper()],
    )


def _outer(settings: TrainingSettings, rounds: int) -> OuterSpec:
    """Plain averaging, or momentum with steps of the length `EFFECTIVE`, whatever the momentum."""
    name = settings.outer or ("nesterov" if settings.momentum else "plain")
    optimiser = OuterOptimiser[name.upper()]
    if optimiser is OuterOptimiser.PLAIN:
        return OuterSpec(momentum=settings.momentum)
    return OuterSpec(
        optimiser=optimiser,
        momentum=settings.momentum or MOMENTUM,
        effective=EFFECTIVE,
        plain_rounds=min(PLAIN_ROUNDS, rounds // 4) if rounds else PLAIN_ROUNDS,
    )
