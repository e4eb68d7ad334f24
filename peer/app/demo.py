"""`swarm demo`: real peer processes on the loopback interface train until the loss has clearly fallen.

Beside them, at the same time and on the same cores, one more peer trains alone in a run of its own: the same
text, model, seed and local steps, and no other peer to average with. The difference between the two models is
what averaging gave.

    peer 1 (new)  ◄── peers 2 … n (join)     the swarm; peer 1's lines are passed on
    peer alone (new)                         the comparison
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
from swarm.manifest import RunManifest, open_manifest, run_id_of

from ..observe.reporter import Reporter, RoundReport

START_SECONDS = 120.0
"""Seconds that the first peer has to print its ticket."""
STOP_SECONDS = 5.0
"""Seconds that the peers have to leave; then they are killed."""
ROUND_SECONDS = 6.0
"""Longest local training of a round; peers of equal speed are done long before. Peers publish their progress
twice in this time."""
DISAGREED = 4
"""Exit status where the peers did not agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What to show."""

    peers: int = 4
    rounds: int = 40
    steps: int = 20
    """Local steps per round."""
    model: str = "nano"
    codec: str = "int4"
    seed: int = 0
    data: Path | None = None
    home: Path | None = None
    """Folder for the peers' files; None for a new one."""


@dataclass(slots=True)
class PeerProcess:
    """One peer process and what it has printed."""

    home: Path
    process: asyncio.subprocess.Process
    rounds: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The fields of each ``round`` event, by round."""
    tickets: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    failure: dict[str, Any] | None = None
    """The fields of its ``error`` event."""
    began: float = 0.0
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds from the start of its first round to the end of its last one."""
        return self.ended - self.began

    @property
    def steps(self) -> int:
        """Local steps in all rounds."""
        return sum(report["local_steps"] for report in self.rounds.values())

    @property
    def score(self) -> float | None:
        """Bits per byte at its last evaluation; None before the first."""
        scores = [report["bits_per_byte"] for _, report in sorted(self.rounds.items())]
        return next((score for score in reversed(scores) if score is not None), None)


@dataclass(slots=True)
class DemoPeers:
    """The processes of a demo: the swarm, and the peer that trains alone."""

    swarm: list[PeerProcess] = field(default_factory=list)
    alone: PeerProcess | None = None

    @property
    def all(self) -> list[PeerProcess]:
        """The peers of the swarm, and the lone one."""
        return [*self.swarm, *([self.alone] if self.alone else [])]


async def run_demo(demo: Demo, *, json_lines: bool) -> int:
    """Run the whole demo.

    Returns 0 where all peers agreed after every round, or where the person closed the dashboard.
    """
    home = demo.home or Path(tempfile.mkdtemp(prefix="swarm-demo-"))
    reporter = Reporter(sys.stdout, json_lines)
    on_screen = sys.stdout.isatty() and not json_lines
    _report_start(demo, home, reporter, json_lines)
    began = time.monotonic()
    async with _running_peers(demo, home, None if on_screen else _Relay(reporter, json_lines)) as peers:
        is_over = await _until_all_are_done(peers.all, _dashboard(peers.swarm[0]) if on_screen else None)
    if not is_over:
        reporter.event("stopped", fact=f"stopped before the end; the peers' files are in {home}")
        return 0
    _raise_failures(peers.all)
    summary = await asyncio.to_thread(_summarise, demo, peers, time.monotonic() - began)
    if json_lines:
        reporter.event("summary", **{key: value for key, value in summary.items() if key != "sample"})
    else:
        from ..dashboard.summary import show

        show(summary)
    return 0 if summary["state_roots_equal"] else DISAGREED


def _report_start(demo: Demo, home: Path, reporter: Reporter, json_lines: bool) -> None:
    """Report what is going to run: fields for programs, a sentence for people."""
    if json_lines:
        reporter.event("demo", peers=demo.peers, rounds=demo.rounds, model=demo.model, home=str(home))
    else:
        what = f"{demo.peers} peers on this computer train a {demo.model} model for {demo.rounds} rounds"
        reporter.event("demo", fact=f"{what}; their files: {home}")


