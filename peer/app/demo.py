"""`swarm demo`: real peer processes on the loopback interface train until the loss has clearly fallen.

Beside them, at the same time and on the same cores, one more peer trains in a run of its own: the same text, model, seed and local
steps, and nobody to average with. What the swarm's model is better than that is what averaging gave.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from swarm.errors import SwarmError, Unreachable
from swarm.manifest import open_manifest, run_id_of

from ..observe.reporter import Reporter, RoundReport

START_SECONDS = 120.0
STOP_SECONDS = 5.0
ROUND_SECONDS = 6.0
"""Deadline of a demo's round; peers of equal speed are ready long before it. Peers tell how they are twice in this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What to show."""

    peers: int = 4
    rounds: int = 40
    steps: int = 20
    model: str = "nano"
    codec: str = "int4"
    seed: int = 0
    data: Path | None = None
    home: Path | None = None


@dataclass(slots=True)
class Actor:
    """One peer process and what it has said."""

    home: Path
    process: asyncio.subprocess.Process
    rounds: dict[int, dict[str, Any]] = field(default_factory=dict)
    tickets: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    failure: dict[str, Any] | None = None
    began: float = 0.0
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """From its first round to the end of its last one."""
        return self.ended - self.began

    @property
    def steps(self) -> int:
        """Local steps in all."""
        return sum(said["local_steps"] for said in self.rounds.values())

    @property
    def score(self) -> float | None:
        """Bits per byte at its last evaluation."""
        scores = [said["bits_per_byte"] for _, said in sorted(self.rounds.items())]
        return next((score for score in reversed(scores) if score is not None), None)


@dataclass(slots=True)
class Cast:
    """Everybody on stage."""

    swarm: list[Actor] = field(default_factory=list)
    alone: Actor | None = None

    @property
    def all(self) -> list[Actor]:
        """The peers of the swarm, and the lone one."""
        return [*self.swarm, *([self.alone] if self.alone else [])]


async def play(demo: Demo, *, json_lines: bool) -> int:
    """The whole demo; 0 where all peers agreed after every round."""
    home = demo.home or Path(tempfile.mkdtemp(prefix="swarm-demo-"))
    reporter = Reporter(sys.stdout, json_lines)
    on_screen = sys.stdout.isatty() and not json_lines
    told = {"peers": demo.peers, "rounds": demo.rounds, "model": demo.model, "home": str(home)}
    sentence = f"{demo.peers} peers on this computer train a {demo.model} model for {demo.rounds} rounds; their files: {home}"
    reporter.event("demo", **(told if json_lines else {"fact": sentence}))
    began = time.monotonic()
    async with _stage(demo, home, None if on_screen else _Narrator(reporter, json_lines)) as cast:
        is_over = await _until_all_are_done(cast.all, _screen(cast.swarm[0]) if on_screen else None)
    if not is_over:
        reporter.event("stopped", fact=f"stopped before the end; what the peers have saved lies in {home}")
        return 0
    _check(cast.all)
    summary = await asyncio.to_thread(_summarise, demo, cast, time.monotonic() - began)
    if json_lines:
        reporter.event("summary", **{key: value for key, value in summary.items() if key != "sample"})
    else:
        from ..dashboard.summary import show

        show(summary)
    return 0 if summary["state_roots_equal"] else 4


class _Narrator:
    """Passes on what the first peer says, and what troubles the others; for people without what is not for a demo."""

    def __init__(self, reporter: Reporter, json_lines: bool) -> None:
        self._reporter = reporter
        self._not_told = () if json_lines else ("ticket", "checkpoint", "model")

    def tell(self, event: str, said: dict[str, Any], *, speaks: bool) -> None:
        """One event of one peer."""
        if not speaks and event not in ("error", "warning"):
            return
        if event == "round":
            loss = math.nan if said["loss"] is None else said["loss"]
            self._reporter.round_finished(
                msgspec.convert({"event": event, **said, "loss": loss}, RoundReport)
            )
        elif event not in self._not_told:
            self._reporter.event(event, **said)


