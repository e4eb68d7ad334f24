"""The command line for people and for scripts: errors with advice, on the right stream, and quick answers."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from swarm.identity import KeyPair
from swarm.manifest import DataSpec, InnerSpec, ModelSpec, OuterSpec, RoundSpec, RunManifest
from swarm.ticket import Address, Entry, Ticket
from swarm.wire import PROTOCOL
from tests.edges.processes import LIMIT_SECONDS, commands_left_in, environment, events_of, run_swarm

pytestmark = pytest.mark.xdist_group("processes")

TEXT = "".join(f"def f{n}(x):\n    return x * {n} + {n * n}\n" for n in range(3000))


def entry(number: int, port: int) -> Entry:
    return Entry(KeyPair.from_seed(bytes([number]) * 32).peer_id, Address("127.0.0.1", port))


DEAD = Ticket(bytes(range(32)), (entry(1, 9), entry(2, 9))).pack()
"""A ticket of a run where nobody answers: port 9 of this computer."""


@functools.cache
def text_folder(folder: Path) -> Path:
    (folder / "t").mkdir(exist_ok=True)
    (folder / "t" / "one.txt").write_text(TEXT)
    return folder / "t"


# --- what a person did wrong --------------------------------------------------------------------------------


def only_error(words: list[str], cwd: Path, **more: str) -> tuple[int, str, str]:
    """Run a command that fails. Returns (exit status, code, advice); it prints one error, as JSON."""
    done = run_swarm(*words, "--json", cwd=cwd, **more)
    (error,) = [event for event in events_of(done.stdout) if event["event"] == "error"]
    assert done.stderr == ""
    return done.returncode, error["code"], error.get("advice", "")


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
    done = run_swarm(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    first, second = done.stderr.splitlines()
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
    status, code, advice = only_error(["join", ticket], tmp_path, SWARM_HOME=str(tmp_path / "h"))
    assert (status, code) == (2, "ticket")
    assert "copy the whole ticket" in advice


def test_the_ticket_of_a_run_that_is_over(tmp_path: Path) -> None:
    status, code, advice = only_error(["join", DEAD, "--home", "h", "--listen", "127.0.0.1:0"], tmp_path)
    assert (status, code) == (6, "nobody")
    assert "fresh ticket" in advice


def test_a_port_that_another_program_has(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, code, advice = only_error(
            ["join", DEAD, "--home", "h", "--listen", f"127.0.0.1:{port}"], tmp_path
        )
    assert (status, code) == (3, "port")
    assert "--listen" in advice


def test_an_address_that_this_computer_does_not_have(tmp_path: Path) -> None:
    status, code, _ = only_error(["join", DEAD, "--home", "h", "--listen", "192.0.2.1:0"], tmp_path)
    assert (status, code) == (3, "port")


def test_a_listen_option_that_is_no_address(tmp_path: Path) -> None:
    done = run_swarm("join", DEAD, "--listen", "nonsense", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "HOST:PORT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["join", DEAD], ["new"]], ids=["join", "new"])
def test_a_name_that_is_not_text(command: list[str], tmp_path: Path) -> None:
    done = run_swarm(*command, "--name", os.fsdecode(b"J\xfcrgen"), cwd=tmp_path, SWARM_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "not UTF-8" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_text(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, code, advice = only_error(["new", "--data", "empty", "--home", "h"], tmp_path)
    assert (status, code) == (3, "data")
    assert "--data" in advice


def test_a_model_that_does_not_exist(tmp_path: Path) -> None:
    words = ["new", "--data", str(text_folder(tmp_path)), "--model", "gpt9"]
    status, code, advice = only_error(words, tmp_path)
    assert (status, code) == (2, "config")
    assert "nano" in advice


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, code, _ = only_error(["join", DEAD, "--home", "file/h", "--listen", "127.0.0.1:0"], tmp_path)
    assert (status, code) == (3, "disk")


ON_A_FULL_DISK = f"""
import resource, runpy, signal
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(TEXT) // 2},) * 2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
runpy.run_module("peer", run_name="__main__")
"""
"""The command line in a process that may not write a file of the text's size: it fails as on a full disk."""


def test_a_full_disk(tmp_path: Path) -> None:
    words = ["new", "--data", str(text_folder(tmp_path)), "--model", "tiny", "--home", "h"]
    done = run_swarm(*words, "--listen", "127.0.0.1:0", "--json", cwd=tmp_path, python=("-c", ON_A_FULL_DISK))
    assert done.returncode == 3
    assert done.stderr == ""
    (error,) = events_of(done.stdout)
    assert (error["event"], error["code"]) == ("error", "disk")
    assert error["advice"]
    assert not list((tmp_path / "h").rglob("*.corpus*"))


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["for people", "JSON"])
def test_a_peer_whose_output_goes_to_a_full_disk_trains_to_the_end(
    options: list[str], tmp_path: Path
) -> None:
    words = "new --data t --model tiny --rounds 2 --steps 3 --round-seconds 1 --listen 127.0.0.1:0 --home h"
    text_folder(tmp_path)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "peer", *words.split(), *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(),
            timeout=LIMIT_SECONDS,
            check=False,
        )
    assert done.returncode == 0
    fact, _ = done.stderr.splitlines()
    assert fact.endswith("cannot write to standard output any more: No space left on device [disk]")
    assert (tmp_path / "h" / "model.safetensors").exists()


