"""The built-in models: a manifest names a model and its sizes; code never comes from peers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from swarm.errors import ConfigError
from swarm.manifest import ModelSpec

from .gpt import GPT

__all__ = ["GPT", "build", "count", "presets"]

presets: Mapping[str, ModelSpec] = MappingProxyType(
    {
        "tiny": ModelSpec(width=16, layers=2, heads=2, context=32),
        "nano": ModelSpec(width=64, layers=2, heads=4, context=64),
        "small": ModelSpec(width=384, layers=6, heads=6, context=256),
        "base": ModelSpec(width=928, layers=12, heads=16, context=1024),
    }
)
"""tiny: tests and rehearsals. nano: learns in a minute on a laptop. small: for a desktop. base: the layers of
GPT-2 (124M), on bytes."""


MOST_PARAMETERS = 1 << 34
"""Parameters of the largest model that this program builds. With gradients and the optimiser's moments that
is 256 GiB, more than a volunteer's computer has; a larger number in a manifest is a mistake or an attack."""


def build(spec: ModelSpec, seed: int) -> GPT:
    """The model of ``spec`` on the CPU, the same bits for the same ``seed``.

    The global random number generator is neither read nor changed.

    Raises `ConfigError` where this program has no such model.
    """
    model = GPT(_known(spec))
    model.initialise(torch.Generator().manual_seed(seed))
    return model


def count(spec: ModelSpec) -> int:
    """How many parameters a model of ``spec`` has. Raises `ConfigError` where this program has no such model.

    Computed without building it, not even on torch's "meta" device, which takes a second to load.
    """
    return GPT.count(_known(spec))


def _known(spec: ModelSpec) -> ModelSpec:
    if spec.name != "gpt":
        raise ConfigError(
            f"this program has no model called {spec.name!r}", "pip install --upgrade swarm-train"
        )
    if spec.vocabulary < 256:
        raise ConfigError(f"model.vocabulary is {spec.vocabulary}: a model of bytes needs at least 256")
    parameters = GPT.count(spec)
    if parameters > MOST_PARAMETERS:
        raise ConfigError(
            f"the model has {parameters:,} parameters, at most {MOST_PARAMETERS:,} are possible",
            "ask the organiser for the ticket of another run",
        )
    return spec
