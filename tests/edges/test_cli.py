"""The command line as a person and a script meet it: what is wrong, what to do about it, and nothing on the other stream."""

from __future__ import annotations

import functools
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from peer.observe.text import cells
from swarm.identity import KeyPair
from swarm.manifest import DataSpec, InnerSpec, ModelSpec, OuterSpec, RoundSpec, RunManifest
from swarm.ticket import Address, Entry, Ticket
from tests.edges.processes import PeerProcess, Stage, environment, events_of, roots_agree, stage, swarm

TEXT = "".join(f"def f{n}(x):\n    return x * {n} + {n * n}\n" for n in range(3000))
SHIFTED = """
import sys, time
true_time = time.time
time.time = lambda: true_time() + 3600
sys.argv[0] = "swarm"
from peer.commands.main import main
main()
"""
"""`swarm` on a computer whose clock is an hour ahead."""


def entry(number: int, port: int) -> Entry:
    return Entry(KeyPair.from_seed(bytes([number]) * 32).peer_id, Address("127.0.0.1", port))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


DEAD = Ticket(bytes(range(32)), (entry(1, 9), entry(2, 9))).pack()
"""A ticket of a run where nobody answers: port 9 of this computer."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, PeerProcess]]:
    """A run of a founder and a joiner with a hostile name."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "text").mkdir()
    (folder / "text" / "one.py").write_text(TEXT)
    with stage(folder) as place:
        founder = place.new(
            "a",
            "--data",
            "text",
            "--model",
            "tiny",
            "--rounds",
            "100000",
            "--steps",
            "100000",
            "--round-seconds",
            "2",
        )
        founder.event("ticket")
        hostile = "\x1b[31m[red]\u202eevil\u200b" + "x" * 23 + "end"
        place.join("b", founder.event("ticket")["ticket"], "--name", hostile)
        yield place, founder


# --- what a person did wrong --------------------------------------------------------------------------------


@functools.cache
def _text_folder(folder: Path) -> Path:
    (folder / "t").mkdir(exist_ok=True)
    (folder / "t" / "one.txt").write_text(TEXT)
    return folder / "t"


def complaint(words: list[str], cwd: Path, **more: str) -> tuple[int, str, str]:
    """(exit status, code, advice) of the only error, a line of JSON on standard output; nothing is on standard error."""
    said = swarm(*words, "--json", cwd=cwd, **more)
    (error,) = [event for event in events_of(said.stdout) if event["event"] == "error"]
    assert said.stderr == ""
    return said.returncode, error["code"], error.get("advice", "")


