"""The ticket that lets newcomers in: what is told of it, to whom, and when it names more peers.

open run            every peer reports its ticket on its own output
run by invitation   the founder reports it, and nobody else: the ticket holds the secret of the run
"""

from __future__ import annotations

from pathlib import Path

from swarm.errors import DiskTrouble
from swarm.identity import PeerId
from swarm.membership.contacts import Contacts
from swarm.ticket import Entry, Ticket

from ..observe.reporter import Reporter
from ..storage import ticket_file

ENTRIES = 4
"""Entries that a ticket of ours names, at most."""


class Invitation:
    """The ticket of this peer. It names more entries as more peers can be dialled.

    ``first`` is the ticket by which this peer came. ``file``: a founder also writes its ticket there.
    """

    def __init__(
        self,
        first: Ticket,
        me: PeerId,
        contacts: Contacts,
        reporter: Reporter,
        *,
        is_founder: bool,
        file: Path | None = None,
    ) -> None:
        self._first = first
        self._me = me
        self._contacts = contacts
        self._reporter = reporter
        self._is_told = is_founder or not first.secret
        self._file = file
        self._entries: tuple[Entry, ...] = ()
        self._written = ""
        """The ticket that the file has."""
        self._is_trouble_told = False

    @property
    def ticket(self) -> str:
        """The newest ticket, as text."""
        return Ticket(self._first.run_id, self._entries, self._first.secret).pack()

    def renew(self) -> None:
        """Report the ticket whenever it names more entries than before; any of them lets a newcomer in.

        Raises `DiskTrouble` where the ticket's file cannot be written: the next call tries again.
        """
        entries = self._contacts.entries(self._me, ENTRIES)
        if len(entries) > len(self._entries):
            self._entries = entries
            if self._is_told:
                self._reporter.event("ticket", ticket=self.ticket, run=self._first.run_id.hex())
        if self._file and self._entries and self._written != self.ticket:
            ticket_file.leave(self._file, self.ticket)
            self._written = self.ticket

    def renew_or_warn(self) -> None:
        """Renew the ticket. A disk that refuses its file is told once, until the file is written."""
        try:
            self.renew()
        except DiskTrouble as error:
            if not self._is_trouble_told:
                fields = {"advice": error.advice} if error.advice else {}
                self._reporter.event("warning", code=error.code, fact=error.fact, **fields)
            self._is_trouble_told = True
        else:
            self._is_trouble_told = False
