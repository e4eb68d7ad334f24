"""The methods: how each trains, what it exchanges, and how often.

A step is one local batch of every peer, so at equal steps all methods have seen equal tokens and have
computed for equally long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from types import MappingProxyType

import msgspec

from averaging.codecs import is_sparse
from swarm.manifest import Codec, Exchange, OuterOptimiser, OuterSpec, RoundSpec

PEERS = 4
BATCH = 4
"""Sequences of one step of one peer."""


class Kind(Enum):
    """How the peers combine what they have learnt."""

    ALONE = auto()
    """Not at all: one peer trains alone."""
    SYNCHRONOUS = auto()
    """Gradients are averaged every step (gloo)."""
    ROUNDS = auto()
    """Swarm: local steps, then the averager."""
    PAIRS = auto()
    """Local steps, then weights are averaged with one other peer, in rotating pairs (gossip): no two models
    are ever equal."""
    HIVEMIND_LOCAL = auto()
    """`hivemind.Optimizer` with ``use_local_updates``, as in its quickstart: local steps, then weights are
    averaged."""
    HIVEMIND_GRADIENTS = auto()
    """`hivemind.Optimizer` as in its albert example: the gradients of a round are averaged, and used for one
    update."""


PLAIN_ROUND = RoundSpec()
PLAIN_AVERAGING = OuterSpec()

RIVALS = frozenset({Kind.HIVEMIND_LOCAL, Kind.HIVEMIND_GRADIENTS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One line of the table."""

    name: str
    kind: Kind
    says: str
    rate: float
    """The best learning rate of an earlier sweep over whole runs, for runs that do not sweep."""
    steps: int = 1
    """Local steps of a round."""
    round: RoundSpec = PLAIN_ROUND
    """For `Kind.ROUNDS`."""
    outer: OuterSpec = PLAIN_AVERAGING
    dropped: float = 0.0
    """Fraction of the peers that are cut off in every round, other ones each time; afterwards they take over
    the others' model."""
    cut_within: float = 0.0
    """They are cut off at a random moment within so many virtual seconds of the start of the averaging, which
    takes about 0.25."""
    half: bool = False
    """Whether float16 is on the wire, for the kinds that have no ``round``."""

    @property
    def updates_per_step(self) -> float:
        """How often the inner optimiser moves the weights."""
        return 1 / self.steps if self.kind is Kind.HIVEMIND_GRADIENTS else 1.0


def _round(codec: Codec, exchange: Exchange = Exchange.BUTTERFLY, feedback: float = 1.0) -> RoundSpec:
    return RoundSpec(
        codec=codec, exchange=exchange, feedback=feedback, average_seconds=120.0, assemble_seconds=5.0
    )


_SYNCHRONOUS = Method(
    name="synchronous-fp32",
    kind=Kind.SYNCHRONOUS,
    says="data parallel, gloo, fp32 gradients every step",
    rate=8e-3,
)
_OURS = Method(
    name="swarm-fp32",
    kind=Kind.ROUNDS,
    says="Swarm, fp32 butterfly",
    rate=8e-3,
    steps=10,
    round=_round(Codec.FP32),
)
_FP16 = replace(_OURS, name="swarm-fp16", says="local SGD, fp16 butterfly", round=_round(Codec.FP16))
_INT4 = replace(_OURS, name="swarm-int4", says="int4 butterfly, the default", round=_round(Codec.INT4))
_DROPPED = replace(
    _INT4, name="swarm-int4-dropped", says="int4, every round without one of the four peers", dropped=0.25
)
_SPARSE = replace(
    _OURS,
    name="swarm-sparse256",
    says="top 256 of 4096, gather",
    rate=16e-3,
    round=_round(Codec.SPARSE256, Exchange.GATHER, 0.95),
)
_HIVEMIND = Method(
    name="hivemind-local",
    kind=Kind.HIVEMIND_LOCAL,
    says="hivemind.Optimizer, local updates, fp16 weights",
    rate=8e-3,
    steps=10,
    half=True,
)
_DILOCO = replace(
    _OURS,
    name="diloco-h10",
    says="DiLoCo 0.7/0.9 as published, fp32",
    rate=2e-3,
    outer=OuterSpec(learning_rate=0.7, momentum=0.9, optimiser=OuterOptimiser.NESTEROV),
)