@pytest.mark.parametrize(
    ("words", "status", "fact", "advice"),
    [
        (["join", "hello"], 2, "a ticket begins with 'swarm1'", "copy the whole ticket"),
        (["new", "--data", "empty", "--home", "h"], 3, "empty holds 0 bytes of text", "give --data a folder"),
    ],
)
def test_a_person_reads_errors_on_standard_error(
    words: list[str], status: int, fact: str, advice: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    said = swarm(*words, cwd=tmp_path)
    assert (said.returncode, said.stdout) == (status, "")
    first, second = said.stderr.splitlines()
    assert fact in first
    assert advice in second.removeprefix("         try: ")


@pytest.mark.parametrize(
    "ticket",
    [
        pytest.param("hello", id="no ticket"),
        pytest.param(DEAD[:-7], id="cut short"),
        pytest.param(DEAD[:40] + ("A" if DEAD[40] != "A" else "B") + DEAD[41:], id="a typing error"),
        pytest.param("swarm1" + "é" * 20, id="no such characters"),
    ],
)
def test_a_broken_ticket(ticket: str, tmp_path: Path) -> None:
    status, code, advice = complaint(["join", ticket], tmp_path, SWARM_HOME=str(tmp_path / "h"))
    assert (status, code) == (2, "ticket")
    assert "copy the whole ticket" in advice


def test_the_ticket_of_a_run_that_is_over(tmp_path: Path) -> None:
    status, code, advice = complaint(["join", DEAD, "--home", "h", "--listen", "127.0.0.1:0"], tmp_path)
    assert (status, code) == (6, "nobody")
    assert "fresh ticket" in advice


def test_a_port_that_another_program_has(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, code, advice = complaint(
            ["join", DEAD, "--home", "h", "--listen", f"127.0.0.1:{port}"], tmp_path
        )
    assert (status, code) == (3, "port")
    assert "--listen" in advice


def test_an_address_that_this_computer_has_not(tmp_path: Path) -> None:
    status, code, _ = complaint(["join", DEAD, "--home", "h", "--listen", "192.0.2.1:0"], tmp_path)
    assert (status, code) == (3, "port")


def test_a_listen_that_is_no_address(tmp_path: Path) -> None:
    said = swarm("join", DEAD, "--listen", "nonsense", cwd=tmp_path)
    assert said.returncode == 2
    assert said.stdout == ""
    assert "HOST:PORT" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_folder_without_text(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, code, advice = complaint(["new", "--data", "empty", "--home", "h"], tmp_path)
    assert (status, code) == (3, "data")
    assert "--data" in advice


def test_a_model_that_there_is_not(tmp_path: Path) -> None:
    status, code, advice = complaint(
        ["new", "--data", str(_text_folder(tmp_path)), "--model", "gpt9"], tmp_path
    )
    assert (status, code) == (2, "config")
    assert "nano" in advice


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, code, _ = complaint(["join", DEAD, "--home", "file/h", "--listen", "127.0.0.1:0"], tmp_path)
    assert (status, code) == (3, "disk")


def test_a_full_disk(tmp_path: Path) -> None:
    """The system allows no file as large as the text: the same as a full disk, where not everybody may make one."""
    program = f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({len(TEXT) // 2},) * 2); import signal; "
    program += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); import sys; sys.argv[0] = 'swarm'; import peer.commands.main; peer.commands.main.main()"
    words = [
        "new",
        "--data",
        str(_text_folder(tmp_path)),
        "--model",
        "tiny",
        "--home",
        "h",
        "--listen",
        "127.0.0.1:0",
        "--json",
    ]
    said = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        check=False,
    )
    assert said.returncode == 3
    assert said.stderr == ""
    (error,) = events_of(said.stdout)
    assert (error["event"], error["code"]) == ("error", "disk")
    assert error["advice"]
    assert not list((tmp_path / "h").rglob("*.corpus*"))


def test_a_home_where_another_peer_lives(pair: tuple[Stage, PeerProcess]) -> None:
    place, founder = pair
    status, code, advice = complaint(
        ["join", founder.event("ticket")["ticket"], "--home", str(founder.home)], place.folder
    )
    assert (status, code) == (3, "home")
    assert "--home" in advice
    assert founder.process.poll() is None


ANSWERING = """
import asyncio, sys
from peer.storage.home import open_home
from swarm.identity import KeyPair
from swarm.membership.contacts import Contacts
from swarm.ticket import Address
from swarm.transport import Route
from swarm.transport.http import HttpTransport

async def main():
    key, run, sealed = KeyPair.from_seed(bytes.fromhex(sys.argv[1])), bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])
    async def manifest(call):
        return sealed
    async with HttpTransport(key, run, b"", Contacts(run)) as transport:
        transport.serve(Route("manifest", manifest))
        bound = await transport.listen(Address("127.0.0.1", 0))
        print(bound.port, flush=True)
        await asyncio.sleep(120)

asyncio.run(main())
"""


def test_a_run_of_a_later_version(tmp_path: Path) -> None:
    key = KeyPair.from_seed(bytes([7]) * 32)
    manifest = RunManifest(
        2, "later", key.public, 0, ModelSpec(), DataSpec(bytes(32), 5000), RoundSpec(), InnerSpec(), OuterSpec(), 1
    )  # fmt: skip
    words = [(bytes([7]) * 32).hex(), manifest.run_id.hex(), manifest.seal(key).hex()]
    with subprocess.Popen(
        [sys.executable, "-c", ANSWERING, *words], stdout=subprocess.PIPE, text=True, env=environment()
    ) as other:
        try:
            assert other.stdout
            port = int(other.stdout.readline())
            ticket = Ticket(manifest.run_id, (Entry(key.peer_id, Address("127.0.0.1", port)),)).pack()
            status, code, advice = complaint(
                ["join", ticket, "--home", "h", "--listen", "127.0.0.1:0"], tmp_path
            )
        finally:
            other.kill()
    assert (status, code) == (3, "version")
    assert "upgrade" in advice


# --- a clock that is wrong ----------------------------------------------------------------------------------


def test_a_peer_whose_clock_is_an_hour_off_joins_all_the_same_and_is_told(
    pair: tuple[Stage, PeerProcess],
) -> None:
    place, founder = pair
    late = place.join("late", founder.event("ticket")["ticket"], before=("-c", SHIFTED))
    warning = late.wait(lambda event: event["event"] == "warning" and event["code"] == "clock")
    assert "60 minutes ahead" in warning["fact"]
    assert warning["advice"]
    late.round(lambda event: event["members"] >= 2)
    assert late.stop(signal.SIGINT) == 0
    assert late.stderr == ""
    roots_agree(founder, late)


# --- looking at a run ---------------------------------------------------------------------------------------


def looked(source: list[str], place: Stage, columns: int, lines: int) -> str:
    said = swarm("top", "--once", *source, cwd=place.folder, COLUMNS=str(columns), LINES=str(lines))
    assert said.returncode == 0, said
    assert said.stderr == ""
    rows = said.stdout.splitlines()
    assert len(rows) <= lines
    assert max(map(cells, rows)) <= columns
    return said.stdout


def test_top_shows_a_peer_by_its_home_its_status_page_and_the_ticket(pair: tuple[Stage, PeerProcess]) -> None:
    place, founder = pair
    founder.round(lambda event: event["members"] == 2)
    page = (founder.home / "status").read_text().partition("\n")[0]
    ticket = founder.event("ticket")["ticket"]
    pictures = [
        looked(source, place, *size)
        for source, size in (([str(founder.home)], (120, 34)), ([page], (80, 24)), ([ticket], (48, 14)))
    ]
    for picture in pictures:
        assert "HEALTHY" in picture
        assert "\x1b" not in picture
        assert "\u202e" not in picture
        assert "\u200b" not in picture
    assert "[red]evil" in pictures[0]


def test_top_as_json_is_one_snapshot(pair: tuple[Stage, PeerProcess]) -> None:
    place, founder = pair
    said = swarm("top", "--once", "--json", str(founder.home), cwd=place.folder)
    assert said.returncode == 0
    snapshot = json.loads(said.stdout)
    assert snapshot["peer"] == founder.event("joined")["peer"]


@pytest.mark.parametrize("source", [[], ["127.0.0.1:9"], [DEAD], ["."]])
def test_top_says_when_nobody_answers(source: list[str], tmp_path: Path) -> None:
    said = swarm("top", "--once", *source, cwd=tmp_path, SWARM_HOME=str(tmp_path / "none"))
    assert said.returncode == 2
    assert "Traceback" not in said.stderr + said.stdout
    assert (said.stdout + said.stderr).strip()
    assert list(tmp_path.iterdir()) == []


# --- quick answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [["--help"], ["new", "--help"], ["join", "--help"], ["join", "hello"], ["top", "--once"], ["--version"]],
)
def test_what_needs_no_model_loads_none(words: list[str], tmp_path: Path) -> None:
    program = "import sys, peer.commands.main\nsys.argv[0] = 'swarm'\ntry:\n    peer.commands.main.main()\nfinally:\n    "
    program += "print('LOADED', *sorted({'torch', 'hivemind', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    said = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True, text=True, cwd=tmp_path, env=environment(SWARM_HOME=str(tmp_path / "none")), check=False,
    )  # fmt: skip
    assert said.stderr.splitlines()[-1] == "LOADED"


# --- a rehearsal and a demo ---------------------------------------------------------------------------------


def test_a_rehearsal_is_the_same_again_to_the_last_bit(tmp_path: Path) -> None:
    told = []
    for _ in range(2):
        said = swarm("rehearse", "8", "--rounds", "2", "--seed", "1", "--json", cwd=tmp_path)
        assert (said.returncode, said.stderr) == (0, "")
        told.append(events_of(said.stdout)[-1])
    fields = "event peers rounds seed transcript seconds virtual_seconds messages state_roots_equal "
    fields = (fields + "crashes messages_per_peer_per_round bytes_per_peer_per_round").split()
    assert [list(event) for event in told] == [fields, fields]
    for event in told:
        event.pop("seconds")
    assert told[0] == told[1]
    assert told[0]["state_roots_equal"] is True
    assert re.fullmatch(r"[0-9a-f]{64}", told[0]["transcript"])


def test_a_demo_ends_with_its_summary_a_model_and_no_process(tmp_path: Path) -> None:
    from peer.training.checkpoint import load_export

    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "one.py").write_text(TEXT)
    words = "demo --peers 2 --rounds 3 --steps 5 --model tiny --data text --home d --json".split()
    said = swarm(*words, cwd=tmp_path)
    assert (said.returncode, said.stderr) == (0, "")
    summary = events_of(said.stdout)[-1]
    assert (
        list(summary)
        == (
            "event peers rounds seconds parameters bits_per_byte_start bits_per_byte bits_per_byte_alone "
            "state_roots_equal bytes_up_per_peer_per_round checkpoint local_steps local_steps_alone "
            "training_seconds training_seconds_alone"
        ).split()
    )
    assert (summary["event"], summary["peers"], summary["rounds"], summary["state_roots_equal"]) == (
        "summary",
        2,
        3,
        True,
    )
    assert summary["local_steps"] == summary["local_steps_alone"] == 15
    assert summary["bits_per_byte"] < summary["bits_per_byte_start"]
    spec, tensors = load_export(tmp_path / summary["checkpoint"])
    assert sum(tensor.numel() for tensor in tensors.values()) == summary["parameters"]
    assert spec.name == "gpt"
    assert _processes_in(tmp_path) == []


