"""Whether a run fits into the memory of this computer, asked before anything of it is fetched or built."""

from __future__ import annotations

from swarm.errors import ConfigError
from swarm.manifest import RunManifest

from ..models.registry import count

BYTES_PER_PARAMETER = 16
"""Weights, gradients and the two moments of AdamW, in float32."""


def least_memory(manifest: RunManifest) -> int:
    """Bytes that every peer of the run needs at the same time: text, model, and the logits of one local step.

    A peer needs more than that. Raises `ConfigError` where this program has no such model.
    """
    model = manifest.model
    positions = model.context * (model.width // model.heads)
    logits = manifest.inner.batch * model.context * model.vocabulary
    return manifest.data.length + BYTES_PER_PARAMETER * count(model) + 4 * (positions + logits)


def check_memory(manifest: RunManifest, total: int) -> None:
    """Raise `ConfigError` where a computer with ``total`` bytes of memory cannot be a peer of the run.

    A manifest is a stranger's word: without this check, one with huge numbers would be noticed only when the
    memory is gone.
    """
    needed = least_memory(manifest)
    if needed > total:
        fact = f"this run needs at least {needed / 1e9:,.1f} GB of memory"
        raise ConfigError(
            f"{fact}, this computer has {total / 1e9:,.1f} GB",
            "choose a smaller run, or a computer with more memory",
        )
