"""Homes: one peer each, found by `swarm top` while it runs, and free again after it has been killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peer.storage.home import LIFE, SLOTS, open_home, root_folder, running
from swarm.errors import DiskTrouble, HomeInUse
from swarm.identity import KeyPair

RUN = bytes(range(32))
OTHER = bytes(32)


@pytest.fixture(autouse=True)
def _own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_HOME", str(tmp_path / "root"))


def test_the_root_folder_is_chosen_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert root_folder() == tmp_path / "root"
    monkeypatch.delenv("SWARM_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert root_folder() == tmp_path / ".swarm"


def test_a_home_is_taken_once_and_free_again_after_the_block(tmp_path: Path) -> None:
    with open_home(tmp_path / "h", RUN), pytest.raises(HomeInUse, match="another peer lives") as refused:
        open_home(tmp_path / "h", RUN)
    assert "--home" in refused.value.advice
    with open_home(tmp_path / "h", RUN):
        assert (tmp_path / "h").stat().st_mode & 0o077 == 0


def test_without_a_choice_every_peer_of_a_run_gets_a_slot_of_its_own() -> None:
    with open_home(None, RUN) as first, open_home(None, RUN) as second, open_home(None, OTHER) as other:
        assert [home.path.name for home in (first, second, other)] == ["1", "2", "1"]
        assert first.path.parent == second.path.parent != other.path.parent
    with open_home(None, RUN) as again:
        assert again.path == first.path


def test_when_all_slots_are_taken_it_says_so() -> None:
    homes = [open_home(None, RUN) for _ in range(SLOTS)]
    with pytest.raises(HomeInUse, match=f"{SLOTS} peers"):
        open_home(None, RUN)
    for home in homes:
        home.__exit__()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, peer.storage.home as h; "
        "home = h.open_home(pathlib.Path(sys.argv[1]), b''); print('in', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "h")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "in\n"
        with pytest.raises(HomeInUse):
            open_home(tmp_path / "h", RUN)
        child.kill()
    with open_home(tmp_path / "h", RUN):
        pass


def test_a_home_that_cannot_be_made_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskTrouble, match="cannot write"):
        open_home(tmp_path / "file" / "h", RUN)


def test_running_peers_are_found_the_newest_first_by_run_or_all() -> None:
    with open_home(None, RUN) as first, open_home(None, RUN) as second, open_home(None, OTHER) as other:
        for age, (home, run) in enumerate([(first, RUN), (other, OTHER), (second, RUN)]):
            home.announce(f"127.0.0.1:{age}", run)
            os.utime(home.status_file, (age, age))
        assert list(running()) == ["127.0.0.1:2", "127.0.0.1:1", "127.0.0.1:0"]
        assert list(running(RUN)) == ["127.0.0.1:2", "127.0.0.1:0"]
        assert list(running(under=first.path)) == ["127.0.0.1:0"]
    assert list(running()) == []


def test_a_status_file_that_a_killed_peer_left_is_not_believed(tmp_path: Path) -> None:
    home = tmp_path / "root" / "run" / "1"
    home.mkdir(parents=True)
    (home / "status").write_text(f"127.0.0.1:1\n{RUN.hex()}\n")
    assert list(running()) == []
    (home / "lock").touch()
    assert list(running()) == []


def test_looking_for_peers_leaves_no_trace_and_stumbles_over_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert list(running()) == []
    assert not root.exists()
    for number, make in enumerate(
        [
            lambda path: path.mkdir(),
            lambda path: path.symlink_to(tmp_path / "gone"),
            lambda path: path.write_bytes(b"\xff\xfe"),
            lambda path: path.write_text(""),
        ]
    ):
        (root / "run" / str(number)).mkdir(parents=True)
        make(root / "run" / str(number) / "status")
    before = sorted(root.rglob("*"))
    assert list(running()) == []
    assert sorted(root.rglob("*")) == before


def test_leaving_a_home_takes_its_status_file_away(tmp_path: Path) -> None:
    with open_home(tmp_path / "h", RUN) as home:
        home.announce("127.0.0.1:1", RUN)
        assert home.status_file.exists()
    assert not home.status_file.exists()


def test_a_disk_that_has_become_read_only_does_not_keep_a_peer_from_leaving(tmp_path: Path) -> None:
    with open_home(tmp_path / "h", RUN) as home:
        home.status_file.mkdir()  # cannot be removed as a file
    with open_home(tmp_path / "h", RUN):
        pass


def test_every_start_has_a_higher_number_even_where_the_clock_was_set_back(tmp_path: Path) -> None:
    with open_home(tmp_path / "h", RUN) as home:
        first = home.life(1_700_000_000.0)
        assert first == 1_700_000_000_000
        assert home.life(1_700_000_000.0 - 3600) >= first + LIFE, "an hour back"
        third = home.life(0.0)
        assert third >= first + 2 * LIFE, "a computer without a battery"
        assert home.life(1_800_000_000.0) == 1_800_000_000_000


@pytest.mark.parametrize("content", ["", "many", "1.5"])
def test_a_number_that_cannot_be_read_is_replaced_by_the_clock(tmp_path: Path, content: str) -> None:
    with open_home(tmp_path / "h", RUN) as home:
        (home.path / "life").write_text(content)
        assert home.life(1_700_000_000.0) == 1_700_000_000_000
        assert home.life(0.0) > 1_700_000_000_000


def test_a_number_that_cannot_be_kept_costs_nothing(tmp_path: Path) -> None:
    with open_home(tmp_path / "h", RUN) as home:
        (home.path / "life").mkdir()
        assert home.life(1_700_000_000.0) == 1_700_000_000_000


def test_an_organiser_keeps_the_key_that_lives_in_its_home(tmp_path: Path) -> None:
    with open_home(tmp_path / "h", RUN) as home:
        (home.path / f"identity.key.draft-{os.getpid()}").touch(mode=0o666)
        first = home.organiser_key(KeyPair.generate())
        assert home.identity_file.stat().st_mode & 0o777 == 0o600
        assert home.organiser_key(KeyPair.generate()).peer_id == first.peer_id
        assert KeyPair.load_or_create(home.identity_file).peer_id == first.peer_id
