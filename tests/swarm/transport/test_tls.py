import os
import ssl
import tempfile
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import swarm.transport.tls as tls
from swarm.errors import Malformed
from swarm.identity import KeyPair
from swarm.transport.tls import authority_of, certificate_of, client_context, peer_of, server_context

RUN = bytes(range(32))
SECRET = bytes(16)
ANNA, BORIS = (KeyPair.from_seed(bytes([number]) * 32) for number in (1, 2))


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A handshake without a socket. Returns both ends; raises the `ssl.SSLError` of the side that refuses."""
    up = ssl.MemoryBIO()
    down = ssl.MemoryBIO()
    ends = [server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up, server_hostname="swarm")]
    waiting = [*reversed(ends)] * 4
    for end in waiting:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return ends[0], ends[1]


def test_both_ends_learn_who_the_other_is() -> None:
    server, client = shake(server_context(ANNA, RUN), client_context(BORIS, RUN))
    assert peer_of(server) == BORIS.peer_id
    assert peer_of(client) == ANNA.peer_id
    assert server.version() == client.version() == "TLSv1.3"
    assert client.session_reused is False


def test_the_authority_is_the_same_bytes_everywhere_and_belongs_to_one_run_and_secret() -> None:
    assert authority_of(RUN, SECRET) == authority_of(RUN, SECRET)
    assert (
        len(
            {
                authority_of(RUN),
                authority_of(RUN, SECRET),
                authority_of(bytes(32)),
                authority_of(bytes(32), SECRET),
            }
        )
        == 4
    )
    assert certificate_of(ANNA, RUN) == certificate_of(ANNA, RUN)


@pytest.mark.parametrize(("run", "secret"), [(RUN, b""), (RUN, b"x" * 16), (bytes(32), SECRET)])
def test_a_peer_without_the_run_id_or_its_secret_fails_the_handshake(run: bytes, secret: bytes) -> None:
    trusting = client_context(BORIS, run, secret)
    trusting.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError):
        shake(server_context(ANNA, RUN, SECRET), trusting)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server_context(ANNA, RUN, SECRET), client_context(BORIS, run, secret))


def test_a_peer_without_a_certificate_fails_the_handshake() -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        shake(server_context(ANNA, RUN), bare)


def test_older_tls_is_refused() -> None:
    old = client_context(BORIS, RUN)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(server_context(ANNA, RUN), old)


def test_a_certificate_without_its_key_cannot_be_used() -> None:
    with pytest.raises(ssl.SSLError):
        tls._load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), BORIS, certificate_of(ANNA, RUN))


def test_dates_of_certificates_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_SINCE", datetime(2001, 1, 1))
    monkeypatch.setattr(tls, "_UNTIL", datetime(2002, 1, 1))
    server, _ = shake(server_context(ANNA, RUN), client_context(BORIS, RUN))
    assert peer_of(server) == BORIS.peer_id


def elliptic_context(run: bytes) -> ssl.SSLContext:
    """A peer that signed a certificate for a key of another kind."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(tls._authority_name(run), x509.Name([]), key.public_key(), 5)
    builder = builder.not_valid_before(tls._SINCE).not_valid_after(tls._UNTIL)
    certificate = builder.sign(tls._authority_key(run, b""), None)
    context = client_context(BORIS, run)
    with tempfile.NamedTemporaryFile() as file:
        file.write(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + certificate.public_bytes(Encoding.PEM)
        )
        file.flush()
        context.load_cert_chain(file.name)
    return context


def test_a_key_of_another_kind_is_refused() -> None:
    server, _ = shake(server_context(ANNA, RUN), elliptic_context(RUN))
    with pytest.raises(Malformed, match="Ed25519"):
        peer_of(server)


class Shows:
    def __init__(self, raw: bytes | None) -> None:
        self.raw = raw

    def getpeercert(self, binary_form: bool) -> bytes | None:
        return self.raw


@pytest.mark.parametrize("shown", [None, Shows(None), Shows(b""), Shows(b"noise")])
def test_without_a_certificate_there_is_no_peer(shown: Shows | None) -> None:
    with pytest.raises(Malformed):
        peer_of(shown)  # type: ignore[arg-type]


def test_the_key_is_in_a_file_for_its_owner_only_and_only_while_it_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    class Watching(ssl.SSLContext):
        def load_cert_chain(self, certfile: object, *rest: object) -> None:  # type: ignore[override]
            seen.append(os.stat(str(certfile)).st_mode & 0o777)
            raise ssl.SSLError("no")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ssl.SSLError):
        tls._load(Watching(ssl.PROTOCOL_TLS_CLIENT), ANNA, certificate_of(ANNA, RUN))
    assert seen == [0o600]
    assert list(tmp_path.iterdir()) == []
