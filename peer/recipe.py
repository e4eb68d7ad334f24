"""From what an organiser asks for to a manifest: a handful of settings, the rest follows from the model's size."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.errors import ConfigError
from swarm.identity import KeyPair
from swarm.manifest import Admission, Codec, DataSpec, InnerSpec, OuterSpec, RoundSpec, RunManifest
from swarm.wire import PROTOCOL

from .model import count, presets

LEARNING_RATES = ((1_000_000, 8e-3), (50_000_000, 1e-3), (1 << 62, 4e-4))
"""(up to this many parameters, rate): AdamW, from small sweeps and the usual rates of the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What `swarm new` lets an organiser choose."""

    name: str = ""
    model: str = "nano"
    rounds: int = 0
    tokens: int = 0
    round_seconds: float = 30.0
    max_steps: int = 500
    codec: str = "int4"
    admission: str = "open"
    seed: int = 0
    momentum: float = 0.0
    evaluate_every: int = 1
    start_with: int = 1
    average_seconds: float = 30.0
    assemble_seconds: float = 5.0


def manifest_of(recipe: Recipe, data: DataSpec, key: KeyPair) -> RunManifest:
    """The manifest of a new run. Raises `ConfigError` for values that no run can have."""
    if recipe.model not in presets:
        raise ConfigError(f"there is no model called {recipe.model!r}", f"choose one of {', '.join(presets)}")
    spec = presets[recipe.model]
    rounds = recipe.rounds or (0 if recipe.tokens else 100)
    rate = next(rate for size, rate in LEARNING_RATES if count(spec) <= size)
    steps = recipe.max_steps * (rounds or 100)
    batch = 4 if count(spec) < 1_000_000 else 8
    try:
        return RunManifest(
            protocol=PROTOCOL,
            name=recipe.name or f"{recipe.model} on {data.description or 'text'}"[:60],
            organiser=key.public,
            seed=recipe.seed,
            model=spec,
            data=data,
            round=RoundSpec(
                seconds=recipe.round_seconds,
                max_steps=recipe.max_steps,
                average_seconds=recipe.average_seconds,
                assemble_seconds=recipe.assemble_seconds,
                codec=Codec[recipe.codec.upper()],
            ),
            inner=InnerSpec(learning_rate=rate, batch=batch, warmup_steps=min(60, max(1, steps // 10)), horizon_steps=steps),
            outer=OuterSpec(momentum=recipe.momentum),
            rounds=rounds,
            tokens=recipe.tokens,
            evaluate_every=recipe.evaluate_every,
            start_with=recipe.start_with,
            admission=Admission[recipe.admission.upper()],
        )
    except ValueError as error:
        raise ConfigError(str(error), "see 'swarm new --help' for what is possible") from error