MANIFEST_SERVER = """
import asyncio, sys
from swarm.identity import KeyPair
from swarm.membership.contacts import Contacts
from swarm.ticket import Address
from swarm.transport import Route
from swarm.transport.http import HttpTransport

async def main():
    seed, run, sealed = map(bytes.fromhex, sys.argv[1:])
    async def manifest(call):
        return sealed
    async with HttpTransport(KeyPair.from_seed(seed), run, b"", Contacts(run)) as transport:
        transport.serve(Route("manifest", manifest))
        bound = await transport.listen(Address("127.0.0.1", 0))
        print(bound.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""
"""Serves a manifest until its standard input ends. Arguments, in hexadecimal: seed, run, manifest."""


ORGANISER_SEED = bytes([7]) * 32


def error_of_joining(protocol: int, data: DataSpec, model: ModelSpec, folder: Path) -> tuple[int, str, str]:
    """What `only_error` gives for joining a run of these numbers."""
    seed = ORGANISER_SEED
    key = KeyPair.from_seed(seed)
    manifest = RunManifest(
        protocol, "odd", key.public, 0, model, data, RoundSpec(), InnerSpec(), OuterSpec(), 1
    )
    arguments = [seed.hex(), manifest.run_id.hex(), manifest.seal(key).hex()]
    with subprocess.Popen(
        [sys.executable, "-c", MANIFEST_SERVER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as server:
        try:
            assert server.stdout
            port = int(server.stdout.readline())
            ticket = Ticket(manifest.run_id, (Entry(key.peer_id, Address("127.0.0.1", port)),)).pack()
            return only_error(["join", ticket, "--home", "h", "--listen", "127.0.0.1:0"], folder)
        finally:
            server.kill()


def test_a_run_of_a_later_version(tmp_path: Path) -> None:
    data = DataSpec(bytes(32), 5000)
    status, code, advice = error_of_joining(PROTOCOL + 1, data, ModelSpec(), tmp_path)
    assert (status, code) == (3, "version")
    assert "upgrade" in advice


@pytest.mark.parametrize(
    ("data", "model", "words"),
    [
        (DataSpec(bytes(32), 1 << 42, 1 << 22), ModelSpec(), "smaller run"),
        (DataSpec(bytes(32), 5000), ModelSpec(width=1 << 16, layers=512), "another run"),
    ],
    ids=["too large a text", "too large a model"],
)
def test_a_run_that_no_computer_can_take_part_in(
    data: DataSpec, model: ModelSpec, words: str, tmp_path: Path
) -> None:
    status, code, advice = error_of_joining(PROTOCOL, data, model, tmp_path)
    assert (status, code) == (2, "config")
    assert words in advice


def test_a_text_that_never_ends(tmp_path: Path) -> None:
    status, code, advice = only_error(["new", "--data", "/dev/zero", "--home", "h"], tmp_path)
    assert (status, code) == (3, "data")
    assert "--data" in advice


# --- quick answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [[], ["127.0.0.1:9"], [DEAD], ["."]])
def test_top_says_when_nobody_answers(source: list[str], tmp_path: Path) -> None:
    done = run_swarm("top", "--once", *source, cwd=tmp_path, SWARM_HOME=str(tmp_path / "none"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr + done.stdout
    assert (done.stdout + done.stderr).strip()
    assert list(tmp_path.iterdir()) == []


LOADED = """
import runpy, sys
try:
    runpy.run_module("peer", run_name="__main__")
finally:
    print("LOADED", *sorted({"torch", "hivemind", "numpy"} & set(sys.modules)), file=sys.stderr)
