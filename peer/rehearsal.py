"""`swarm rehearse`: many peers in one process, on virtual time, with the code that real peers run and a real (tiny) model.

What is simulated: the network, the clock, the DHT's delays, and how long arithmetic takes. Nothing else: the same machines sign,
check and average the same bytes. The same seed gives the same rehearsal, to the last bit of the last model.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from swarm.seeds import derive_bytes
from swarm.simulation.clock import simulate
from swarm.simulation.shards import ShardLost

from .report import Reporter, RoundReport
from .script import Script
from .stage import Act, Heard, Notebook, Stage

GOODBYE_SECONDS = 5.0
"""For the other processes of a rehearsal to end."""
GARBAGE = (50_000, 20, 50)
"""How many new objects make the collector look: hundreds of peers have many that stay. A tenth of the time goes without this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """What came of it. ``notebooks`` by peer name (``p0``, ``p1``, …; ``p0`` is the founder)."""

    notebooks: dict[str, Notebook]
    transcript: str
    parameters: int
    messages: int
    sent: dict[str, int]
    """Bytes that crossed the network, by the name of the sender, over all its lives."""
    looked: dict[str, int]
    """Bytes of the records that a peer found in the directory."""
    crashes: int
    virtual_seconds: float
    leftovers: tuple[str, ...]
    heard: tuple[Heard, ...] = ()
    """Everything that was said, in order; empty without ``listen``."""

    def roots(self, round_: int) -> set[str]:
        """The different state roots that peers reported who had an average in ``round_``."""
        books = [book for book in self.notebooks.values() if round_ not in book.missed]
        return {said.state_root for book in books for said in book.rounds if said.round == round_}

    @property
    def state_roots_equal(self) -> bool:
        """Whether all peers that had an average agreed on its result, for every round."""
        rounds = {said.round for book in self.notebooks.values() for said in book.rounds}
        return bool(rounds) and all(len(self.roots(round_)) <= 1 for round_ in rounds)


def rehearse(script: Script, tell: Callable[[RoundReport], None] = lambda report: None, *, listen: bool = False) -> Rehearsed:
    """Run the rehearsal to its end; ``tell`` hears every round as it comes. ``listen`` keeps what was said."""
    acts, leftovers = _performed(script, tell, listen)
    notebooks = {name: book for act in acts for name, book in act.notebooks.items()}
    notebooks = {name: notebooks[name] for name in sorted(notebooks, key=lambda name: int(name[1:]))}
    roots = "".join(said.state_root for name in sorted(notebooks) for said in notebooks[name].rounds)
    return Rehearsed(
        notebooks=notebooks,
        transcript=derive_bytes(b"transcript", *(act.transcript for act in acts), roots).hex(),
        parameters=acts[0].parameters,
        messages=sum(act.messages for act in acts),
        sent={name: sent for act in acts for name, sent in act.sent.items()},
        looked={name: looked for act in acts for name, looked in act.looked.items()},
        crashes=sum(act.crashes for act in acts),
        virtual_seconds=max(act.virtual_seconds for act in acts),
        leftovers=leftovers,
        heard=tuple(sorted((heard for act in acts for heard in act.heard), key=lambda heard: heard.time)),
    )


def _performed(script: Script, tell: Callable[[RoundReport], None], listen: bool) -> tuple[list[Act], tuple[str, ...]]:
    """The acts of all shards, and tasks that were left. The first is played here; all end where one of them fails."""
    if script.shards > 1 and script.faults.plan:
        raise ValueError("faults are for rehearsals in one process")
    context = multiprocessing.get_context("spawn")
    ends: list[dict[int, Connection]] = [{} for _ in range(script.shards)]
    for a, b in itertools.combinations(range(script.shards), 2):
        ends[a][b], ends[b][a] = context.Pipe()
    results = [context.Pipe(duplex=False) for _ in range(script.shards)]
    others = [
        context.Process(target=_perform, args=(script, listen, index, ends[index], results[index][1]), daemon=True)
        for index in range(1, script.shards)
    ]
    try:
        for index, other in enumerate(others, 1):
            other.start()
            for line in (*ends[index].values(), results[index][1]):  # theirs now: when they end, so do our lines to them
                line.close()
        played = _play(Stage(script, tell, listen=listen, lines=ends[0]))
        acts = [played, *(results[index][0].recv() for index in range(1, script.shards))]
    finally:
        for line in (*ends[0].values(), *(end for pair in results for end in pair)):
            line.close()
        for other in others:
            other.join(GOODBYE_SECONDS)
            other.kill()
    return [act for act, _ in acts], tuple(name for _, left in acts for name in left)


def _perform(script: Script, listen: bool, index: int, lines: dict[int, Connection], result: Connection) -> None:
    """The process of another shard. Ctrl-C is for the first one; when that is gone, the lines say so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ShardLost, TimeoutError):  # the first one says so
        result.send(_play(Stage(script, lambda report: None, listen=listen, index=index, lines=lines)))


def _play(stage: Stage) -> tuple[Act, list[str]]:
    leftovers: list[str] = []
    often, threads = gc.get_threshold(), torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model gains nothing by more, and waits for each of them wherever the computer is busy
    gc.freeze()  # what is loaded stays: without this the collector walks through all of torch again and again
    gc.set_threshold(*GARBAGE)
    try:
        return simulate(stage.play(), leftovers=leftovers), leftovers
    finally:
        gc.set_threshold(*often)
        gc.unfreeze()
        torch.set_num_threads(threads)


def rehearse_and_tell(script: Script, reporter: Reporter) -> None:
    """The command: what is rehearsed, rounds as they come (the first of a thousand peers after a while), then the summary."""
    began = time.perf_counter()
    reporter.event("rehearsing", peers=script.peers, rounds=script.rounds, seed=script.seed, processes=script.shards)
    result = rehearse(script, reporter.round_finished)
    peer_rounds = script.peers * script.rounds
    reporter.event(
        "rehearsal",
        peers=script.peers,
        rounds=script.rounds,
        seed=script.seed,
        transcript=result.transcript,
        seconds=round(time.perf_counter() - began, 2),
        virtual_seconds=round(result.virtual_seconds, 2),
        messages=result.messages,
        state_roots_equal=result.state_roots_equal,
        crashes=result.crashes,
        messages_per_peer_per_round=round(result.messages / peer_rounds, 1),
        bytes_per_peer_per_round=round(sum(result.sent.values()) / peer_rounds),
    )