_ALL = (
    Method(name="alone", kind=Kind.ALONE, says="one peer without a swarm", rate=8e-3, steps=10),
    _SYNCHRONOUS,
    replace(_SYNCHRONOUS, name="synchronous-fp16", says="the same with fp16 gradients", half=True),
    _OURS,
    _FP16,
    replace(_FP16, name="swarm-fp16-h5", says="the same, twice as often", steps=5),
    _INT4,
    replace(_INT4, name="swarm-int4-h30", says="the same, seldom", steps=30),
    replace(
        _INT4,
        name="swarm-int4-fragments",
        says="int4, a quarter of the model in every round",
        round=msgspec.structs.replace(_INT4.round, fragments=4),
    ),
    replace(
        _INT4,
        name="pairs",
        kind=Kind.PAIRS,
        says="weights averaged in rotating pairs, fp16; scored: their mean",
    ),
    _DROPPED,
    replace(
        _DROPPED,
        name="swarm-int4-cut",
        says="the same, but it goes in the middle of the averaging",
        cut_within=0.25,
    ),
    _SPARSE,
    replace(
        _SPARSE,
        name="swarm-sparse256-no-feedback",
        says="the same, what compression loses stays lost",
        rate=8e-3,
        round=_round(Codec.SPARSE256, Exchange.GATHER, 0.0),
    ),
    _HIVEMIND,
    replace(_HIVEMIND, name="hivemind-local-h20", says="the same, half as often", steps=20),
    replace(_HIVEMIND, name="hivemind-local-h30", says="the same, seldom", steps=30),
    replace(
        _HIVEMIND,
        name="hivemind-gradients",
        kind=Kind.HIVEMIND_GRADIENTS,
        says="hivemind.Optimizer, fp16 gradients of 160 sequences",
        rate=16e-3,
    ),
    _DILOCO,
    replace(_DILOCO, name="diloco-h30", says="the same, seldom", steps=30),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
"""By name, in the order of the table."""

PRESETS = ("swarm-fp16", "swarm-fp16-h5", "swarm-int4", "swarm-int4-h30", "swarm-sparse256")
"""The presets among which an organiser chooses."""
QUICK = ("alone", "synchronous-fp16", "swarm-fp32", "swarm-int4", "swarm-sparse256", "hivemind-local")
"""The methods of `--quick`."""


# --- averages every few steps -----------------------------------------------------------------------------

FREQUENT_STEPS = (1, 2, 5, 10, 20)
"""Local steps between two averages."""
FREQUENT_CODECS = (
    Codec.FP32,
    Codec.FP16,
    Codec.INT8,
    Codec.INT4,
    Codec.SPARSE256,
    Codec.SPARSE128,
    Codec.SPARSE64,
)


def _frequent(codec: Codec, steps: int) -> Method:
    """A line of `benchmarks.frequent`. Sparse updates go to all peers, others in parts to their owners."""
    sparse = is_sparse(codec)
    return Method(
        name=f"{codec.name.lower()}-every-{steps}",
        kind=Kind.ROUNDS,
        says=f"{codec.name.lower()}, an average every {steps} steps",
        rate=8e-3,
        steps=steps,
        round=_round(codec, Exchange.GATHER if sparse else Exchange.BUTTERFLY, 0.95 if sparse else 1.0),
    )


FREQUENT: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for codec in FREQUENT_CODECS
        for method in (_frequent(codec, steps) for steps in FREQUENT_STEPS)
    }
)
"""The methods of `benchmarks.frequent`, by name."""


def method_of(name: str) -> Method:
    """The method of that name. Raises `KeyError` where there is none."""
    return METHODS[name] if name in METHODS else FREQUENT[name]