@contextlib.asynccontextmanager
async def _stage(demo: Demo, home: Path, narrator: _Narrator | None) -> AsyncIterator[Cast]:
    """The peers, started one by one; whatever happens, none of them is left when the block is."""
    run = [
        "--model",
        demo.model,
        "--codec",
        demo.codec,
        "--seed",
        str(demo.seed),
        "--rounds",
        str(demo.rounds),
    ]
    pace = [
        "--steps",
        str(demo.steps),
        "--round-seconds",
        str(ROUND_SECONDS),
        "--evaluate-every",
        str(max(1, demo.rounds // 6)),
    ]
    data = ["--data", str(demo.data)] if demo.data else []
    cast = Cast()
    async with asyncio.TaskGroup() as tasks:
        try:
            first = await _start(home / "1", ["new", *run, *pace, *data, "--start-with", str(demo.peers)])
            cast.swarm.append(first)
            tasks.create_task(_read(first, narrator, speaks=True))
            ticket = await _ticket_of(first)
            for number in range(2, demo.peers + 1):
                cast.swarm.append(await _start(home / str(number), ["join", ticket]))
                tasks.create_task(_read(cast.swarm[-1], narrator, speaks=False))
            cast.alone = await _start(home / "alone", ["new", *run, *pace, *data])
            tasks.create_task(_read(cast.alone, narrator, speaks=False))
            yield cast
        finally:
            await _stop([actor.process for actor in cast.all])
            _stop_on_signals()


async def _start(home: Path, words: list[str]) -> Actor:
    command = [sys.executable, "-m", "peer", *words, "--home", str(home), "--listen", "127.0.0.1:0", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, env=environment, start_new_session=True, limit=1 << 20
        )
    )
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        (
            await starting
        ).kill()  # it began in the moment in which the demo was stopped: nobody else knows of it
        raise
    return Actor(home, process)


async def _ticket_of(first: Actor) -> str:
    """The ticket that the first peer prints. Raises what kept it from printing one."""
    try:
        async with asyncio.timeout(
            START_SECONDS
        ):  # not wait_for: on Python 3.11 it loses a Ctrl-C that comes with the ticket
            ticket = await first.tickets.get()
    except TimeoutError as error:
        advice = "look for what it says: swarm new --listen 127.0.0.1:0"
        raise Unreachable("the first peer did not start in time", advice) from error
    if not ticket:
        await first.process.wait()
        _check([first])
    return ticket


async def _read(actor: Actor, narrator: _Narrator | None, *, speaks: bool) -> None:
    """Take note of what a peer prints; the first one speaks for all."""
    if actor.process.stdout is None:
        return
    async for raw in actor.process.stdout:
        said = json.loads(raw)
        event = said.pop("event")
        if event == "round":
            actor.ended = time.monotonic()
            actor.began = actor.began or actor.ended - said["seconds"]
            actor.rounds[said["round"]] = said
        elif event == "ticket":
            actor.tickets.put_nowait(said["ticket"])
        elif event == "error":
            actor.failure = said
        if narrator and event != "error":  # an error ends the demo, which tells it as its own
            narrator.tell(event, said, speaks=speaks)
    actor.tickets.put_nowait("")  # whoever still waits for one waits in vain


async def _until_all_are_done(actors: list[Actor], screen: Coroutine[Any, Any, int] | None) -> bool:
    """Wait for all peers to end, or for one to fail; False where the person has closed the screen before."""
    running = [asyncio.create_task(actor.process.wait()) for actor in actors]
    watching = [asyncio.create_task(screen)] if screen else []
    try:
        while not all(task.done() for task in running) and not any(
            actor.process.returncode for actor in actors
        ):
            await asyncio.wait(
                [task for task in (*running, *watching) if not task.done()],
                return_when=asyncio.FIRST_COMPLETED,
            )
            for screen_ended in filter(asyncio.Task.done, watching):
                screen_ended.result()
                return False
        return True
    finally:
        for task in (*running, *watching):
            task.cancel()
        await asyncio.gather(*running, *watching, return_exceptions=True)


def _stop_on_signals() -> None:
    """Ctrl-C and a kill end what is left of the demo: the dashboard, and the end of the peers, have had these signals meanwhile."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if task and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)


async def _screen(actor: Actor) -> int:
    """The dashboard, on the first peer's status page."""
    from ..dashboard.app import watch
    from ..observe.snapshot import Snapshot
    from ..observe.status_page import fetch

    async def source() -> Snapshot:
        try:
            address = (actor.home / "status").read_text().partition("\n")[0]
        except OSError as error:
            raise Unreachable("the first peer is starting, or has just finished") from error
        return await fetch(address, asyncio.get_running_loop().time() + 2)

    return await watch(source)


async def _stop(processes: list[asyncio.subprocess.Process]) -> None:
    """Ask all to leave; end those that do not within `STOP_SECONDS`."""
    running = [process for process in processes if process.returncode is None]
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
    for number in (
        (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    ):
        asyncio.get_running_loop().add_signal_handler(
            number, _kill, running
        )  # asked twice: at once, and leave nobody behind
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await asyncio.gather(*(process.wait() for process in running))
    _kill(running)
    for process in running:
        await process.wait()


def _kill(processes: list[asyncio.subprocess.Process]) -> None:
    for process in processes:
        if process.returncode is None:
            process.kill()


def _check(actors: list[Actor]) -> None:
    """A peer that failed is the demo's failure, in its own words."""
    for actor in actors:
        if actor.failure or actor.process.returncode:
            said = actor.failure or {}
            fact = f"the peer in {actor.home} ended with {actor.process.returncode}: {said.get('fact', 'see above')}"
            raise SwarmError(fact, said.get("advice", ""))


def _summarise(demo: Demo, cast: Cast, seconds: float) -> dict[str, Any]:
    """The table: the shared model, the lone peer's, and what the swarm cost."""
    from ..data.corpus import open_saved
    from ..models.registry import build, count
    from ..training.checkpoint import load_export
    from ..training.evaluate import sample
    from ..training.learner import Learner

    actors, alone, first = cast.swarm, cast.alone, cast.swarm[0].home
    sealed = (first / "manifest").read_bytes()
    manifest = open_manifest(sealed, run_id_of(sealed))
    corpus = open_saved(first / "data", manifest.data)
    if corpus is None:
        raise SwarmError(f"the training text in {first / 'data'} is damaged", "run the demo again")
    everyone = sorted(set.intersection(*(set(actor.rounds) for actor in actors)))
    spec, tensors = load_export(first / "model.safetensors")
    model = build(spec, manifest.seed)
    model.load_state_dict(tensors)
    up = [
        said["bytes_up"]
        for actor in actors
        for round_, said in actor.rounds.items()
        if round_ in everyone[1:]
    ]
    return {
        "peers": demo.peers,
        "rounds": len(actors[0].rounds),
        "seconds": round(seconds, 1),
        "parameters": count(spec),
        "bits_per_byte_start": Learner(manifest, corpus, manifest.organiser_id).evaluate(),
        "bits_per_byte": actors[0].score,
        "bits_per_byte_alone": alone.score if alone else None,
        "state_roots_equal": bool(everyone) and all(_agree(actors, round_) for round_ in actors[0].rounds),
        "bytes_up_per_peer_per_round": round(sum(up) / len(up)) if up else 0,
        "checkpoint": str(first / "model.safetensors"),
        "local_steps": max(actor.steps for actor in actors),
        "local_steps_alone": alone.steps if alone else 0,
        "training_seconds": round(max(actor.seconds for actor in actors), 1),
        "training_seconds_alone": round(alone.seconds, 1) if alone else 0.0,
        "sample": sample(model, b"def ", 400, manifest.seed),
    }


def _agree(actors: list[Actor], round_: int) -> bool:
    return len({actor.rounds[round_]["state_root"] for actor in actors if round_ in actor.rounds}) == 1
