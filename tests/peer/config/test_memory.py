"""A run that does not fit into this computer is refused with both numbers, before anything is fetched."""

from __future__ import annotations

import msgspec
import pytest

from peer.config.memory import check_memory, least_memory
from peer.models.registry import count
from swarm.errors import ConfigError
from swarm.manifest import RunManifest
from tests.peer.company import MANIFEST

SMALL = 10**8
"""Bytes of memory of a computer that is large enough for the run of the tests."""


def changed(part: str, **changes: int) -> RunManifest:
    """The manifest of the tests with other numbers in ``part``."""
    spec = msgspec.structs.replace(getattr(MANIFEST, part), **changes)
    return msgspec.structs.replace(MANIFEST, **{part: spec})


def test_a_peer_needs_text_model_and_the_logits_of_a_step() -> None:
    model = MANIFEST.model
    logits = MANIFEST.inner.batch * model.context * model.vocabulary
    least = MANIFEST.data.length + 16 * count(model) + 4 * logits
    assert least < least_memory(MANIFEST) < least + 1e6


@pytest.mark.parametrize(
    "manifest",
    [
        changed("data", length=1 << 30, chunk=1 << 20),
        changed("model", width=1 << 13, layers=20),
        changed("model", context=1 << 17),
        changed("model", vocabulary=1 << 20),
        changed("inner", batch=4096),
    ],
    ids=["text", "model", "context", "vocabulary", "batch"],
)
def test_a_run_that_is_too_large_is_refused_with_both_numbers(manifest: RunManifest) -> None:
    check_memory(MANIFEST, SMALL)
    with pytest.raises(ConfigError, match=r"at least [\d,.]+ GB of memory, this computer has") as refused:
        check_memory(manifest, SMALL)
    assert "smaller run" in refused.value.advice