def test_a_demo_says_what_kept_its_first_peer_from_starting(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = swarm("demo", "--peers", "2", "--data", "empty", "--home", "d", "--json", cwd=tmp_path)
    assert said.returncode == 1
    assert said.stderr == ""
    error = events_of(said.stdout)[-1]
    assert error["event"] == "error"
    assert "bytes of text" in error["fact"]


def test_a_demo_that_is_stopped_stops_its_peers(tmp_path: Path) -> None:
    words = "demo --peers 2 --rounds 1000 --model tiny --home d --json".split()
    command = [sys.executable, "-m", "peer", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()
    ) as demo:
        assert demo.stdout
        try:
            for line in demo.stdout:
                if json.loads(line)["event"] == "ticket":
                    break
            demo.send_signal(signal.SIGINT)
            assert demo.wait(20) == 0
        finally:
            demo.kill()
    assert _processes_in(tmp_path) == []


@pytest.mark.parametrize(
    "how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["Ctrl-C", "kill", "kill -9"]
)
def test_a_rehearsal_in_two_processes_that_is_stopped_leaves_none(
    tmp_path: Path, how: signal.Signals
) -> None:
    """Even where it was started in the background, as a shell does it: deaf to Ctrl-C."""
    deaf = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
    command = [*deaf, sys.executable, "-m", "peer", "rehearse", "66", "--rounds", "1000", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()
    ) as rehearsal:
        assert rehearsal.stdout
        try:
            assert json.loads(rehearsal.stdout.readline())["processes"] == 2
            assert json.loads(rehearsal.stdout.readline())["event"] == "round"
            assert len(psutil.Process(rehearsal.pid).children()) > 0
            rehearsal.send_signal(how)
            assert rehearsal.wait(20) != 0
        finally:
            rehearsal.kill()
    assert _processes_in(tmp_path) == []


def _processes_in(folder: Path) -> list[str]:
    """The command lines of processes that speak of ``folder`` or work in it, and have not ended after a moment."""
    found: list[str] = []
    for _ in range(50):
        found = [
            str(each.info["cmdline"])
            for each in psutil.process_iter(["cmdline", "cwd"])
            if each.info["cwd"] == str(folder)
        ]
        if not found:
            break
        time.sleep(0.1)
    return found
