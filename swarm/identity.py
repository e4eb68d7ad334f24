"""The identity of a peer: an Ed25519 key pair (RFC 8032). The peer's id is a hash of its public key."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import NewType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .errors import IdentityError

PeerId = NewType("PeerId", str)
"""52 characters of lower-case base32: ``sha256("swarm-peer-v1" ‖ public key)``."""

_PEER_ID = re.compile(r"[a-z2-7]{52}")
_ANIMALS = (
    "ant bat bee boar bull carp cat clam cod crab crane crow deer dove duck eel elk emu finch fly fox "
    "frog gnat goat goose gull hare hawk hen heron horse ibis jay kiwi koala lark lion loon lynx mink "
    "mole moth mouse mule newt orca otter owl ox panda perch pike pony puma quail ram raven robin seal "
    "shark sheep shrew skunk slug snail snake squid stork swan swift tiger toad trout tuna viper vole "
    "wasp whale wolf wren yak zebra"
).split()


@lru_cache(maxsize=1 << 12)
def peer_id_of(public: bytes) -> PeerId:
    """The id of the peer whose public key is ``public`` (32 raw bytes)."""
    return peer_id_from_digest(hashlib.sha256(b"swarm-peer-v1" + public).digest())


@lru_cache(maxsize=1 << 12)
def peer_id_from_digest(digest: bytes) -> PeerId:
    """The id whose hash is ``digest`` (32 bytes). Tickets and DHT messages carry ids in this shorter form."""
    return PeerId(base64.b32encode(digest).decode().rstrip("=").lower())


@lru_cache(maxsize=1 << 12)
def digest_of(peer: PeerId) -> bytes:
    """The 32-byte hash that ``peer`` is the text of. Raises `ValueError` where the text is not a peer id."""
    if not _PEER_ID.fullmatch(peer):
        raise ValueError("not a peer id")
    return base64.b32decode(peer.upper() + "====")


def petname(peer: PeerId) -> str:
    """A short name for people, such as ``otter-7f3a``. It is not unique: never decide anything by it."""
    digest = digest_of(peer)
    return f"{_ANIMALS[digest[0] % len(_ANIMALS)]}-{digest[1:3].hex()}"


@lru_cache(maxsize=1 << 14)
def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` (64 bytes) over ``message`` was made by the holder of ``public``.

    The last 16,384 results are cached: a broadcast that comes from several peers is checked once, also where
    hundreds of simulated peers share a process.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class KeyPair:
    """An identity key. Its private half leaves it only for the key file (mode 0600) and the TLS context."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()
        self.peer_id: PeerId = peer_id_of(self.public)

    def __repr__(self) -> str:
        return f"KeyPair({petname(self.peer_id)})"

    @classmethod
    def generate(cls) -> KeyPair:
        """A new identity from the operating system's random numbers."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """The identity that follows from 32 secret bytes; for simulations and for keys that a run derives."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load_or_create(cls, path: Path) -> KeyPair:
        """The identity kept in the file ``path`` (64 hex digits, mode 0600), which the first call makes.

        Raises `IdentityError` where the file is not a key or other users of the machine can read it.
        """
        if path.exists():
            return cls._load(path)
        key = cls.generate()
        try:
            key._save_new(path)
        except FileExistsError:  # another process was faster: its key is the identity
            return cls._load(path)
        except OSError as error:
            fact = f"cannot write the identity key {path}: {error.strerror}"
            raise IdentityError(fact, "free some space, or choose another --home") from error
        return key

    def _save_new(self, path: Path) -> None:
        """Write the key file as a whole or not at all: a full disk must not leave an empty file behind."""
        draft = path.with_name(f"{path.name}.draft-{os.getpid()}")
        draft.unlink(missing_ok=True)  # not ours: it may have another mode, or lead elsewhere
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(self.private_bytes().hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            _move_if_absent(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def _load(cls, path: Path) -> KeyPair:
        try:
            if path.stat().st_mode & 0o077:
                raise IdentityError(f"other users can read the identity key {path}", f"chmod 600 {path}")
            return cls.from_seed(bytes.fromhex(path.read_text().strip()))
        except (OSError, ValueError) as error:
            raise IdentityError(
                f"{path} is not an identity key", f"move it away: a new one is made ({error})"
            ) from error

    def private_bytes(self) -> bytes:
        """The 32 secret bytes, for `swarm.transport.tls` and the key file only."""
        return self._private.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """The signature of ``message`` by this key, 64 bytes; `verify` checks it."""
        return self._private.sign(message)


def _move_if_absent(draft: Path, path: Path) -> None:
    """Give ``draft`` its final name. Raises `FileExistsError` where that exists already.

    Some file systems have no hard links (exFAT, some network mounts); there the home's lock has to do.
    """
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:
        os.replace(draft, path)
