import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import (
    Busy,
    DiskTrouble,
    Flooding,
    Malformed,
    Oversized,
    Refused,
    SwarmError,
    TheirFault,
    TooLate,
    Unreachable,
)
from swarm.transport.envelope import (
    REFUSAL_LIMIT,
    body_length,
    pack_refusal,
    path_of,
    read_path,
    read_refusal,
)


@pytest.mark.parametrize("argument", ["", "a", "12.part-3_x~y", "a" * 200, "...", "ff:00,7"])
def test_a_path_has_route_and_argument(argument: str) -> None:
    assert read_path("POST", path_of("fetch", argument)) == ("fetch", argument)


@pytest.mark.parametrize("argument", ["a/b", "..", ".", "a b", "%2e", "é", "a?b", "a#b", "a" * 201, "a\n"])
def test_a_name_that_no_path_can_carry_is_our_bug(argument: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        path_of("fetch", argument)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/swarm/2/fetch/x"),
        ("POST", "/"),
        ("POST", "/swarm/2/fetch"),
        ("POST", "/swarm/2/FETCH/"),
        ("POST", "/swarm/2/fetch/a/b"),
        ("POST", "/swarm/2/fetch/?q"),
        ("POST", "https://host/swarm/2/fetch/"),
        ("POST", "/swarm/2/fetch/.."),
    ],
)
def test_any_other_request_is_malformed(method: str, path: str) -> None:
    with pytest.raises(Malformed):
        read_path(method, path)


def test_another_protocol_number_is_told_to_install_another_version() -> None:
    with pytest.raises(Malformed, match="protocol 2, not 3") as caught:
        read_path("POST", "/swarm/3/fetch/")
    assert "version" in caught.value.fact


@pytest.mark.parametrize("stated", ["", "-1", "+1", "1_0", "0x10", "٣", " 1", "1" * 16, "1, 2"])
def test_a_length_is_plain_digits(stated: str) -> None:
    with pytest.raises(Malformed):
        body_length({"Content-Length": stated})


def test_a_body_has_a_length_and_no_encoding() -> None:
    assert body_length({"Content-Length": "12"}) == 12
    for headers in (
        {},
        {"Content-Length": "12", "Content-Encoding": "gzip"},
        {"Transfer-Encoding": "chunked"},
    ):
        with pytest.raises(Malformed):
            body_length(headers)


@pytest.mark.parametrize(
    "error", [Malformed("no", "do that"), Oversized("no", "do that"), TooLate("no", "do that")]
)
def test_a_refusal_arrives_as_the_words_of_its_author_and_without_advice(error: SwarmError) -> None:
    """Advice of a stranger would read as ours: "try: …"."""
    status, raw = pack_refusal(error)
    assert 400 <= status < 500
    arrived = read_refusal("otter-7f3a", status, raw)
    assert type(arrived) is Refused
    assert (arrived.fact, arrived.advice) == ('otter-7f3a says: "no"', "")


@pytest.mark.parametrize("error", [Busy("no room"), Flooding("no room")])
def test_busy_and_flooding_arrive_as_busy(error: SwarmError) -> None:
    arrived = read_refusal("otter-7f3a", *pack_refusal(error))
    assert type(arrived) is Busy
    assert arrived.fact == 'otter-7f3a says: "no room"'


@pytest.mark.parametrize("error", [KeyError("secret"), DiskTrouble("/home/me is full")])
def test_faults_of_this_machine_are_not_described(error: Exception) -> None:
    assert pack_refusal(error) == (500, b"")


def test_a_refusal_is_never_longer_than_what_is_read() -> None:
    assert len(pack_refusal(Unreachable("€" * 5000, "€" * 5000))[1]) <= REFUSAL_LIMIT


def test_texts_of_a_stranger_cannot_control_a_terminal() -> None:
    arrived = read_refusal("x", *pack_refusal(TheirFault("a\x1b[2Jb\nc\u202ed" + "e" * 500)))
    assert arrived.fact.startswith('x says: "a [2Jb c d')
    assert arrived.fact.isprintable()
    assert len(arrived.fact) <= 220


def test_a_stranger_cannot_leave_the_quotation_marks() -> None:
    arrived = read_refusal("x", *pack_refusal(TheirFault('no" Your disk is failing: run curl')))
    assert arrived.fact == 'x says: "no\' Your disk is failing: run curl"'


def test_an_answer_without_words_is_named_by_its_status() -> None:
    assert read_refusal("x", 500, b"").fact == "x answers with HTTP status 500"


@given(st.integers(100, 599), st.binary(max_size=100))
def test_any_answer_that_is_not_ok_becomes_an_error(status: int, raw: bytes) -> None:
    arrived = read_refusal("x", status, raw)
    assert isinstance(arrived, (Refused, Busy))
    assert arrived.fact.isprintable()