class _Relay:
    """Passes on the first peer's events, and the other peers' warnings.

    People do not see what a demo has no use for.
    """

    def __init__(self, reporter: Reporter, json_lines: bool) -> None:
        self._reporter = reporter
        self._hidden = () if json_lines else ("ticket", "checkpoint", "model")

    def pass_on(self, event: str, fields: dict[str, Any], *, is_first: bool) -> None:
        """Report one event of one peer; ``is_first`` for the first peer of the swarm."""
        if not is_first and event not in ("error", "warning"):
            return
        if event == "round":
            loss = math.nan if fields["loss"] is None else fields["loss"]
            report = msgspec.convert({"event": event, **fields, "loss": loss}, RoundReport)
            self._reporter.round_finished(report)
        elif event not in self._hidden:
            self._reporter.event(event, **fields)


@contextlib.asynccontextmanager
async def _running_peers(demo: Demo, home: Path, relay: _Relay | None) -> AsyncIterator[DemoPeers]:
    """Start the peers one by one; when the block is left, for whatever reason, none of them runs any more."""
    run = _run_options(demo)
    peers = DemoPeers()
    async with asyncio.TaskGroup() as tasks:
        try:
            first = await _start(home / "1", ["new", *run, "--start-with", str(demo.peers)])
            peers.swarm.append(first)
            tasks.create_task(_follow(first, relay, is_first=True))
            ticket = await _ticket_of(first)
            for number in range(2, demo.peers + 1):
                peers.swarm.append(await _start(home / str(number), ["join", ticket]))
                tasks.create_task(_follow(peers.swarm[-1], relay, is_first=False))
            peers.alone = await _start(home / "alone", ["new", *run])
            tasks.create_task(_follow(peers.alone, relay, is_first=False))
            yield peers
        finally:
            await _stop([peer.process for peer in peers.all])
            _cancel_on_signals()


def _run_options(demo: Demo) -> list[str]:
    """The options of `swarm new` for both runs of the demo."""
    options = {
        "--model": demo.model,
        "--codec": demo.codec,
        "--seed": demo.seed,
        "--rounds": demo.rounds,
        "--steps": demo.steps,
        "--round-seconds": ROUND_SECONDS,
        "--evaluate-every": max(1, demo.rounds // 6),
    }
    words = [word for option, value in options.items() for word in (option, str(value))]
    return [*words, "--data", str(demo.data)] if demo.data else words


async def _start(home: Path, words: list[str]) -> PeerProcess:
    """Start one peer process with its home in ``home``."""
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
        # The demo was stopped while the process was starting: nobody else would end it.
        process = await starting
        process.kill()
        raise
    return PeerProcess(home, process)


async def _ticket_of(first: PeerProcess) -> str:
    """Return the ticket that the first peer prints. Raises what kept it from printing one."""
    try:
        # Not wait_for: on Python 3.11 it loses a Ctrl-C that comes together with the ticket.
        async with asyncio.timeout(START_SECONDS):
            ticket = await first.tickets.get()
    except TimeoutError as error:
        advice = "see what it prints by itself: swarm new --listen 127.0.0.1:0"
        raise Unreachable("the first peer did not start in time", advice) from error
    if not ticket:
        await first.process.wait()
        _raise_failures([first])
    return ticket


async def _follow(peer: PeerProcess, relay: _Relay | None, *, is_first: bool) -> None:
    """Keep what a peer prints, and give it to ``relay``, until the peer ends."""
    if peer.process.stdout is None:
        return
    async for raw in peer.process.stdout:
        fields = json.loads(raw)
        event = fields.pop("event")
        if event == "round":
            peer.ended = time.monotonic()
            peer.began = peer.began or peer.ended - fields["seconds"]
            peer.rounds[fields["round"]] = fields
        elif event == "ticket":
            peer.tickets.put_nowait(fields["ticket"])
        elif event == "error":
            peer.failure = fields
        if relay and event != "error":  # an error ends the demo, which reports it as its own
            relay.pass_on(event, fields, is_first=is_first)
    peer.tickets.put_nowait("")  # wakes `_ticket_of`: there will be no ticket


async def _until_all_are_done(peers: list[PeerProcess], dashboard: Coroutine[Any, Any, int] | None) -> bool:
    """Wait for all peers to end, or for one to fail.

    Returns False where the person has closed the dashboard before.
    """
    processes = [asyncio.create_task(peer.process.wait()) for peer in peers]
    screens = [asyncio.create_task(dashboard)] if dashboard else []
    try:
        while not all(task.done() for task in processes) and not any(
            peer.process.returncode for peer in peers
        ):
            await asyncio.wait(
                [task for task in (*processes, *screens) if not task.done()],
                return_when=asyncio.FIRST_COMPLETED,
            )
            for screen in filter(asyncio.Task.done, screens):
                screen.result()
                return False
        return True
    finally:
        for task in (*processes, *screens):
            task.cancel()
        await asyncio.gather(*processes, *screens, return_exceptions=True)


def _cancel_on_signals() -> None:
    """Make Ctrl-C and SIGTERM cancel this task again, after the dashboard and `_stop` used them."""
    task = asyncio.current_task()
    if task and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


async def _dashboard(peer: PeerProcess) -> int:
    """Show the dashboard on the status page of ``peer``."""
    from ..dashboard.app import watch
    from ..observe.snapshot import Snapshot
    from ..observe.status_page import fetch

    async def source() -> Snapshot:
        try:
            address = (peer.home / "status").read_text().partition("\n")[0]
        except OSError as error:
            raise Unreachable("the first peer is starting, or has just finished") from error
        return await fetch(address, asyncio.get_running_loop().time() + 2)

    return await watch(source)


async def _stop(processes: list[asyncio.subprocess.Process]) -> None:
    """Ask all to leave; kill those that do not within `STOP_SECONDS`. A second Ctrl-C kills them at once."""
    running = [process for process in processes if process.returncode is None]
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, _kill, running)
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


