"""`swarm rehearse`: many peers on virtual time, with the code that real peers run and a real (tiny) model.

Only the network, the clock, the DHT's delays and the duration of arithmetic are simulated: the same machines
as in a real run sign, check and average the same bytes. The same seed gives the same rehearsal, to the last
bit of the last model.

    rehearse ──► shard 0, in this process            ──┐
             ──► shard 1 …, each in its own process  ──┴──► one RehearsalResult
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import TypeVar

import torch

from swarm.seeds import derive_bytes
from swarm.simulation.clock import simulate
from swarm.simulation.shards import ShardLost, heard

from ..observe.reporter import Reporter, RoundReport
from .peers import SimulatedPeers
from .result import Notebook, RehearsalResult, silent
from .scenario import Scenario

T = TypeVar("T")

STOP_SECONDS = 5.0
"""Seconds for the other processes of a rehearsal to end by themselves."""
GARBAGE_THRESHOLDS = (50_000, 20, 50)
"""For `gc.set_threshold`: hundreds of peers have many objects that stay, and Python's defaults cost a tenth
of the time."""


def rehearse(
    scenario: Scenario, tell: Callable[[RoundReport], None] = silent, *, listen: bool = False
) -> RehearsalResult:
    """Run the rehearsal to its end.

    ``tell`` gets one report per round as it comes. ``listen`` keeps every message.

    Raises `ValueError` for faults in several processes, `TimeoutError` after the scenario's ``patience``.
    """
    parts = _run_shards(scenario, tell, listen)
    notebooks = _union(part.notebooks for part in parts)
    return RehearsalResult(
        notebooks={name: notebooks[name] for name in sorted(notebooks, key=_number_of)},
        transcript=_transcript_of(parts, notebooks),
        parameters=parts[0].parameters,
        messages=sum(part.messages for part in parts),
        sent=_union(part.sent for part in parts),
        looked=_union(part.looked for part in parts),
        ids=_union(part.ids for part in parts),
        crashes=sum(part.crashes for part in parts),
        virtual_seconds=max(part.virtual_seconds for part in parts),
        most_tasks=max(part.most_tasks for part in parts),
        leftovers=tuple(itertools.chain.from_iterable(part.leftovers for part in parts)),
        heard=tuple(
            sorted(
                itertools.chain.from_iterable(part.heard for part in parts), key=lambda message: message.time
            )
        ),
    )


def _union(mappings: Iterable[Mapping[str, T]]) -> dict[str, T]:
    merged: dict[str, T] = {}
    for mapping in mappings:
        merged.update(mapping)
    return merged


def _number_of(name: str) -> int:
    """The number in a peer's name: 12 for ``p12``."""
    return int(name[1:])


def _transcript_of(parts: Sequence[RehearsalResult], notebooks: Mapping[str, Notebook]) -> str:
    """Hash the processes' transcripts and all state roots, peers in the order of their names as text."""
    roots = "".join(report.state_root for name in sorted(notebooks) for report in notebooks[name].rounds)
    return derive_bytes(b"transcript", *(part.transcript for part in parts), roots).hex()


def _run_shards(
    scenario: Scenario, tell: Callable[[RoundReport], None], listen: bool
) -> list[RehearsalResult]:
    """Run every shard and return their results.

    The first runs in this process; all end where one of them fails.
    """
    if scenario.shards > 1 and scenario.faults.plan:
        raise ValueError("faults are for rehearsals in one process")
    context = multiprocessing.get_context("spawn")
    pipes: list[dict[int, Connection]] = [{} for _ in range(scenario.shards)]
    for a, b in itertools.combinations(range(scenario.shards), 2):
        pipes[a][b], pipes[b][a] = context.Pipe()
    others = [
        context.Process(target=_shard_process, args=(scenario, listen, index, pipes[index]), daemon=True)
        for index in range(1, scenario.shards)
    ]
    try:
        for other, its_pipes in zip(others, pipes[1:], strict=True):
            other.start()
            _close(its_pipes)  # the other process has its own copy: when it ends, our end of the pipe breaks
        return [
            _run_shard(SimulatedPeers(scenario, tell, listen=listen, pipes=pipes[0])),
            *(heard(pipe, index) for index, pipe in pipes[0].items()),
        ]
    except BaseException:
        for other in others:
            if other.pid:
                other.kill()  # cancelling all of its peers would take it seconds, and nobody needs the result
        raise
    finally:
        _close(pipes[0])
        for other in others:
            other.join(STOP_SECONDS)
            other.kill()
            other.join(STOP_SECONDS)


def _close(pipes: Mapping[int, Connection]) -> None:
    for pipe in pipes.values():
        pipe.close()


def _shard_process(scenario: Scenario, listen: bool, index: int, pipes: dict[int, Connection]) -> None:
    """Run another shard in its own process and send the result to the first.

    Ctrl-C is handled by the first process alone; when that ends, the pipes break and this one ends too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_first_process, daemon=True).start()
    with contextlib.suppress(ShardLost, TimeoutError):  # the first process raises the same and reports it
        peers = SimulatedPeers(scenario, silent, listen=listen, index=index, pipes=pipes)
        pipes[0].send(_run_shard(peers))


def _end_with_first_process() -> None:
    """End this process as soon as the first one has ended: cancelling all its peers would take seconds."""
    first = multiprocessing.parent_process()
    if first:
        wait([first.sentinel])
        os._exit(1)


def _run_shard(peers: SimulatedPeers) -> RehearsalResult:
    """Run ``peers`` on virtual time, with settings of the collector and torch for many small peers."""
    leftovers: list[str] = []
    thresholds = gc.get_threshold()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model gains nothing by more threads, and waits for each of them
    gc.freeze()  # what is loaded stays: without this the collector walks through all of torch again and again
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    try:
        result = simulate(peers.run(), leftovers=leftovers)
        return replace(result, leftovers=tuple(leftovers))
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        torch.set_num_threads(threads)


def rehearse_and_report(scenario: Scenario, reporter: Reporter) -> None:
    """Report what is rehearsed, then each round as it ends, then a summary.

    With a thousand peers a round takes a while.
    """
    began = time.perf_counter()
    reporter.event(
        "rehearsing",
        peers=scenario.peers,
        rounds=scenario.rounds,
        seed=scenario.seed,
        processes=scenario.shards,
    )
    result = rehearse(scenario, reporter.round_finished)
    reporter.event("rehearsal", **summary_of(scenario, result, time.perf_counter() - began))


def summary_of(scenario: Scenario, result: RehearsalResult, seconds: float) -> dict[str, object]:
    """The fields of the summary of a rehearsal that took so many real ``seconds``."""
    peer_rounds = scenario.peers * scenario.rounds
    return {
        "peers": scenario.peers,
        "rounds": scenario.rounds,
        "seed": scenario.seed,
        "transcript": result.transcript,
        "seconds": round(seconds, 2),
        "virtual_seconds": round(result.virtual_seconds, 2),
        "messages": result.messages,
        "state_roots_equal": result.state_roots_equal,
        "crashes": result.crashes,
        "messages_per_peer_per_round": round(result.messages / peer_rounds, 1),
        "bytes_per_peer_per_round": round(sum(result.sent.values()) / peer_rounds),
        "liars": len(scenario.liars),
        "forks": result.forks,
        "uncertified_states": len(result.uncertified),
        "rounds_decided": len(result.decided_rounds),
        "rounds_decided_per_minute": round(result.rounds_decided_per_minute, 2),
    }
