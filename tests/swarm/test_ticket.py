"""Tickets: the string, the errors of people who copy it, and addresses."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import TicketError
from swarm.identity import KeyPair, peer_id_from_digest
from swarm.ticket import PREFIX, Address, Entry, Ticket

PEER = KeyPair.from_seed(bytes(32)).peer_id
V4 = Address("192.0.2.7", 4001)
V6 = Address("2001:db8::7", 65535)
NAME = Address("peer.example.org", 1)
TICKET = Ticket(bytes(range(32)), tuple(Entry(PEER, address) for address in (V4, V6, NAME)), bytes(16))
LINE = TICKET.pack()

addresses = st.builds(
    Address,
    st.one_of(st.ip_addresses().map(str), st.from_regex(r"[a-z][a-z0-9.-]{0,60}", fullmatch=True)),
    st.integers(0, 65535),
)
entries = st.builds(Entry, st.binary(min_size=32, max_size=32).map(peer_id_from_digest), addresses)


@given(
    st.binary(min_size=32, max_size=32),
    st.lists(entries, max_size=8).map(tuple),
    st.one_of(st.just(b""), st.binary(min_size=16, max_size=16)),
)
def test_a_ticket_comes_back_as_it_was(run: bytes, entries: tuple[Entry, ...], secret: bytes) -> None:
    ticket = Ticket(run, entries, secret)
    assert Ticket.unpack(ticket.pack()) == ticket


def test_the_form_of_a_ticket_never_changes() -> None:
    assert LINE == (
        "swarm1EAMAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHwAAAAAAAAAAAAAAAAAAAAD3NBmJbNbk29kOanRBlJso1Z"
        "bFDT-XaVpuLM_6Igj_SKEPBQTAAAIH9zQZiWzW5NvZDmp0QZSbKNWWxQ0_l2labizP-iII_0j__xEGIAENuAAAAAAAAAAAAA"
        "AAB_c0GYls1uTb2Q5qdEGUmyjVlsUNP5dpWm4sz_oiCP9IAQARAHBlZXIuZXhhbXBsZS5vcmdbjRr5"
    )


@pytest.mark.parametrize("host", ["curl evil|sh", "\x1b[2J", "é", "a\n"])
def test_no_words_travel_as_the_address_of_an_entry(host: str) -> None:
    """Error messages show the addresses that a ticket names."""
    with pytest.raises(TicketError, match="form of one"):
        Ticket.unpack(Ticket(bytes(32), (Entry(PEER, Address(host, 1)),)).pack())


def test_line_breaks_and_spaces_of_a_mail_do_not_matter() -> None:
    assert Ticket.unpack(f"  {LINE[:40]}\r\n > {LINE[40:]}\n".replace(">", "")) == TICKET


@pytest.mark.parametrize("length", range(len(LINE)))
def test_every_ticket_that_was_cut_short_is_refused_with_advice(length: int) -> None:
    with pytest.raises(TicketError) as caught:
        Ticket.unpack(LINE[:length])
    assert caught.value.advice


def test_every_typing_error_of_one_character_is_refused_with_advice() -> None:
    for place in range(len(LINE)):
        for wrong in string.ascii_letters + string.digits + "-_+/=.é":
            if wrong != LINE[place]:
                with pytest.raises(TicketError) as caught:
                    Ticket.unpack(LINE[:place] + wrong + LINE[place + 1 :])
                assert caught.value.advice


@pytest.mark.parametrize("place", range(0, len(LINE), 7))
def test_a_missing_or_doubled_character_is_refused(place: int) -> None:
    for text in (LINE[:place] + LINE[place + 1 :], LINE[:place] + LINE[place] + LINE[place:]):
        if text != LINE:
            with pytest.raises(TicketError):
                Ticket.unpack(text)


@given(
    st.one_of(st.text(), st.text(alphabet=string.ascii_letters + string.digits + "-_").map(PREFIX.__add__))
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(TicketError):
        Ticket.unpack(text)


def test_nine_entries_and_a_secret_of_another_length_are_refused() -> None:
    nine = Ticket(bytes(32), (Entry(PEER, V4),) * 9)
    odd = Ticket(bytes(32), (), b"15 bytes are odd"[:15])
    for ticket in (nine, odd):
        with pytest.raises(TicketError):
            Ticket.unpack(ticket.pack())


@pytest.mark.parametrize("address", [V4, V6, NAME], ids=str)
def test_an_address_is_read_as_it_is_written(address: Address) -> None:
    assert Address.parse(str(address)) == address


NO_ADDRESSES = [
    "",
    "host",
    "host:",
    ":80",
    "host:65536",
    "host:-1",
    "host:8O",
    "host:²",
    "[]:80",
    "x" * 254 + ":80",
]


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Address.parse(text)
