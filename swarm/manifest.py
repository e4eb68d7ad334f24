"""What everybody in a run agrees on, byte for byte. The hash of the manifest is the run's name.

Signed by the organiser, equal on all peers, never changed: another number anywhere is another run.
What one volunteer decides about their own computer is `peer.config.PeerConfig`, and the two never mix.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import ClassVar

import msgspec

from .errors import ConfigError, Malformed, Oversized, WrongContent, WrongVersion
from .identity import KeyPair, PeerId, peer_id_of
from .wire import (
    CONTROL_LIMIT,
    PROTOCOL,
    Kind,
    Message,
    Stamp,
    body_of,
    finite,
    open_frame,
    pack,
    seal_body,
    sized,
)


class Codec(IntEnum):
    """How the numbers of an update travel. `averaging.codecs` knows how; the run pins which."""

    FP32 = 0
    FP16 = 1
    INT8 = 2
    INT4 = 3
    BF16 = 4
    SPARSE64 = 5
    SPARSE128 = 6
    SPARSE256 = 7
    SPARSE512 = 8
    MASKED = 9


class Exchange(IntEnum):
    """How the updates of a round come together."""

    BUTTERFLY = 0
    """Part j of everybody to its owner, the owner's average of it to everybody."""
    GATHER = 1
    """Everybody's whole update to everybody: nobody has to trust an owner, and very small updates need no second leg."""


class InnerOptimiser(IntEnum):
    """Who moves the weights between two averages."""

    ADAMW = 0
    MUON = 1
    """Of the hidden matrices; AdamW keeps embeddings, heads and gains (MuLoCo, arXiv:2505.23725)."""


class OuterOptimiser(IntEnum):
    """What becomes of the averaged update. `peer.training.outer` has the formulas."""

    PLAIN = 0
    """Nothing but the average: no momentum."""
    NESTEROV = 1
    """DiLoCo (arXiv:2311.08105)."""


class Admission(IntEnum):
    """Who may join: anybody with the ticket's addresses, or only holders of its secret."""

    OPEN = 0
    INVITE = 1


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A built-in model and its sizes. Code never comes from peers: the name picks reviewed code."""

    name: str = "gpt"
    vocabulary: int = 256
    width: int = 64
    layers: int = 2
    heads: int = 4
    context: int = 64

    def __post_init__(self) -> None:
        if not (2 <= self.vocabulary <= 1 << 20 and 8 <= self.width <= 1 << 16 and 1 <= self.layers <= 512):
            raise ValueError("model: sizes out of range")
        if not (
            1 <= self.heads <= self.width
            and self.width % self.heads == 0
            and (self.width // self.heads) % 2 == 0
        ):
            raise ValueError(
                "model.heads must divide model.width into even heads (rotary embedding pairs them)"
            )
        if not 2 <= self.context <= 1 << 17:
            raise ValueError("model.context out of range")


class DataSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The training text, named by its content (root over the hashes of its chunks), so that any peer can serve it."""

    root: bytes
    length: int
    """Bytes of the whole corpus."""
    chunk: int = 1 << 20
    """Bytes per chunk; the last one may be shorter."""
    held_out: float = 0.05
    """Fraction at the end that nobody trains on."""
    description: str = ""

    def __post_init__(self) -> None:
        sized("data.root", self.root, 32)
        finite("data.held_out", self.held_out, 0.001, 0.5)
        if not (
            1 <= self.length <= 1 << 44 and 1 << 10 <= self.chunk <= 1 << 22 and len(self.description) <= 200
        ):
            raise ValueError("data: sizes out of range")


class RoundSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """How long peers train alone, and how they average."""

    seconds: float = 30.0
    """Local training per round: every peer does as many steps as fit."""
    max_steps: int = 500
    """No peer does more local steps than this in a round, so that a fast one does not drift away from the others."""
    average_seconds: float = 30.0
    """Deadline of one averaging, from the first commit to the last ballot. Usually it takes a fraction of a second."""
    assemble_seconds: float = 5.0
    """How long a leader waits for the ones it expects, and how long the others wait for a leader before they replace it."""
    codec: Codec = Codec.INT4
    exchange: Exchange = Exchange.BUTTERFLY
    feedback: float = 1.0
    """What is kept of the residual from round to round, 0 for none (error feedback; Karimireddy et al. 2019, arXiv:1901.09847)."""
    group_size: int = 64
    owners: int = 16
    """At most this many members own a part each; more only add messages."""
    overlap: float = 0.0
    """Of ``seconds``: how long a peer trains on while the average is under way; 0: it waits. The next average has that progress."""
    fragments: int = 1
    """A round averages one of so many stretches of the model, the next round the next one (`averaging.fragments`)."""

    def __post_init__(self) -> None:
        finite("round.seconds", self.seconds, 0.1, 86400)
        finite("round.average_seconds", self.average_seconds, 1, 86400)
        finite("round.assemble_seconds", self.assemble_seconds, 0.2, 600)
        finite("round.feedback", self.feedback, 0, 1)
        finite("round.overlap", self.overlap, 0, 0.5)
        if not (1 <= self.max_steps <= 1 << 20 and 1 <= self.group_size <= 256 and 1 <= self.owners <= 64):
            raise ValueError("round: sizes out of range")
        if not 1 <= self.fragments <= 64:
            raise ValueError("round.fragments: 1 to 64")


class InnerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The local optimiser: linear warm-up, cosine to a tenth."""

    learning_rate: float = 8e-3
    batch: int = 4
    warmup_steps: int = 60
    horizon_steps: int = 1000
    """Local steps after which the cosine has reached its end."""
    weight_decay: float = 0.1
    clip: float = 1.0
    optimiser: InnerOptimiser = InnerOptimiser.ADAMW

    def __post_init__(self) -> None:
        finite("inner.learning_rate", self.learning_rate, 1e-8, 10)
        finite("inner.weight_decay", self.weight_decay, 0, 10)
        finite("inner.clip", self.clip, 1e-6, 1e6)
        if not (
            1 <= self.batch <= 4096
            and 0 <= self.warmup_steps <= 1 << 20
            and 1 <= self.horizon_steps <= 1 << 40
        ):
            raise ValueError("inner: sizes out of range")


class OuterSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The step on the averaged update. Plain averaging is the default; DiLoCo as published is Nesterov, 0.7 and 0.9."""

    learning_rate: float = 1.0
    """Where ``effective`` is 0."""
    momentum: float = 0.0
    """0 exactly where the optimiser is plain: then there is none to keep and to hand on."""
    optimiser: OuterOptimiser = OuterOptimiser.PLAIN
    effective: float = 0.0
    """How long the step should be along the averages, in averages: the learning rate then follows, round by round, from how much
    successive averages point the same way. 0: the rate stands as it is."""
    plain_rounds: int = 0
    """Rounds of plain averaging before the momentum begins: in a young run it only overshoots."""

    def __post_init__(self) -> None:
        finite("outer.learning_rate", self.learning_rate, 1e-3, 2)
        finite("outer.momentum", self.momentum, 0, 0.99)
        finite("outer.effective", self.effective, 0, 4)
        if not 0 <= self.plain_rounds < 1 << 32:
            raise ValueError("outer.plain_rounds out of range")
        if (self.momentum > 0) != (self.optimiser is not OuterOptimiser.PLAIN):
            raise ValueError("outer: plain averaging has no momentum, Nesterov has one")


class RunManifest(Message, frozen=True):
    """One run. ``rounds`` or ``tokens`` (0 = no limit) says when it is finished; ``organiser`` is a public key."""

    kind: ClassVar[Kind] = Kind.MANIFEST

    protocol: int
    name: str
    organiser: bytes
    seed: int
    model: ModelSpec
    data: DataSpec
    round: RoundSpec
    inner: InnerSpec
    outer: OuterSpec
    rounds: int = 0
    tokens: int = 0
    evaluate_every: int = 1
    start_with: int = 1
    """Peers that should be there before the first round begins (they wait for each other, but not for ever)."""
    admission: Admission = Admission.OPEN

    def __post_init__(self) -> None:
        sized("organiser", self.organiser, 32)
        if not (0 <= self.rounds < 1 << 32 and 0 <= self.tokens < 1 << 60 and 0 <= self.seed < 1 << 63):
            raise ValueError("run: numbers out of range")
        if not (
            1 <= len(self.name) <= 60 and 1 <= self.evaluate_every <= 1 << 20 and 1 <= self.start_with <= 256
        ):
            raise ValueError(
                "run: the name has 1 to 60 characters, evaluate_every and start_with are at least 1"
            )

    @property
    def body(self) -> bytes:
        """The bytes whose hash is the run id."""
        return pack(self)

    @property
    def run_id(self) -> bytes:
        """32 bytes that name the run."""
        return hashlib.sha256(self.body).digest()

    @property
    def organiser_id(self) -> PeerId:
        """The peer that made the run."""
        return peer_id_of(self.organiser)

    def seal(self, key: KeyPair) -> bytes:
        """The manifest as it travels: a frame signed by the organiser."""
        if key.public != self.organiser:
            raise ConfigError("only the organiser's key can sign this manifest")
        return seal_body(key, Kind.MANIFEST, self.body, Stamp(self.run_id))

    def is_finished(self, round_: int, tokens: int) -> bool:
        """Whether a run that stands at the start of ``round_`` and has seen ``tokens`` is over."""
        return bool((self.rounds and round_ >= self.rounds) or (self.tokens and tokens >= self.tokens))


def run_id_of(sealed: bytes) -> bytes:
    """The run id of a manifest that we have kept ourselves; a stranger's goes through `open_manifest`."""
    return hashlib.sha256(body_of(sealed)).digest()


def open_manifest(raw: bytes, run_id: bytes) -> RunManifest:
    """Read a manifest from a stranger. Its hash must be ``run_id``, which the ticket names, and its organiser must have signed it.

    Raises `WrongVersion` where the run speaks another protocol: the hash has already proven that it is the right run.
    """
    if len(raw) > CONTROL_LIMIT:
        raise Oversized(f"{len(raw)} bytes, a manifest has at most {CONTROL_LIMIT}")
    body = body_of(raw)
    if hashlib.sha256(body).digest() != run_id:
        raise WrongContent("this manifest does not belong to the ticket")
    _check_version(body)
    signed = open_frame(raw, RunManifest, run=run_id)
    if signed.public != signed.message.organiser:
        raise Malformed("the manifest is not signed by its organiser")
    return signed.message


def _check_version(body: bytes) -> None:
    """The first field of every manifest, of every version, is the protocol number; look at it before the form of the rest."""
    try:
        protocol = msgspec.msgpack.decode(body, type=list[object])[0]
    except (msgspec.DecodeError, ValueError, IndexError, RecursionError):
        return  # not a manifest at all: `open_frame` says so
    if isinstance(protocol, int) and protocol != PROTOCOL:
        raise WrongVersion(
            f"this run speaks protocol {protocol}, this program {PROTOCOL}",
            "pip install --upgrade swarm-train"
            if protocol > PROTOCOL
            else "ask the organiser which version to install",
        )
