"""From what an organiser asks for to a manifest: a handful of settings, the rest follows from the model's size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from averaging.codecs import bytes_per_parameter, result_codec
from swarm import relaxation
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
from swarm.wire import PROTOCOL

from ..models.registry import count, presets

LEARNING_RATES = ((120_000, 8e-3), (1_000_000, 4e-3), (10_000_000, 1e-3), (150_000_000, 4e-4))
"""(parameters, rate) of the local optimiser: AdamW's, from small sweeps and the usual rates of the field; Muon's updates are scaled
to the size of AdamW's, so they share it. Between two sizes the rate follows the straight line of their logarithms."""
MOMENTUM = 0.5
"""Of the outer step where momentum is wanted and none is named."""
EFFECTIVE = 1.1
"""How far an outer step with momentum should go, in averages."""
PLAIN_ROUNDS = 100
"""Before the outer momentum begins; at most a quarter of the run."""

LINE, LINES = 2.5e6, {"lan": 125e6}
"""Bytes per second that a computer at home can send, and those in one house: so long is a round that on such a line a peer
waits for averages a tenth of its time at most."""
WAITS, PATIENCE = 0.1, 3.0
"""And so many times as long an average may take before it is given up, `RunSettings.average_seconds` at least."""
FILLED = 0.8
"""The share of an average's time in which that line is full: the rest is arithmetic, and words that wait for each other. Measured
with 10.7 million parameters: 0.77 to 0.84."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What `swarm new` lets an organiser choose."""

    name: str = ""
    model: str = "nano"
    rounds: int = 0
    tokens: int = 0
    preset: str = "safe"
    """How far the run moves away from exact averages at once (`swarm.relaxation`); the next four are its own where not given."""
    round_seconds: float | None = None
    """Also longer than the preset's, where the model is large (`long_enough`)."""
    codec: str = ""
    exchange: str = ""
    fragments: int = 0
    max_steps: int = 500
    admission: str = "open"
    seed: int = 0
    inner: str = "adamw"
    outer: str = ""
    """Empty: plain, or Nesterov where there is ``momentum``."""
    momentum: float = 0.0
    """Of the outer step; 0: none where it is plain, else `MOMENTUM`."""
    evaluate_every: int = 1
    start_with: int = 1
    average_seconds: float = 30.0
    assemble_seconds: float = 5.0


def manifest_of(settings: RunSettings, data: DataSpec, key: KeyPair) -> RunManifest:
    """The manifest of a new run. Raises `ConfigError` for values that no run can have."""
    if settings.model not in presets:
        raise ConfigError(
            f"there is no model called {settings.model!r}", f"choose one of {', '.join(presets)}"
        )
    if settings.preset not in relaxation.PRESETS:
        raise ConfigError(
            f"there is no preset called {settings.preset!r}", f"choose one of {', '.join(relaxation.PRESETS)}"
        )
    spec = presets[settings.model]
    rounds = settings.rounds or (0 if settings.tokens else 100)
    try:
        manifest = RunManifest(
            protocol=PROTOCOL,
            name=settings.name or f"{settings.model} on {data.description or 'text'}"[:60],
            organiser=key.public,
            seed=settings.seed,
            model=spec,
            data=data,
            round=_round(settings, count(spec)),
            inner=_inner(settings, count(spec), settings.max_steps * (rounds or 100)),
            outer=_outer(settings, rounds),
            rounds=rounds,
            tokens=settings.tokens,
            evaluate_every=settings.evaluate_every,
            start_with=settings.start_with,
            admission=Admission[settings.admission.upper()],
        )
    except ValueError as error:
        raise ConfigError(str(error), "see 'swarm new --help' for what is possible") from error
    relaxation.check(manifest.round, manifest.outer, manifest.rounds)
    return manifest


def _round(settings: RunSettings, parameters: int) -> RoundSpec:
    preset = relaxation.PRESETS[settings.preset]
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
    needed = long_enough(chosen, parameters, LINES.get(settings.preset, LINE))
    seconds = max(preset.seconds, needed) if settings.round_seconds is None else settings.round_seconds
    patience = max(settings.average_seconds, PATIENCE * needed * WAITS)
    return msgspec.structs.replace(chosen, seconds=seconds, average_seconds=patience)


def long_enough(spec: RoundSpec, parameters: int, bytes_per_second: float) -> float:
    """Whole seconds of local training beside which an average, as a peer of a full group has it, is `WAITS` of the time."""
    each, result = bytes_per_parameter(spec.codec), bytes_per_parameter(result_codec(spec.codec))
    vectors = each + result if spec.exchange is Exchange.BUTTERFLY else (spec.group_size - 1) * each
    average_seconds = vectors * parameters / spec.fragments / bytes_per_second / FILLED
    return math.ceil(average_seconds * (1 - WAITS) / WAITS)


def learning_rate(parameters: int) -> float:
    """The local rate for a model of so many ``parameters``, to two digits."""
    smallest, largest = LEARNING_RATES[0], LEARNING_RATES[-1]
    size = min(max(parameters, smallest[0]), largest[0])
    (below, rate_below), (above, rate_above) = next(
        (a, b) for a, b in pairwise(LEARNING_RATES) if size <= b[0]
    )
    share = math.log(size / below) / math.log(above / below)
    return float(f"{rate_below * (rate_above / rate_below) ** share:.1e}")


def _inner(settings: RunSettings, parameters: int, steps: int) -> InnerSpec:
    return InnerSpec(
        learning_rate=learning_rate(parameters),
        batch=4 if parameters < 1_000_000 else 8,
        warmup_steps=min(60, max(1, steps // 10)),
        horizon_steps=steps,
        optimiser=InnerOptimiser[settings.inner.upper()],
    )


def _outer(settings: RunSettings, rounds: int) -> OuterSpec:
    """Plain averaging, or momentum whose steps are as long as `EFFECTIVE` says, whatever the momentum."""
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
