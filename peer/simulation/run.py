"""`swarm rehearse`: many peers in one process, on virtual time, with the code that real peers run and a real (tiny) model.

What is simulated: the network, the clock, the DHT's delays, and how long arithmetic takes. Nothing else: the same machines sign,
check and average the same bytes. The same seed gives the same rehearsal, to the last bit of the last model.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing.connection import Connection, wait

import torch

from swarm.seeds import derive_bytes
from swarm.simulation.clock import simulate
from swarm.simulation.shards import ShardLost, heard

from ..observe.reporter import Reporter, RoundReport
from .peers import RehearsalResult, SimulatedPeers, silent
from .scenario import Scenario

GOODBYE_SECONDS = 5.0
"""For the other processes of a rehearsal to end."""
GARBAGE = (50_000, 20, 50)
"""How many new objects make the collector look: hundreds of peers have many that stay. A tenth of the time goes without this."""


def rehearse(
    scenario: Scenario, tell: Callable[[RoundReport], None] = lambda report: None, *, listen: bool = False
) -> RehearsalResult:
    """Run the rehearsal to its end; ``tell`` hears every round as it comes. ``listen`` keeps what was said."""
    parts = _performed(scenario, tell, listen)
    told = {name: book for part in parts for name, book in part.notebooks.items()}
    roots = "".join(said.state_root for name in sorted(told) for said in told[name].rounds)
    return RehearsalResult(
        notebooks={name: told[name] for name in sorted(told, key=lambda name: int(name[1:]))},
        transcript=derive_bytes(b"transcript", *(part.transcript for part in parts), roots).hex(),
        parameters=parts[0].parameters,
        messages=sum(part.messages for part in parts),
        sent={name: sent for part in parts for name, sent in part.sent.items()},
        looked={name: looked for part in parts for name, looked in part.looked.items()},
        crashes=sum(part.crashes for part in parts),
        virtual_seconds=max(part.virtual_seconds for part in parts),
        leftovers=tuple(name for part in parts for name in part.leftovers),
        heard=tuple(sorted((word for part in parts for word in part.heard), key=lambda word: word.time)),
    )


def _performed(
    scenario: Scenario, tell: Callable[[RoundReport], None], listen: bool
) -> list[RehearsalResult]:
    """What came of each shard. The first is played here; all end where one of them fails."""
    if scenario.shards > 1 and scenario.faults.plan:
        raise ValueError("faults are for rehearsals in one process")
    context = multiprocessing.get_context("spawn")
    ends: list[dict[int, Connection]] = [{} for _ in range(scenario.shards)]
    for a, b in itertools.combinations(range(scenario.shards), 2):
        ends[a][b], ends[b][a] = context.Pipe()
    others = [
        context.Process(target=_perform, args=(scenario, listen, n, ends[n]), daemon=True)
        for n in range(1, scenario.shards)
    ]
    try:
        for other, lines in zip(others, ends[1:], strict=True):
            other.start()
            _close(lines)  # theirs now: when they end, so do our lines to them
        return [
            _play(SimulatedPeers(scenario, tell, listen=listen, lines=ends[0])),
            *(heard(line, n) for n, line in ends[0].items()),
        ]
    except BaseException:
        for other in others:
            if other.pid:
                other.kill()  # cancelling all of its peers would take it seconds, and nobody needs the result
        raise
    finally:
        _close(ends[0])
        for other in others:
            other.join(GOODBYE_SECONDS)
            other.kill()
            other.join(GOODBYE_SECONDS)


def _close(lines: Mapping[int, Connection]) -> None:
    for line in lines.values():
        line.close()


def _perform(scenario: Scenario, listen: bool, index: int, lines: dict[int, Connection]) -> None:
    """The process of another shard. Ctrl-C is for the first one; when that is gone, the lines say so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_first_process, daemon=True).start()
    with contextlib.suppress(ShardLost, TimeoutError):  # the first one says so
        lines[0].send(_play(SimulatedPeers(scenario, silent, listen=listen, index=index, lines=lines)))


def _end_with_the_first_process() -> None:
    """End this process as soon as the first one has ended: its peers' clean-up would take seconds of computing."""
    first = multiprocessing.parent_process()
    if first:
        wait([first.sentinel])
        os._exit(1)


def _play(stage: SimulatedPeers) -> RehearsalResult:
    leftovers: list[str] = []
    often, threads = gc.get_threshold(), torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # so small a model gains nothing by more, and waits for each of them wherever the computer is busy
    gc.freeze()  # what is loaded stays: without this the collector walks through all of torch again and again
    gc.set_threshold(*GARBAGE)
    try:
        played = simulate(stage.play(), leftovers=leftovers)
        return replace(played, leftovers=tuple(leftovers))
    finally:
        gc.set_threshold(*often)
        gc.unfreeze()
        torch.set_num_threads(threads)


def rehearse_and_tell(scenario: Scenario, reporter: Reporter) -> None:
    """The command: what is rehearsed, rounds as they come (the first of a thousand peers after a while), then the summary."""
    began = time.perf_counter()
    reporter.event(
        "rehearsing",
        peers=scenario.peers,
        rounds=scenario.rounds,
        seed=scenario.seed,
        processes=scenario.shards,
    )
    result = rehearse(scenario, reporter.round_finished)
    peer_rounds = scenario.peers * scenario.rounds
    reporter.event(
        "rehearsal",
        peers=scenario.peers,
        rounds=scenario.rounds,
        seed=scenario.seed,
        transcript=result.transcript,
        seconds=round(time.perf_counter() - began, 2),
        virtual_seconds=round(result.virtual_seconds, 2),
        messages=result.messages,
        state_roots_equal=result.state_roots_equal,
        crashes=result.crashes,
        messages_per_peer_per_round=round(result.messages / peer_rounds, 1),
        bytes_per_peer_per_round=round(sum(result.sent.values()) / peer_rounds),
    )
