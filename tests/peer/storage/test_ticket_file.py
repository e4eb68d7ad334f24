"""A ticket passes through a file, whole, and nobody waits for ever for one that does not come."""

import asyncio
import os
from pathlib import Path

import pytest

from peer.storage import ticket_file as invitation
from swarm.errors import DiskTrouble, TicketError
from swarm.simulation.clock import simulate


def test_what_is_left_in_a_file_is_read_from_it(tmp_path: Path) -> None:
    file = tmp_path / "deeper" / "ticket"
    invitation.leave(file, "swarm1abc")
    assert simulate(invitation.ticket_text(f"@{file}", deadline=1)) == "swarm1abc"


def test_a_ticket_itself_needs_no_file() -> None:
    assert simulate(invitation.ticket_text("swarm1abc", deadline=0)) == "swarm1abc"


def test_a_later_ticket_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    for ticket in ("swarm1first", "swarm1second"):
        invitation.leave(tmp_path / "ticket", ticket)
    assert (tmp_path / "ticket").read_text() == "swarm1second\n"
    assert [file.name for file in tmp_path.iterdir()] == ["ticket"]


def test_only_this_user_may_read_it(tmp_path: Path) -> None:
    invitation.leave(tmp_path / "ticket", "swarm1secret")
    assert (tmp_path / "ticket").stat().st_mode & 0o777 == 0o600


def test_nobody_can_prepare_a_place_for_the_secret(tmp_path: Path) -> None:
    """The ticket may lie in a folder that others can write to."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("")
    draft = tmp_path / f"ticket.draft-{os.getpid()}"
    for prepare in (lambda: draft.touch(mode=0o666), lambda: draft.symlink_to(elsewhere)):
        prepare()
        invitation.leave(tmp_path / "ticket", "swarm1secret")
        assert (tmp_path / "ticket").stat().st_mode & 0o777 == 0o600
        assert not (tmp_path / "ticket").is_symlink()
    assert elsewhere.read_text() == ""


@pytest.mark.parametrize("before", [None, "", "\n"])
def test_a_ticket_that_is_not_there_yet_is_waited_for(tmp_path: Path, before: str | None) -> None:
    file = tmp_path / "ticket"
    if before is not None:
        file.write_text(before)

    async def play() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        loop.call_later(30, invitation.leave, file, "swarm1late")
        return await invitation.ticket_text(f"@{file}", loop.time() + invitation.PATIENCE), loop.time()

    text, time = simulate(play())
    assert text == "swarm1late"
    assert 30 <= time <= 30 + 2 * invitation.POLL_SECONDS


def test_waiting_ends_at_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(TicketError, match="there is no ticket in"):
        simulate(invitation.ticket_text(f"@{tmp_path / 'ticket'}", deadline=60))


def test_what_cannot_be_read_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("", "binary"):
        with pytest.raises(TicketError, match="cannot read"):
            simulate(invitation.ticket_text(f"@{tmp_path / name}", deadline=60))


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskTrouble):
        invitation.leave(tmp_path / "file" / "ticket", "swarm1abc")
