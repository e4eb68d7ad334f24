"""The manifest: everything that all peers of a run must agree on. Its hash is the run id.

The organiser signs it. It is the same on all peers and never changes: another value makes another run.
What a volunteer decides about their own computer (address, home, name) is not in it.
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
    unpack,
)

MOST_CHUNKS = 1 << 20
"""Chunks of the largest training text. A peer holds the hashes of all of them, 32 MiB, before it fetches the
first one. In chunks of 4 MiB, the largest that a manifest may name, they are a text of 4 TiB."""


class Codec(IntEnum):
    """How the numbers of an update are encoded for the network; implemented in `averaging.codecs`."""

    FP32 = 0
    FP16 = 1
    INT8 = 2
    INT4 = 3
    BF16 = 4
    SPARSE64 = 5
    SPARSE128 = 6
    SPARSE256 = 7
    SPARSE512 = 8
    # 9 is reserved: it was the codec `masked` (docs/decisions/0026-no-masked-codec.md). Give it to no other.


class Exchange(IntEnum):
    """How the members of a group exchange their updates."""

    BUTTERFLY = 0
    """Each member sends part j of its update to the owner of part j, which sends the average back to all."""
    GATHER = 1
    """Each member sends its whole update to all others. No owner needs to be trusted."""


class InnerOptimiser(IntEnum):
    """The optimiser of the local steps between two averages."""

    ADAMW = 0
    MUON = 1
    """Muon for the hidden matrices, AdamW for embeddings, heads and gains (MuLoCo, arXiv:2505.23725)."""


class OuterOptimiser(IntEnum):
    """How the averaged update is applied to the model; the formulas are in `peer.training.outer`."""

    PLAIN = 0
    """The averaged update as it is, without momentum."""
    NESTEROV = 1
    """DiLoCo (arXiv:2311.08105)."""


class Admission(IntEnum):
    """Which peers may join: all that know an address of the run, or only those with the ticket's secret."""

    OPEN = 0
    INVITE = 1


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A built-in model and its sizes. ``name`` chooses code that is installed: no code comes from peers."""

    name: str = "gpt"
    vocabulary: int = 256
    width: int = 64
    layers: int = 2
    heads: int = 4
    context: int = 64
    """Tokens of a sequence."""

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
    """The training text. It is named by its content, so that a peer can fetch it from any other peer."""

    root: bytes
    """Root over the hashes of the chunks, 32 bytes."""
    length: int
    """Bytes of the whole text."""
    chunk: int = 1 << 20
    """Bytes per chunk; the last one may be shorter."""
    held_out: float = 0.05
    """Fraction at the end of the text that is used for evaluation only."""
    description: str = ""

    def __post_init__(self) -> None:
        sized("data.root", self.root, 32)
        finite("data.held_out", self.held_out, 0.001, 0.5)
        if not (
            1 <= self.length <= 1 << 44 and 1 << 10 <= self.chunk <= 1 << 22 and len(self.description) <= 200
        ):
            raise ValueError("data: sizes out of range")
        chunks = -(-self.length // self.chunk)
        if chunks > MOST_CHUNKS:
            raise ValueError(f"data: the text has {chunks} chunks, at most {MOST_CHUNKS} are allowed")


class RoundTiming(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """How long the phases of a round take: the first fields of `RoundSpec`."""

    seconds: float = 30.0
    """Local training per round: each peer does as many steps as fit."""
    max_steps: int = 500
    """No peer does more local steps than this in a round, so that fast peers do not drift away."""
    average_seconds: float = 30.0
    """Deadline of one averaging, from the first commit to the last ballot. It usually takes far less."""
    assemble_seconds: float = 5.0
    """How long a leader waits for the peers it expects, and how long they wait for it before replacing it."""

    def __post_init__(self) -> None:
        finite("round.seconds", self.seconds, 0.1, 86400)
        finite("round.average_seconds", self.average_seconds, 1, 86400)
        finite("round.assemble_seconds", self.assemble_seconds, 0.2, 600)
        if not 1 <= self.max_steps <= 1 << 20:
            raise ValueError("round: sizes out of range")


class RoundSpec(RoundTiming, frozen=True, forbid_unknown_fields=True, array_like=True):
    """How long peers train alone, and how they average."""

    codec: Codec = Codec.INT4
    exchange: Exchange = Exchange.BUTTERFLY
    feedback: float = 1.0
    """Fraction of the residual that is carried over to the next round; 0 turns error feedback off.
    (Karimireddy et al. 2019, arXiv:1901.09847)"""
    group_size: int = 64
    """Most members of a group; a larger population averages in several."""
    owners: int = 16
    """At most this many members own a part each; more owners only add messages."""
    overlap: float = 0.0
    """Fraction of ``seconds`` for which a peer trains on while the average is made; 0: it waits.
    The progress of that time goes into the next average."""
    fragments: int = 1
    """The model has this many fragments; each round averages the next one (`averaging.fragments`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        finite("round.feedback", self.feedback, 0, 1)
        finite("round.overlap", self.overlap, 0, 0.5)
        if not (1 <= self.group_size <= 256 and 1 <= self.owners <= 64):
            raise ValueError("round: sizes out of range")
        if not 1 <= self.fragments <= 64:
            raise ValueError("round.fragments: 1 to 64")


class InnerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The local optimiser. The learning rate warms up linearly, then falls by a cosine to a tenth."""

    learning_rate: float = 8e-3
    batch: int = 4
    """Sequences per local step."""
    warmup_steps: int = 60
    horizon_steps: int = 1000
    """Local steps after which the cosine has reached its end."""
    weight_decay: float = 0.1
    clip: float = 1.0
    """Largest norm of the gradient; a larger gradient is scaled down to it."""
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
    """The outer step, which applies the averaged update. The default applies it as it is.

    DiLoCo as published uses Nesterov with a learning rate of 0.7 and a momentum of 0.9.
    """

    learning_rate: float = 1.0
    """Used where ``effective`` is 0."""
    momentum: float = 0.0
    """0 if and only if ``optimiser`` is plain."""
    optimiser: OuterOptimiser = OuterOptimiser.PLAIN
    effective: float = 0.0
    """Wanted length of the outer step, in lengths of an averaged update; 0: use ``learning_rate`` instead.
    The learning rate then follows in each round from how well successive averages agree in direction."""
    plain_rounds: int = 0
    """Rounds of plain averaging at the start of a run, where momentum only overshoots."""

    def __post_init__(self) -> None:
        finite("outer.learning_rate", self.learning_rate, 1e-3, 2)
        finite("outer.momentum", self.momentum, 0, 0.99)
        finite("outer.effective", self.effective, 0, 4)
        if not 0 <= self.plain_rounds < 1 << 32:
            raise ValueError("outer.plain_rounds out of range")
        if (self.momentum > 0) != (self.optimiser is not OuterOptimiser.PLAIN):
            raise ValueError("outer: plain averaging has no momentum, Nesterov has one")


class RunDescription(Message, frozen=True):
    """What a run trains, on which text, and how: the first fields of `RunManifest`."""

    protocol: int
    """Version of the protocol, `swarm.wire.PROTOCOL`. It stays the first field in all versions."""
    name: str
    """Name of the run, for people."""
    organiser: bytes
    """Public key of the organiser, 32 bytes."""
    seed: int
    """Chooses the fresh model and the shuffling of the text."""
    model: ModelSpec
    data: DataSpec
    round: RoundSpec
    inner: InnerSpec
    outer: OuterSpec


class RunManifest(RunDescription, frozen=True):
    """One run: what it trains and how, when it starts and ends, and which peers may join."""

    kind: ClassVar[Kind] = Kind.MANIFEST

    rounds: int = 0
    """Rounds after which the run is finished; 0: no limit."""
    tokens: int = 0
    """Tokens, trained on by all peers together, after which the run is finished; 0: no limit."""
    evaluate_every: int = 1
    """Rounds from one evaluation to the next."""
    start_with: int = 1
    """Peers that wait for each other before the first round. The wait has a limit."""
    admission: Admission = Admission.OPEN

    def __post_init__(self) -> None:
        sized("organiser", self.organiser, 32)
        if not (0 <= self.rounds < 1 << 32 and 0 <= self.tokens < 1 << 60 and 0 <= self.seed < 1 << 63):
            raise ValueError("run: numbers out of range")
        has_name = 1 <= len(self.name) <= 60
        if not (has_name and 1 <= self.evaluate_every <= 1 << 20 and 1 <= self.start_with <= 256):
            raise ValueError(
                "run: the name has 1 to 60 characters, evaluate_every and start_with are at least 1"
            )

    @property
    def body(self) -> bytes:
        """The manifest as bytes; their SHA-256 is the run id."""
        return pack(self)

    @property
    def run_id(self) -> bytes:
        """The 32 bytes that name the run."""
        return hashlib.sha256(self.body).digest()

    @property
    def most_tokens(self) -> int:
        """The most tokens that one peer can have trained on for one update.

        Twice those of a round's steps, as a peer may train on while an average is made.
        """
        return 2 * self.round.max_steps * self.inner.batch * self.model.context

    @property
    def organiser_id(self) -> PeerId:
        """The peer id of the organiser."""
        return peer_id_of(self.organiser)

    def seal(self, key: KeyPair) -> bytes:
        """The manifest as a frame, signed by the organiser. Raises `ConfigError` for another ``key``."""
        if key.public != self.organiser:
            raise ConfigError("only the organiser's key can sign this manifest")
        return seal_body(key, Kind.MANIFEST, self.body, Stamp(self.run_id))

    def is_finished(self, round_: int, tokens: int) -> bool:
        """Whether the run is over at the start of ``round_``, after ``tokens`` of training."""
        return bool((self.rounds and round_ >= self.rounds) or (self.tokens and tokens >= self.tokens))


def run_id_of(sealed: bytes) -> bytes:
    """The run id of a manifest that we stored ourselves; for one from a stranger use `open_manifest`."""
    return hashlib.sha256(body_of(sealed)).digest()


def open_manifest(raw: bytes, run_id: bytes) -> RunManifest:
    """Read a manifest from a stranger. Its hash must be ``run_id``, which the ticket names.

    Raises `WrongVersion` where the run uses another protocol, `ConfigError` where no run can have its values,
    `WrongContent` for another hash, `Malformed` where its organiser has not signed it, and the errors of
    `open_frame`.
    """
    if len(raw) > CONTROL_LIMIT:
        raise Oversized(f"{len(raw)} bytes, a manifest has at most {CONTROL_LIMIT}")
    body = body_of(raw)
    if hashlib.sha256(body).digest() != run_id:
        raise WrongContent("this manifest does not belong to the ticket")
    _check_version(body)
    _check_values(body)
    signed = open_frame(raw, RunManifest, run=run_id)
    if signed.public != signed.message.organiser:
        raise Malformed("the manifest is not signed by its organiser")
    return signed.message


def _check_version(body: bytes) -> None:
    """Look at the protocol number only. It is the first field in all versions; the others may differ."""
    try:
        protocol = msgspec.msgpack.decode(body, type=list[object])[0]
    except (msgspec.DecodeError, ValueError, IndexError, RecursionError):
        return  # these bytes are not a manifest: `open_frame` raises the error
    if isinstance(protocol, int) and protocol != PROTOCOL:
        is_newer = protocol > PROTOCOL
        raise WrongVersion(
            f"this run speaks protocol {protocol}, this program {PROTOCOL}",
            "pip install --upgrade swarm-train" if is_newer else "ask the organiser which version to install",
        )


def _check_values(body: bytes) -> None:
    """Raise `ConfigError` where ``body`` is not a manifest, or has values that none may have.

    The hash of these bytes is the run's id, so every peer of the run has the same ones: it is the run that
    cannot be joined, and no fault of the peer that sent them.
    """
    try:
        unpack(body, RunManifest)
    except Malformed as error:
        raise ConfigError(
            f"this run is not possible ({error.fact})", "ask the organiser for the ticket of another run"
        ) from error
