"""Accidents are drawn from a seed, meet the child and nobody else, and leave no process behind."""

import asyncio
import io
import json
import os
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from peer.app.chaos import FREEZE, KILL, Chaos, accidents, supervise
from peer.observe.reporter import Reporter
from swarm.errors import ConfigError

BOTH = Chaos(kill_every=30, freeze_every=60, seed="a")
PATIENCE = 30.0


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def lives_of(diary: Path) -> list[int]:
    return [int(pid) for pid in diary.read_text().split()] if diary.exists() else []


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- the plan -----------------------------------------------------------------------------------------------


def test_the_same_seed_has_the_same_accidents() -> None:
    assert list(islice(accidents(BOTH), 100)) == list(islice(accidents(BOTH), 100))


def test_another_seed_has_others() -> None:
    other = Chaos(kill_every=30, freeze_every=60, seed="b")
    assert list(islice(accidents(BOTH), 10)) != list(islice(accidents(other), 10))


def test_accidents_come_as_often_as_was_asked_for() -> None:
    drawn = list(islice(accidents(BOTH), 3000))
    seconds, deeds = sum(quiet for quiet, _ in drawn), Counter(deed for _, deed in drawn)
    assert seconds / deeds[KILL] == pytest.approx(30, rel=0.1)
    assert seconds / deeds[FREEZE] == pytest.approx(60, rel=0.1)


@pytest.mark.parametrize(("kill", "freeze", "deeds"), [(5, 0, {KILL}), (0, 5, {FREEZE}), (0, 0, set())])
def test_what_should_never_happen_does_not(kill: float, freeze: float, deeds: set[str]) -> None:
    drawn = islice(accidents(Chaos(kill_every=kill, freeze_every=freeze)), 200)
    assert {deed for _, deed in drawn} == deeds


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
async def test_a_killed_command_lives_again(tmp_path: Path) -> None:
    """Each life notes itself; the third one ends by itself."""
    diary = tmp_path / "diary"
    text = f"import os, time; d = open({str(diary)!r}, 'a+'); d.write(f'{{os.getpid()}}\\n'); d.flush(); d.seek(0)"
    text += "\nif len(d.readlines()) < 3: time.sleep(600)"
    status, told = await supervised(python(text), Chaos(kill_every=0.5, pause=0))
    lives = lives_of(diary)
    assert status == 0
    assert len(set(lives)) == len(lives) >= 3
    assert {said["deed"] for said in told} == {KILL}
    assert set(lives[:2]) <= {said["pid"] for said in told}
    assert not any(is_running(pid) for pid in lives)


@pytest.mark.asyncio
async def test_a_frozen_command_goes_on_as_the_same(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    text = f"import os, time; open({str(diary)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(1)"
    status, told = await supervised(python(text), Chaos(kill_every=0, freeze_every=0.1, pause=0.05))
    assert status == 0
    assert len(lives_of(diary)) == 1
    assert {said["deed"] for said in told} == {FREEZE}


@pytest.mark.asyncio
async def test_who_stops_the_supervisor_stops_the_command(tmp_path: Path) -> None:
    """The child is asked to leave, and may say goodbye."""
    diary = tmp_path / "diary"
    text = "import os, signal, sys, time\n"
    text += f"def bye(*_): open({str(diary)!r}, 'a').write('0\\n'); sys.exit(0)\n"
    text += f"signal.signal(signal.SIGINT, bye); open({str(diary)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(600)"
    async with asyncio.timeout(PATIENCE):
        task = asyncio.create_task(supervise(python(text), Chaos(kill_every=0), Reporter(io.StringIO())))
        while not lives_of(diary):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    pid, goodbye = lives_of(diary)
    assert goodbye == 0
    assert not is_running(pid)


@pytest.mark.asyncio
async def test_what_cannot_be_started_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot start '/nowhere/program'"):
        await supervised(("/nowhere/program",), Chaos())
