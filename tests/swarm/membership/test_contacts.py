"""The address book, and the contact records in it."""

import pytest

import swarm.membership.contacts as module
from swarm.errors import BadSignature, Malformed, WrongRun
from swarm.identity import KeyPair
from swarm.membership.contacts import Contact, Contacts, seal_contact
from swarm.ticket import Address, Entry
from swarm.wire import Stamp, pack, seal_body

RUN = bytes(range(32))
ANNA, BORIS, CARLA = (KeyPair.from_seed(bytes([number]) * 32) for number in range(3))
HOME = Address("192.0.2.1", 1000)
OFFICE = Address("2001:db8::1", 2000)
ENTRY = Address("entry.example.org", 3000)


def test_the_newest_contact_wins_whatever_the_order_of_arrival() -> None:
    older = seal_contact(ANNA, RUN, (HOME,), 1)
    newer = seal_contact(ANNA, RUN, (OFFICE,), 2)
    for order in ((older, newer), (newer, older)):
        book = Contacts(RUN)
        for raw in order:
            book.learn(raw)
        assert book.addresses(ANNA.peer_id) == (OFFICE,)
        assert book.record(ANNA.peer_id) == newer
        assert len(book) == 1


def test_the_addresses_of_a_peers_own_contact_come_before_the_tickets() -> None:
    book = Contacts(RUN, (Entry(ANNA.peer_id, ENTRY),))
    assert book.addresses(ANNA.peer_id) == (ENTRY,)
    book.learn(seal_contact(ANNA, RUN, (HOME, OFFICE), 1))
    assert book.addresses(ANNA.peer_id) == (HOME, OFFICE, ENTRY)
    book.learn(seal_contact(ANNA, RUN, (ENTRY,), 2))
    assert book.addresses(ANNA.peer_id) == (ENTRY,)


def test_a_stranger_has_no_address_and_no_record() -> None:
    book = Contacts(RUN)
    assert book.addresses(BORIS.peer_id) == ()
    assert book.record(BORIS.peer_id) is None


def test_a_contact_of_another_run_or_with_a_broken_signature_is_refused() -> None:
    book = Contacts(RUN)
    with pytest.raises(WrongRun):
        book.learn(seal_contact(ANNA, bytes(32), (HOME,), 1))
    with pytest.raises(BadSignature):
        book.learn(seal_contact(ANNA, RUN, (HOME,), 1)[:-1] + b"\x00")
    assert len(book) == 0


@pytest.mark.parametrize(
    "addresses",
    [
        [["h", 1]] * 5,
        [["", 1]],
        [["h", 0]],
        [["h", 65536]],
        [["x" * 254, 1]],
        [["curl evil|sh", 1]],
        [["\x1b[2J", 1]],
        [["not a host/../", 1]],
        [["\x00", 1]],
        [["[::1", 1]],
    ],
)
def test_addresses_that_cannot_be_are_malformed(addresses: object) -> None:
    raw = seal_body(ANNA, Contact.kind, pack([addresses]), Stamp(RUN, seq=1))
    with pytest.raises(Malformed):
        Contacts(RUN).learn(raw)


def test_valid_records_are_kept_and_invalid_ones_counted() -> None:
    book = Contacts(RUN)
    good = seal_contact(ANNA, RUN, (HOME,), 1)
    wrong = seal_contact(BORIS, bytes(32), (HOME,), 1)
    assert book.learn_all([wrong, good, b"noise"]) == 2
    assert book.records(10) == [good]


def test_a_full_book_drops_the_contact_heard_of_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOOK_LIMIT", 2)
    book = Contacts(RUN)
    anna, boris, carla = (seal_contact(key, RUN, (HOME,), 1) for key in (ANNA, BORIS, CARLA))
    for raw in (anna, boris, anna, carla):
        book.learn(raw)
    assert book.records(10) == [anna, carla]
    assert book.records(1) == [carla]


def test_a_fresh_ticket_names_the_first_entry_and_then_the_latest_peers_with_an_address() -> None:
    book = Contacts(RUN)
    book.learn(seal_contact(ANNA, RUN, (HOME,), 1))
    book.learn(seal_contact(BORIS, RUN, (), 1))
    book.learn(seal_contact(CARLA, RUN, (OFFICE, HOME), 1))
    assert book.entries(ANNA.peer_id, 8) == (Entry(ANNA.peer_id, HOME), Entry(CARLA.peer_id, OFFICE))
    assert book.entries(ANNA.peer_id, 1) == (Entry(ANNA.peer_id, HOME),)
