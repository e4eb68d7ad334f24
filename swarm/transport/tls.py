"""Who is at the other end: TLS 1.3 with certificates of both sides, whose keys identify the peers.

    run id ‖ join secret  ──►  the run's CA key  ──►  every peer signs a certificate for its own identity key

Python's `ssl` has no callback to verify a certificate, so a server can ask only for certificates of a CA that
it knows. Hence all peers derive one CA key from the run id and the join secret. A peer without the secret of
a private run fails the handshake; the handshake of all others proves that they hold their identity keys (RFC
8446, CertificateVerify). In an open run everybody can derive the CA key, so there only the peer id that the
caller pins is a proof.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import Malformed
from ..identity import KeyPair, PeerId, digest_of, peer_id_of
from ..seeds import derive_bytes

HTTP = "http/1.1"
"""ALPN name of calls by HTTP."""

# X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not name: volunteers' clocks are wrong.
_NO_CHECK_TIME = 0x200000
_SINCE = datetime(2020, 1, 1)
_UNTIL = datetime(2100, 1, 1)


def authority_of(run: bytes, secret: bytes = b"") -> bytes:
    """The run's CA certificate (PEM): the same bytes on every machine that knows ``run`` and ``secret``."""
    key = _authority_key(run, secret)
    public = key.public_key()
    builder = _certificate(_authority_name(run), _authority_name(run), public, 1)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    return builder.sign(key, None).public_bytes(Encoding.PEM)


def certificate_of(key: KeyPair, run: bytes, secret: bytes = b"") -> bytes:
    """The certificate (PEM) of ``key`` for ``run``. Its holder signs it itself, with the run's CA key."""
    authority = _authority_key(run, secret)
    public = Ed25519PublicKey.from_public_bytes(key.public)
    serial = int.from_bytes(digest_of(key.peer_id)[:16], "big") | 1
    builder = _certificate(_name(key.peer_id), _authority_name(run), public, serial)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(usage, critical=False).add_extension(issuer, critical=False)
    return builder.sign(authority, None).public_bytes(Encoding.PEM)


def server_context(key: KeyPair, run: bytes, secret: bytes = b"", protocol: str = HTTP) -> ssl.SSLContext:
    """The TLS context of our listening side. Build it once: it reads a file and costs a millisecond.

    ``protocol`` is offered by ALPN (RFC 7301). A handshake succeeds without agreement, so check
    ``selected_alpn_protocol``.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, key, run, secret, protocol)
    context.num_tickets = 0  # no session resumption: every connection proves its key again
    return context


def client_context(key: KeyPair, run: bytes, secret: bytes = b"", protocol: str = HTTP) -> ssl.SSLContext:
    """The TLS context of our calling side.

    It accepts any peer of the run: compare `peer_of` before the first byte is sent.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, key, run, secret, protocol)


def peer_of(ssl_object: ssl.SSLObject | ssl.SSLSocket | None) -> PeerId:
    """The peer at the other end, after the handshake.

    Raises `Malformed` where it showed no certificate with an Ed25519 key.
    """
    raw = ssl_object.getpeercert(binary_form=True) if ssl_object else None
    if not raw:
        raise Malformed("the other side showed no certificate")
    try:
        public = x509.load_der_x509_certificate(raw).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Malformed("the certificate of the other side cannot be read") from error
    if not isinstance(public, Ed25519PublicKey):
        raise Malformed("the certificate of the other side does not hold an Ed25519 key")
    return peer_id_of(public.public_bytes_raw())


def _context(side: int, key: KeyPair, run: bytes, secret: bytes, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags = ssl.VerifyFlags(int(context.verify_flags) | _NO_CHECK_TIME)
    context.load_verify_locations(cadata=authority_of(run, secret).decode())
    context.set_alpn_protocols([protocol])
    _load(context, key, certificate_of(key, run, secret))
    return context


def _load(context: ssl.SSLContext, key: KeyPair, certificate: bytes) -> None:
    """Load key and certificate.

    `ssl` reads a key only from a file, so there is one for a moment, readable by its owner only.
    """
    private = Ed25519PrivateKey.from_private_bytes(key.private_bytes())
    descriptor, path = tempfile.mkstemp(prefix="swarm-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate)
        context.load_cert_chain(path)
    finally:
        os.unlink(path)


def _authority_key(run: bytes, secret: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(derive_bytes(run, "run-ca", secret))


def _authority_name(run: bytes) -> x509.Name:
    return _name(f"swarm run {run.hex()[:32]}")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, public: Ed25519PublicKey, serial: int
) -> x509.CertificateBuilder:
    """The fields that all our certificates share.

    Nothing is random and Ed25519 is deterministic, so the bytes are repeatable.
    """
    builder = x509.CertificateBuilder(issuer, subject, public, serial)
    return builder.not_valid_before(_SINCE).not_valid_after(_UNTIL)
