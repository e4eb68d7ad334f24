"""What a peer brings to a round."""

# Axes: P parameters of the whole model (of a fragment, where the run averages fragments in turn)

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from swarm.manifest import Codec
from swarm.wire import NO_GROUP

from .groups import LinkClaim


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A pseudo-gradient, called *update* from here on: ``vector_P`` = start − end of the round, float32.

    Nobody ever writes into ``vector_P`` again: encoded as float32 it travels from where it lies, possibly
    after the round.
    """

    round: int
    vector_P: Tensor
    tokens: int
    """Tokens behind the update: its weight."""
    seed: bytes
    """Names the data behind the update."""
    state_root: bytes
    """The root of the state from which the peer has trained."""
    tensors: tuple[int, ...] = ()
    """Lengths of the tensors in the vector, in order; empty if it is a single one."""
    fragment: int = 0
    """Which of the model's fragments this is: what is not applied of it is carried over to the next update of
    the same fragment."""
    codec: Codec | None = None
    """How to encode it, if not as the manifest says: smaller, for a slow uplink (`codec_choice.allowed`)."""
    link: LinkClaim = field(default_factory=LinkClaim)
    """What the peer tells the others about its link."""
    parent: bytes = NO_GROUP
    """The id of the group whose decision led to that state; all zero before the run's first average."""
