"""Faults are drawn from a seed, hit the child and no other process, and leave no process behind."""

import asyncio
import io
import json
import os
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from peer.app.chaos import FREEZE, KILL, Chaos, faults, supervise
from peer.observe.reporter import Reporter
from swarm.errors import ConfigError

BOTH = Chaos(kill_every=30, freeze_every=60, seed="a")
PATIENCE = 30.0


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def pids_in(log: Path) -> list[int]:
    return [int(pid) for pid in log.read_text().split()] if log.exists() else []


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- the plan -----------------------------------------------------------------------------------------------


def test_the_same_seed_has_the_same_faults() -> None:
    assert list(islice(faults(BOTH), 100)) == list(islice(faults(BOTH), 100))


def test_another_seed_has_others() -> None:
    other = Chaos(kill_every=30, freeze_every=60, seed="b")
    assert list(islice(faults(BOTH), 10)) != list(islice(faults(other), 10))


def test_accidents_come_as_often_as_was_asked_for() -> None:
    drawn = list(islice(faults(BOTH), 3000))
    seconds, kinds = sum(wait for wait, _ in drawn), Counter(kind for _, kind in drawn)
    assert seconds / kinds[KILL] == pytest.approx(30, rel=0.1)
    assert seconds / kinds[FREEZE] == pytest.approx(60, rel=0.1)


@pytest.mark.parametrize(("kill", "freeze", "kinds"), [(5, 0, {KILL}), (0, 5, {FREEZE}), (0, 0, set())])
def test_a_fault_that_is_switched_off_never_happens(kill: float, freeze: float, kinds: set[str]) -> None:
    drawn = islice(faults(Chaos(kill_every=kill, freeze_every=freeze)), 200)
    assert {kind for _, kind in drawn} == kinds


@pytest.mark.parametrize("every", [-1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(every: float) -> None:
    with pytest.raises(ConfigError):
        Chaos(kill_every=every)


# --- the supervisor -----------------------------------------------------------------------------------------


async def supervised(command: tuple[str, ...], chaos: Chaos) -> tuple[int, list[dict[str, object]]]:
    out = io.StringIO()
    async with asyncio.timeout(PATIENCE):
        status = await supervise(command, chaos, Reporter(out, json_lines=True))
    return status, [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("ending", "status"), [("raise SystemExit(7)", 7), ("", 0), ("import os; os.kill(os.getpid(), 15)", 143)]
)
async def test_the_command_s_own_end_is_the_end(ending: str, status: int) -> None:
    assert await supervised(python(ending), Chaos(kill_every=0)) == (status, [])


@pytest.mark.asyncio
async def test_a_killed_command_is_started_again(tmp_path: Path) -> None:
    """Each process writes down its id; the third one ends by itself."""
    log = tmp_path / "log"
    text = (
        f"import os, time; d = open({str(log)!r}, 'a+'); d.write(f'{{os.getpid()}}\\n'); d.flush(); d.seek(0)"
    )
    text += "\nif len(d.readlines()) < 3: time.sleep(600)"
    status, told = await supervised(python(text), Chaos(kill_every=0.5, pause=0))
    pids = pids_in(log)
    assert status == 0
    assert len(set(pids)) == len(pids) >= 3
    assert {event["fault"] for event in told} == {KILL}
    assert set(pids[:2]) <= {event["pid"] for event in told}
    assert not any(is_running(pid) for pid in pids)


@pytest.mark.asyncio
async def test_a_frozen_command_goes_on_as_the_same(tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = f"import os, time; open({str(log)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(1)"
    status, told = await supervised(python(text), Chaos(kill_every=0, freeze_every=0.1, pause=0.05))
    assert status == 0
    assert len(pids_in(log)) == 1
    assert {event["fault"] for event in told} == {FREEZE}


@pytest.mark.asyncio
async def test_stopping_the_supervisor_stops_the_command(tmp_path: Path) -> None:
    """The child is asked to leave, and may say goodbye."""
    log = tmp_path / "log"
    text = "import os, signal, sys, time\n"
    text += f"def bye(*_): open({str(log)!r}, 'a').write('0\\n'); sys.exit(0)\n"
    text += "signal.signal(signal.SIGINT, bye)\n"
    text += f"open({str(log)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(600)"
    async with asyncio.timeout(PATIENCE):
        task = asyncio.create_task(supervise(python(text), Chaos(kill_every=0), Reporter(io.StringIO())))
        while not pids_in(log):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    pid, goodbye = pids_in(log)
    assert goodbye == 0
    assert not is_running(pid)


@pytest.mark.asyncio
async def test_a_command_that_cannot_be_started_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot start '/nowhere/program'"):
        await supervised(("/nowhere/program",), Chaos())
