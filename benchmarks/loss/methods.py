"""The contestants: how each trains, what it exchanges, and how often.

A step is one local batch of every peer, so at equal steps all methods have seen equal tokens and have computed for equally long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType

from swarm.manifest import Codec, Exchange, OuterOptimiser, OuterSpec, RoundSpec

PEERS = 4
BATCH = 4
"""Sequences of one step of one peer."""


class Kind(Enum):
    """How the peers come together."""

    ALONE = auto()
    """Not at all: one of them, without the others."""
    SYNCHRONOUS = auto()
    """Gradients are averaged every step (gloo)."""
    ROUNDS = auto()
    """Ours: local steps, then the averager."""
    HIVEMIND_LOCAL = auto()
    """`hivemind.Optimizer` with ``use_local_updates``, as in its quickstart: local steps, then weights are averaged."""
    HIVEMIND_GRADIENTS = auto()
    """`hivemind.Optimizer` as in its albert example: the gradients of a round are averaged, and used for one update."""


_PLAIN, _AVERAGING = RoundSpec(), OuterSpec()

RIVALS = frozenset({Kind.HIVEMIND_LOCAL, Kind.HIVEMIND_GRADIENTS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One line of the table."""

    name: str
    kind: Kind
    says: str
    rate: float
    """Learning rate that a sweep over a whole run has found best: for runs that do not sweep."""
    steps: int = 1
    """Local steps of a round."""
    round: RoundSpec = _PLAIN
    """Of `Kind.ROUNDS`."""
    outer: OuterSpec = _AVERAGING
    dropped: float = 0.0
    """Fraction of the peers that are cut off in every round, other ones each time; then they take the model from the others."""
    cut_within: float = 0.0
    """When: at a moment drawn from so many virtual seconds after the begin of the averaging, which takes about 0.25."""
    half: bool = False
    """float16 on the wire, where it is not ``round`` that says so."""

    @property
    def updates_per_step(self) -> float:
        """How often the inner optimiser moves the weights."""
        return 1 / self.steps if self.kind is Kind.HIVEMIND_GRADIENTS else 1.0


def _round(codec: Codec, exchange: Exchange = Exchange.BUTTERFLY, feedback: float = 1.0) -> RoundSpec:
    return RoundSpec(codec=codec, exchange=exchange, feedback=feedback, average_seconds=120.0, assemble_seconds=5.0)


_SPARSE = _round(Codec.SPARSE256, Exchange.GATHER, 0.95)
_DILOCO = OuterSpec(learning_rate=0.7, momentum=0.9, optimiser=OuterOptimiser.NESTEROV)

_ALL = (
    Method(name="alone", kind=Kind.ALONE, says="one peer without a swarm", rate=8e-3, steps=10),
    Method(name="synchronous-fp32", kind=Kind.SYNCHRONOUS, says="data parallel, gloo, fp32 gradients every step", rate=8e-3),
    Method(name="synchronous-fp16", kind=Kind.SYNCHRONOUS, says="the same with fp16 gradients", rate=8e-3, half=True),
    Method(name="swarm-fp32", kind=Kind.ROUNDS, says="ours, fp32 butterfly", rate=8e-3, steps=10, round=_round(Codec.FP32)),
    Method(name="swarm-fp16", kind=Kind.ROUNDS, says="local SGD, fp16 butterfly", rate=8e-3, steps=10, round=_round(Codec.FP16)),
    Method(name="swarm-fp16-h5", kind=Kind.ROUNDS, says="the same, twice as often", rate=8e-3, steps=5, round=_round(Codec.FP16)),
    Method(name="swarm-int4", kind=Kind.ROUNDS, says="int4 butterfly, the default", rate=8e-3, steps=10, round=_round(Codec.INT4)),
    Method(name="swarm-int4-h30", kind=Kind.ROUNDS, says="the same, seldom", rate=8e-3, steps=30, round=_round(Codec.INT4)),
    Method(
        name="swarm-int4-dropped",
        kind=Kind.ROUNDS,
        says="int4, every round without one of the four peers",
        rate=8e-3,
        steps=10,
        round=_round(Codec.INT4),
        dropped=0.25,
    ),
    Method(
        name="swarm-int4-cut",
        kind=Kind.ROUNDS,
        says="the same, but it goes in the middle of the averaging",
        rate=8e-3,
        steps=10,
        round=_round(Codec.INT4),
        dropped=0.25,
        cut_within=0.25,
    ),
    Method(name="swarm-sparse256", kind=Kind.ROUNDS, says="top 256 of 4096, gather", rate=16e-3, steps=10, round=_SPARSE),
    Method(
        name="swarm-sparse256-no-feedback",
        kind=Kind.ROUNDS,
        says="the same, what compression loses stays lost",
        rate=8e-3,
        steps=10,
        round=_round(Codec.SPARSE256, Exchange.GATHER, 0.0),
    ),
    Method(
        name="hivemind-local",
        kind=Kind.HIVEMIND_LOCAL,
        says="hivemind.Optimizer, local updates, fp16 weights",
        rate=8e-3,
        steps=10,
        half=True,
    ),
    Method(
        name="hivemind-local-h20",
        kind=Kind.HIVEMIND_LOCAL,
        says="the same, half as often",
        rate=8e-3,
        steps=20,
        half=True,
    ),
    Method(
        name="hivemind-local-h30",
        kind=Kind.HIVEMIND_LOCAL,
        says="the same, seldom",
        rate=8e-3,
        steps=30,
        half=True,
    ),
    Method(
        name="hivemind-gradients",
        kind=Kind.HIVEMIND_GRADIENTS,
        says="hivemind.Optimizer, fp16 gradients of 160 sequences",
        rate=16e-3,
        steps=10,
        half=True,
    ),
    Method(
        name="diloco-h10",
        kind=Kind.ROUNDS,
        says="DiLoCo 0.7/0.9 as published, fp32",
        rate=2e-3,
        steps=10,
        round=_round(Codec.FP32),
        outer=_DILOCO,
    ),
    Method(
        name="diloco-h30",
        kind=Kind.ROUNDS,
        says="the same, seldom",
        rate=2e-3,
        steps=30,
        round=_round(Codec.FP32),
        outer=_DILOCO,
    ),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
"""By name, in the order of the table."""

PRESETS = ("swarm-fp16", "swarm-fp16-h5", "swarm-int4", "swarm-int4-h30", "swarm-sparse256")
"""What an organiser may choose between."""
QUICK = ("alone", "synchronous-fp16", "swarm-fp32", "swarm-int4", "swarm-sparse256", "hivemind-local")
"""What `--quick` has time for."""
