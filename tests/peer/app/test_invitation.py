"""The ticket that lets newcomers in: who is told of it, and a disk that refuses its file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from peer.app.invitation import Invitation
from peer.observe.reporter import Reporter
from swarm.errors import DiskTrouble
from swarm.membership.contacts import Contacts, seal_contact
from swarm.ticket import Address, Ticket
from tests.peer.company import RUN, key

OPEN = Ticket(RUN, ())
SECRET = Ticket(RUN, (), bytes(range(16)))


class Here:
    """The invitation of peer 1, and what it reports."""

    def __init__(self, first: Ticket, *, is_founder: bool, file: Path | None = None) -> None:
        self._out = io.StringIO()
        self._contacts = Contacts(RUN, ())
        self.knows(1)
        self.invitation = Invitation(
            first, key(1).peer_id, self._contacts, Reporter(self._out, True), is_founder=is_founder, file=file
        )

    def knows(self, number: int) -> None:
        """Another peer can be dialled."""
        self._contacts.learn(seal_contact(key(number), RUN, (Address("127.0.0.1", 4000 + number),), 1))

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has reported."""
        return [json.loads(line) for line in self._out.getvalue().splitlines()]


@pytest.mark.parametrize("is_founder", [True, False])
def test_in_an_open_run_every_peer_tells_its_ticket_when_it_names_more_entries(is_founder: bool) -> None:
    here = Here(OPEN, is_founder=is_founder)
    here.invitation.renew()
    here.invitation.renew()
    here.knows(2)
    here.invitation.renew()
    tickets = [event["ticket"] for event in here.events]
    assert [len(Ticket.unpack(ticket).entries) for ticket in tickets] == [1, 2]


def test_the_secret_of_a_run_by_invitation_is_told_on_the_founders_output_alone() -> None:
    founder = Here(SECRET, is_founder=True)
    guest = Here(SECRET, is_founder=False)
    founder.invitation.renew()
    guest.invitation.renew()
    (told,) = founder.events
    assert Ticket.unpack(told["ticket"]).secret == SECRET.secret
    assert guest.events == []


def test_a_full_disk_under_the_ticket_file_is_told_once_and_tried_again(tmp_path: Path) -> None:
    blocked = tmp_path / "disk"
    blocked.write_text("in the way of the folder")
    here = Here(SECRET, is_founder=True, file=blocked / "ticket")
    with pytest.raises(DiskTrouble):
        here.invitation.renew()
    for _ in range(3):
        here.invitation.renew_or_warn()
    assert [event["event"] for event in here.events] == ["ticket", "warning"]
    assert here.events[-1]["code"] == "disk"
    blocked.unlink()
    here.invitation.renew_or_warn()
    assert (blocked / "ticket").read_text().strip() == here.invitation.ticket
    assert len(here.events) == 2