def _raise_failures(peers: list[PeerProcess]) -> None:
    """Raise the first peer's failure, with the fact and the advice that the peer gave."""
    for peer in peers:
        if peer.failure or peer.process.returncode:
            failure = peer.failure or {}
            fact = failure.get("fact", "see above")
            raise SwarmError(
                f"the peer in {peer.home} ended with {peer.process.returncode}: {fact}",
                failure.get("advice", ""),
            )


def _summarise(demo: Demo, peers: DemoPeers, seconds: float) -> dict[str, Any]:
    """Return the fields of the last event, and ``sample``.

    Raises `SwarmError` where the first peer's text is damaged.
    """
    from ..models.registry import build, count
    from ..training.checkpoint import load_export
    from ..training.evaluate import sample

    swarm = peers.swarm
    alone = peers.alone
    home = swarm[0].home
    spec, tensors = load_export(home / "model.safetensors")
    sealed = (home / "manifest").read_bytes()
    manifest = open_manifest(sealed, run_id_of(sealed))
    model = build(spec, manifest.seed)
    model.load_state_dict(tensors)
    return {
        "peers": demo.peers,
        "rounds": len(swarm[0].rounds),
        "seconds": round(seconds, 1),
        "parameters": count(spec),
        "bits_per_byte_start": _score_of_fresh_model(home, manifest),
        "bits_per_byte": swarm[0].score,
        "bits_per_byte_alone": alone.score if alone else None,
        "state_roots_equal": _have_agreed(swarm),
        "bytes_up_per_peer_per_round": _mean_upload(swarm),
        "checkpoint": str(home / "model.safetensors"),
        "local_steps": max(peer.steps for peer in swarm),
        "local_steps_alone": alone.steps if alone else 0,
        "training_seconds": round(max(peer.seconds for peer in swarm), 1),
        "training_seconds_alone": round(alone.seconds, 1) if alone else 0.0,
        "sample": sample(model, b"def ", 400, manifest.seed),
    }


def _score_of_fresh_model(home: Path, manifest: RunManifest) -> float:
    """Bits per byte of the untrained model on the held-out text in ``home``."""
    from ..data.corpus import open_saved
    from ..training.learner import Learner

    corpus = open_saved(home / "data", manifest.data)
    if corpus is None:
        raise SwarmError(f"the training text in {home / 'data'} is damaged", "run the demo again")
    return Learner(manifest, corpus, manifest.organiser_id).evaluate()


def _common_rounds(peers: list[PeerProcess]) -> list[int]:
    """The rounds that every peer has reported."""
    return sorted(set.intersection(*(set(peer.rounds) for peer in peers)))


def _have_agreed(peers: list[PeerProcess]) -> bool:
    """Whether all peers reported the same state root, in every round of the first peer."""
    return bool(_common_rounds(peers)) and all(_agree(peers, round_) for round_ in peers[0].rounds)


def _agree(peers: list[PeerProcess], round_: int) -> bool:
    return len({peer.rounds[round_]["state_root"] for peer in peers if round_ in peer.rounds}) == 1


def _mean_upload(peers: list[PeerProcess]) -> int:
    """Mean bytes sent per peer and common round, without the first: it includes sending text and model."""
    rounds = _common_rounds(peers)[1:]
    uploads = [peer.rounds[round_]["bytes_up"] for peer in peers for round_ in rounds]
    return round(sum(uploads) / len(uploads)) if uploads else 0
