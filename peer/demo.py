"""`swarm demo`: real peer processes on the loopback interface train until the loss has clearly fallen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarm.errors import SwarmError, Unreachable
from swarm.manifest import open_manifest, run_id_of

from .report import Reporter

START_SECONDS = 120.0
STOP_SECONDS = 5.0
ROUND_SECONDS = 20.0
"""Deadline of a demo's round; peers of equal speed are ready long before it."""


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


async def play(demo: Demo, *, json_lines: bool) -> int:
    """The whole demo; 0 where all peers agreed after every round."""
    home = demo.home or Path(tempfile.mkdtemp(prefix="swarm-demo-"))
    reporter = Reporter(sys.stdout, json_lines)
    on_screen = sys.stdout.isatty() and not json_lines
    reporter.event("demo", peers=demo.peers, rounds=demo.rounds, model=demo.model, home=str(home))
    began = time.monotonic()
    async with _stage(demo, home, None if on_screen else reporter) as actors:
        await _until_all_are_done(actors, _screen(actors[0]) if on_screen else None)
    _check(actors)
    seconds = time.monotonic() - began
    reporter.event("alone", fact="one peer alone now does the same local steps, to compare")
    summary = await asyncio.to_thread(_summarise, demo, actors, seconds)
    if json_lines:
        reporter.event("summary", **{key: value for key, value in summary.items() if key != "sample"})
    else:
        from .dashboard.summary import show

        show(summary)
    return 0 if summary["state_roots_equal"] else 4


@contextlib.asynccontextmanager
async def _stage(demo: Demo, home: Path, reporter: Reporter | None) -> AsyncIterator[list[Actor]]:
    """The peers, started one by one; whatever happens, none of them is left when the block is."""
    run = ["--model", demo.model, "--codec", demo.codec, "--seed", str(demo.seed), "--rounds", str(demo.rounds)]
    pace = ["--steps", str(demo.steps), "--round-seconds", str(ROUND_SECONDS), "--evaluate-every", str(max(1, demo.rounds // 6))]
    pace += ["--start-with", str(demo.peers)]
    data = ["--data", str(demo.data)] if demo.data else []
    actors: list[Actor] = []
    async with asyncio.TaskGroup() as readers:
        try:
            first = await _start(home / "1", ["new", *run, *pace, *data])
            actors.append(first)
            readers.create_task(_read(first, reporter, speaks=True))
            ticket = await asyncio.wait_for(first.tickets.get(), START_SECONDS)
            for number in range(2, demo.peers + 1):
                actors.append(await _start(home / str(number), ["join", ticket]))
                readers.create_task(_read(actors[-1], reporter, speaks=False))
            yield actors
        except TimeoutError as error:
            raise Unreachable(
                "the first peer did not start in time", "look for what it says: swarm new --listen 127.0.0.1:0"
            ) from error
        finally:
            await _stop([actor.process for actor in actors])


async def _start(home: Path, words: list[str]) -> Actor:
    command = [sys.executable, "-m", "peer", *words, "--home", str(home), "--listen", "127.0.0.1:0", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env=environment, start_new_session=True, limit=1 << 20
    )
    return Actor(home, process)


async def _read(actor: Actor, reporter: Reporter | None, *, speaks: bool) -> None:
    """Take note of what a peer prints; the first one speaks for all."""
    if actor.process.stdout is None:
        return
    async for raw in actor.process.stdout:
        said = json.loads(raw)
        event = said.pop("event")
        if event == "round":
            actor.rounds[said["round"]] = said
        elif event == "ticket":
            actor.tickets.put_nowait(said["ticket"])
        elif event == "error":
            actor.failure = said
        if reporter and (speaks or event in ("error", "warning")):
            reporter.event(event, **said)


async def _until_all_are_done(actors: list[Actor], screen: Any) -> None:
    """Wait for all peers to end by themselves; a closed screen ends the demo."""
    everyone = asyncio.gather(*(actor.process.wait() for actor in actors))
    if screen is None:
        await everyone
        return
    watching = asyncio.create_task(screen)
    try:
        await asyncio.wait({everyone, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        everyone.cancel()
        await asyncio.gather(watching, everyone, return_exceptions=True)


async def _screen(actor: Actor) -> int:
    """The dashboard, on the first peer's status page."""
    from .dashboard.app import watch
    from .status import Snapshot
    from .statuspage import fetch

    async def source() -> Snapshot:
        file = actor.home / "status"
        if not file.exists():
            raise Unreachable("the first peer is starting")
        return await fetch(file.read_text().partition("\n")[0], asyncio.get_running_loop().time() + 2)

    return await watch(source)


async def _stop(processes: list[asyncio.subprocess.Process]) -> None:
    """Ask all to leave; end those that do not within `STOP_SECONDS`."""
    running = [process for process in processes if process.returncode is None]
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
    if running:
        await asyncio.wait([asyncio.create_task(process.wait()) for process in running], timeout=STOP_SECONDS)
    for process in running:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _check(actors: list[Actor]) -> None:
    """A peer that failed is the demo's failure, in its own words."""
    for actor in actors:
        if actor.failure or actor.process.returncode:
            said = actor.failure or {}
            fact = f"the peer in {actor.home} ended with {actor.process.returncode}: {said.get('fact', 'see above')}"
            raise SwarmError(fact, said.get("advice", ""))


def _summarise(demo: Demo, actors: list[Actor], seconds: float) -> dict[str, Any]:
    """The table: the shared model, the lone peer's, and what the swarm cost."""
    from .alone import train_alone
    from .checkpoint import load_export
    from .data.corpus import open_saved
    from .evaluate import sample
    from .model import build, count

    first = actors[0].home
    sealed = (first / "manifest").read_bytes()
    manifest = open_manifest(sealed, run_id_of(sealed))
    corpus = open_saved(first / "data", manifest.data)
    if corpus is None:
        raise SwarmError(f"the training text in {first / 'data'} is damaged", "run the demo again")
    everyone = sorted(set.intersection(*(set(actor.rounds) for actor in actors)))
    rounds = sorted(actors[0].rounds)
    steps = [max(actor.rounds[round_]["local_steps"] for actor in actors if round_ in actor.rounds) for round_ in rounds]
    start, alone = train_alone(manifest, corpus, steps)
    scores = [said["bits_per_byte"] for _, said in sorted(actors[0].rounds.items()) if said["bits_per_byte"] is not None]
    spec, tensors = load_export(first / "model.safetensors")
    model = build(spec, manifest.seed)
    model.load_state_dict(tensors)
    up = [said["bytes_up"] for actor in actors for round_, said in actor.rounds.items() if round_ in everyone[1:]]
    return {
        "peers": demo.peers,
        "rounds": len(actors[0].rounds),
        "seconds": round(seconds, 1),
        "parameters": count(spec),
        "bits_per_byte_start": start,
        "bits_per_byte": scores[-1] if scores else None,
        "bits_per_byte_alone": alone,
        "state_roots_equal": bool(everyone) and all(_agree(actors, round_) for round_ in rounds),
        "bytes_up_per_peer_per_round": round(sum(up) / len(up)) if up else 0,
        "checkpoint": str(first / "model.safetensors"),
        "sample": sample(model, b"def ", 400, manifest.seed),
    }


def _agree(actors: list[Actor], round_: int) -> bool:
    return len({actor.rounds[round_]["state_root"] for actor in actors if round_ in actor.rounds}) == 1
