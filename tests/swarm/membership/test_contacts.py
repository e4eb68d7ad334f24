"""The address book, and the contact records in it."""

import pytest

import swarm.membership.contacts as module
from swarm.errors import BadSignature, Malformed, WrongRun
from swarm.hosts import Nearness, nearness
from swarm.identity import KeyPair
from swarm.membership.contacts import BOOK_SHARE, Contact, Contacts, Teller, seal_contact
from swarm.ticket import Address, Entry
from swarm.wire import Stamp, pack, seal_body

RUN = bytes(range(32))
ANNA, BORIS, CARLA = (KeyPair.from_seed(bytes([number]) * 32) for number in range(3))
HOME = Address("192.0.2.1", 1000)
OFFICE = Address("2001:db8::1", 2000)
ENTRY = Address("entry.example.org", 3000)

FAR = Address("8.8.8.8", 80)
"""On the internet."""
NEAR = Address("192.168.0.1", 22)
"""In a private network, perhaps another one than the teller's."""
INSIDE = Address("127.0.0.1", 5432)
"""Nobody but this computer itself is meant to dial it."""
STRANGER, NEIGHBOUR, OURSELVES = "9.9.9.9", "192.168.0.7", "127.0.0.1"


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


# --- on whose word ------------------------------------------------------------------------------------------


def told(host: str, *addresses: Address, seq: int = 1) -> Contacts:
    """A book in which Boris, who called from ``host``, has signed ``addresses`` for himself."""
    book = Contacts(RUN)
    book.learn(seal_contact(BORIS, RUN, addresses, seq), Teller(BORIS.peer_id, host))
    return book


@pytest.mark.parametrize(
    ("host", "dialled"),
    [
        (STRANGER, (FAR,)),
        (NEIGHBOUR, (FAR, NEAR)),
        (OURSELVES, (FAR, NEAR, INSIDE)),
        ("", (FAR, NEAR, INSIDE)),
    ],
)
def test_no_word_leads_nearer_than_its_teller_is(host: str, dialled: tuple[Address, ...]) -> None:
    book = told(host, FAR, NEAR, INSIDE)
    assert set(book.addresses(BORIS.peer_id)) == set(dialled)
    for address in (FAR, NEAR, INSIDE):
        assert book.allows(BORIS.peer_id, address, address.host) == (address in dialled)


def test_a_name_may_be_looked_up_and_is_dialled_where_an_address_would_be() -> None:
    name = Address("localhost", 5432)
    book = told(STRANGER, name)
    assert book.addresses(BORIS.peer_id) == (name,)
    assert not book.allows(BORIS.peer_id, name, "127.0.0.1")
    assert book.allows(BORIS.peer_id, name, "8.8.8.8")


@pytest.mark.parametrize(
    ("own", "dialled"), [(FAR, (FAR,)), (NEAR, (FAR, NEAR)), (INSIDE, (FAR, NEAR, INSIDE))]
)
def test_where_nobody_knows_the_teller_our_own_address_decides(
    own: Address, dialled: tuple[Address, ...]
) -> None:
    book = Contacts(RUN, me=ANNA.peer_id)
    book.learn(seal_contact(ANNA, RUN, (own,), 1))
    book.learn(seal_contact(BORIS, RUN, (FAR, NEAR, INSIDE), 1))
    assert book.addresses(BORIS.peer_id) == dialled
    assert book.addresses(ANNA.peer_id) == (own,), "our own addresses are on our own word"


def test_what_we_would_not_dial_is_not_passed_on_either() -> None:
    book = told(STRANGER, FAR, NEAR)
    assert book.record(BORIS.peer_id) is None
    assert book.records(9) == []
    book.learn(seal_contact(BORIS, RUN, (FAR, NEAR), 1), Teller(CARLA.peer_id, NEIGHBOUR))
    assert book.record(BORIS.peer_id), "somebody near has told it as well"
    assert NEAR in book.addresses(BORIS.peer_id)


def test_a_newer_contact_counts_on_the_word_of_those_that_have_told_it() -> None:
    book = told(NEIGHBOUR, NEAR)
    book.learn(seal_contact(BORIS, RUN, (NEAR, INSIDE), 2), Teller(CARLA.peer_id, STRANGER))
    assert book.addresses(BORIS.peer_id) == ()


def test_an_entry_of_the_ticket_is_dialled_wherever_it_is() -> None:
    book = Contacts(RUN, (Entry(ANNA.peer_id, INSIDE),))
    assert book.addresses(ANNA.peer_id) == (INSIDE,)
    assert book.allows(ANNA.peer_id, INSIDE, "127.0.0.1")


def test_the_address_at_which_the_signer_itself_has_called_comes_first() -> None:
    other = Address("7.7.7.7", 1)
    own = Address(STRANGER, 2)
    assert told(STRANGER, other, own).addresses(BORIS.peer_id) == (own, other)


def test_a_peer_that_answers_tells_from_where_it_has_answered() -> None:
    book = Contacts(RUN)
    book.note_answer(BORIS.peer_id, STRANGER)
    assert book.teller(BORIS.peer_id) == Teller(BORIS.peer_id, STRANGER)
    assert nearness(book.teller(BORIS.peer_id).host) == Nearness.INTERNET
    assert book.teller(CARLA.peer_id).nearness == Nearness.HERE, "in a rehearsal nobody has an address"


@pytest.mark.parametrize(
    ("host", "named", "is_there"),
    [
        (STRANGER, Address(STRANGER, 1), True),
        (STRANGER, FAR, False),
        (STRANGER, Address("peer.example.org", 1), False),
        ("2600::1", Address("2600::2", 1), True),
        (NEIGHBOUR, NEAR, True),
        (OURSELVES, Address("127.0.0.2", 1), True),
        (NEIGHBOUR, FAR, False),
    ],
)
def test_who_names_another_computer_of_the_internet_is_not_there(
    host: str, named: Address, is_there: bool
) -> None:
    assert told(host, named).is_at(BORIS.peer_id, host) is is_there
    assert told(host, Address(host, 9), named).is_at(BORIS.peer_id, host) is is_there


def test_names_made_up_behind_one_address_get_their_share_of_the_book_and_no_more() -> None:
    book = Contacts(RUN)
    honest = seal_contact(ANNA, RUN, (HOME,), 1)
    book.learn(honest)
    liars = [KeyPair.from_seed(number.to_bytes(32, "big")) for number in range(100, 100 + BOOK_SHARE + 50)]
    for liar in liars:
        book.learn(seal_contact(liar, RUN, (FAR,), 1), Teller(liar.peer_id, STRANGER))
    assert len(book) == BOOK_SHARE + 1
    assert book.record(ANNA.peer_id) == honest
    assert not book.addresses(liars[0].peer_id), "the one of which we heard longest ago has made room"
    assert book.addresses(liars[-1].peer_id)


def test_a_contact_that_changes_hands_counts_for_the_new_teller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOOK_SHARE", 2)
    book = Contacts(RUN)
    for seq, host in ((1, "9.9.9.1"), (2, STRANGER)):
        for key in (ANNA, BORIS, CARLA):
            book.learn(seal_contact(key, RUN, (FAR,), seq), Teller(key.peer_id, host))
    assert len(book) == 2