"""
"""The command line, and at its end which of the modules that take seconds to load it has loaded."""


@pytest.mark.parametrize(
    "words",
    [["--help"], ["new", "--help"], ["join", "--help"], ["join", "hello"], ["top", "--once"], ["--version"]],
)
def test_commands_that_need_no_model_load_neither_torch_nor_hivemind(
    words: list[str], tmp_path: Path
) -> None:
    done = run_swarm(*words, cwd=tmp_path, python=("-c", LOADED), SWARM_HOME=str(tmp_path / "none"))
    assert done.stderr.splitlines()[-1] == "LOADED"


# --- a demo -------------------------------------------------------------------------------------------------


def test_a_demo_ends_with_its_summary_a_model_and_no_process(tmp_path: Path) -> None:
    from peer.training.checkpoint import load_export

    words = "demo --peers 2 --rounds 3 --steps 5 --model tiny --data t --home d --json".split()
    text_folder(tmp_path)
    done = run_swarm(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    summary = events_of(done.stdout)[-1]
    assert (
        list(summary)
        == (
            "event peers rounds seconds parameters bits_per_byte_start bits_per_byte bits_per_byte_alone "
            "state_roots_equal bytes_up_per_peer_per_round checkpoint local_steps local_steps_alone "
            "training_seconds training_seconds_alone"
        ).split()
    )
    assert summary["event"] == "summary"
    assert (summary["peers"], summary["rounds"]) == (2, 3)
    assert summary["state_roots_equal"] is True
    assert summary["local_steps"] == summary["local_steps_alone"] == 15
    assert summary["bits_per_byte"] < summary["bits_per_byte_start"]
    spec, tensors = load_export(tmp_path / summary["checkpoint"])
    assert sum(tensor.numel() for tensor in tensors.values()) == summary["parameters"]
    assert spec.name == "gpt"
    assert commands_left_in(tmp_path) == []


def test_a_demo_says_what_kept_its_first_peer_from_starting(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run_swarm("demo", "--peers", "2", "--data", "empty", "--home", "d", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == ""
    error = events_of(done.stdout)[-1]
    assert error["event"] == "error"
    assert "bytes of text" in error["fact"]


def test_a_demo_that_is_stopped_stops_its_peers(tmp_path: Path) -> None:
    words = "demo --peers 2 --rounds 1000 --model tiny --data t --home d --json".split()
    text_folder(tmp_path)
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
            assert demo.wait(LIMIT_SECONDS) == 0
        finally:
            demo.kill()
    assert commands_left_in(tmp_path) == []


# --- a rehearsal --------------------------------------------------------------------------------------------


def test_a_rehearsal_is_the_same_again_to_the_last_bit(tmp_path: Path) -> None:
    summaries = []
    for _ in range(2):
        done = run_swarm("rehearse", "8", "--rounds", "2", "--seed", "1", "--json", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        summaries.append(events_of(done.stdout)[-1])
    fields = "event peers rounds seed transcript seconds virtual_seconds messages state_roots_equal "
    fields += "crashes messages_per_peer_per_round bytes_per_peer_per_round liars forks uncertified_states "
    fields = (fields + "rounds_decided rounds_decided_per_minute").split()
    assert [list(summary) for summary in summaries] == [fields, fields]
    for summary in summaries:
        summary.pop("seconds")
    assert summaries[0] == summaries[1]
    assert summaries[0]["state_roots_equal"] is True
    assert re.fullmatch(r"[0-9a-f]{64}", summaries[0]["transcript"])


def test_a_rehearsal_with_liars_says_what_became_of_the_others(tmp_path: Path) -> None:
    done = run_swarm("rehearse", "4", "--rounds", "1", "--liars", "1", "--seeds", "2", "--json", cwd=tmp_path)
    events = events_of(done.stdout)
    wrong = [event for event in events if event["event"] == "violation"]
    assert done.returncode == (4 if wrong else 0)
    assert [event["seed"] for event in events if event["event"] == "rehearsal"] == [0, 1]
    assert events[-1]["event"] == "rehearsals"
    assert all(event["replay"].startswith("swarm rehearse 4 --liars 1") for event in wrong)


FOUR_ARE_MANY = """
import runpy
import peer.simulation.scenario
peer.simulation.scenario.MANY_PEERS = 3
runpy.run_module("peer", run_name="__main__")
"""
"""The command line, but a rehearsal of four peers is one of many: it takes two processes."""
DEAF = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
"""Runs a command that ignores SIGINT, as a shell does with commands in the background."""


def check_that_a_stopped_rehearsal_leaves_no_process(
    folder: Path, python: tuple[str, str], peers: int, how: signal.Signals
) -> None:
    command = [*DEAF, sys.executable, *python, "rehearse", str(peers), "--rounds", "1000000", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment()
    ) as rehearsal:
        assert rehearsal.stdout
        try:
            assert json.loads(rehearsal.stdout.readline())["processes"] == 2
            assert json.loads(rehearsal.stdout.readline())["event"] == "round"
            assert len(psutil.Process(rehearsal.pid).children()) > 0
            rehearsal.send_signal(how)
            assert rehearsal.wait(LIMIT_SECONDS) != 0
        finally:
            rehearsal.kill()
    assert commands_left_in(folder) == []


@pytest.mark.parametrize(
    "how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["Ctrl-C", "kill", "kill -9"]
)
def test_a_rehearsal_in_two_processes_that_is_stopped_leaves_none(
    tmp_path: Path, how: signal.Signals
) -> None:
    """Also where it was started in the background of a shell, and so ignores Ctrl-C at first."""
    check_that_a_stopped_rehearsal_leaves_no_process(tmp_path, ("-c", FOUR_ARE_MANY), 4, how)


@pytest.mark.slow
def test_a_rehearsal_of_many_peers_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    """Its other process computes most of the time, and ends all the same when the first one has ended."""
    check_that_a_stopped_rehearsal_leaves_no_process(tmp_path, ("-m", "peer"), 66, signal.SIGKILL)
