"""What a round costs on a link: seconds until everybody goes on, and bytes that a peer has sent, both measured.

Every figure is that of whole hosts: a round is as long as its slowest peer, bytes are the counter of a host's interface.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cast import Actor, NotMeasured, together
from peer.models.registry import count, presets

from .lab import Lab, dismiss
from .methods import BATCH, METHODS, PEERS, RIVALS, Kind, Method

PORT = 17_000
"""Below the ports that systems hand out to callers: one of those, in use, cannot be listened at."""
FAULTS = 2
"""Rounds of a measurement that may come to nothing: a shared machine stands still for seconds now and then. The note tells."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one exchange: a round, or a step where gradients are averaged every step. ``mbit`` 0 is a loopback without a limit."""

    method: str
    mbit: float
    seconds: float
    bytes: float
    samples: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure."""

    model: str = "nano"
    rounds: int = 12
    optimizer_seconds: float = 30.0
    step_seconds: float = 0.008


def measure(lab: Lab, names: Sequence[str], links: Sequence[float], effort: Effort, tell: Tell) -> list[Cost]:
    """The costs of all methods that talk, on all links. A method that fails is told, and left out."""
    methods = [METHODS[name] for name in names]
    costs: list[Cost] = []
    for section, kinds in (
        (_synchronous, {Kind.SYNCHRONOUS}),
        (_rounds, {Kind.ROUNDS}),
        (_optimizer, RIVALS),
    ):
        mine = [method for method in methods if method.kind in kinds]
        if not mine:
            continue
        try:
            for cost in section(lab, mine, links, effort, tell):
                costs.append(cost)
                size = f"{cost.bytes / 1e3:9,.1f} kB" if cost.bytes < 1e7 else f"{cost.bytes / 1e6:9,.2f} MB"
                where = f"{cost.mbit:g} Mbit/s" if cost.mbit else "loopback"
                tell(f"  {where:>11}  {cost.method:28} {cost.seconds:8.3f} s  {size}  {cost.note}")
        except NotMeasured as error:
            tell(f"  not measured: {', '.join(method.name for method in mine)} ({error})")
    return costs


def share_of_round(lab: Lab, name: str, mbit: float, model: str, round_seconds: float) -> tuple[float, Cost]:
    """The fraction of its time that a peer with ``model`` waits for the average, where it trains for ``round_seconds`` a round."""
    effort = Effort(model=model, rounds=3)
    cost = next(iter(_rounds(lab, [METHODS[name]], [mbit], effort, lambda text: None)))
    return cost.seconds / (cost.seconds + round_seconds), cost


# --- one kind after the other -------------------------------------------------------------------------------


def _synchronous(
    lab: Lab, methods: Sequence[Method], links: Iterable[float], effort: Effort, tell: Tell
) -> Iterable[Cost]:
    numbers = count(presets[effort.model])
    workers = lab.crew("benchmarks.loss.gloo_peer")
    try:
        together(workers, "join", _seats(lab, port=PORT))
        for mbit in links:
            lab.shape(mbit)
            for method in methods:
                together(workers, "open", [{"numbers": numbers, "half": method.half}] * PEERS)
                yield _exchanges(lab, workers, method, mbit, 3 * effort.rounds)
    finally:
        dismiss(workers)


def _rounds(
    lab: Lab, methods: Sequence[Method], links: Iterable[float], effort: Effort, tell: Tell
) -> Iterable[Cost]:
    """Methods that put the same bytes on the wire at the same moments are measured once."""
    workers = lab.crew("benchmarks.loss.swarm_peer")
    port = PORT + 100
    try:
        for mbit in links:
            lab.shape(mbit)
            done: dict[Any, Cost] = {}
            for method in methods:
                alike = (method.round.codec, method.round.exchange, method.round.fragments)
                if alike not in done:
                    port += 10
                    together(workers, "open", _seats(lab, port=port, method=method.name, model=effort.model))
                    done[alike] = _exchanges(lab, workers, method, mbit, effort.rounds)
                found = done[alike]
                note = found.note if found.method == method.name else f"as {found.method}"
                yield Cost(
                    method=method.name,
                    mbit=found.mbit,
                    seconds=found.seconds,
                    bytes=found.bytes,
                    samples=found.samples,
                    note=note,
                )
    finally:
        dismiss(workers)


def _optimizer(
    lab: Lab, methods: Sequence[Method], links: Iterable[float], effort: Effort, tell: Tell
) -> Iterable[Cost]:
    """A swarm of its own for every line: stopping one run and starting the next in the same processes does not always end."""
    for mbit in links:
        lab.shape(mbit)
        for method in methods:
            workers = lab.crew("benchmarks.loss.optimizer_peer")
            try:
                yield _live(lab, workers, method, mbit, effort)
            except NotMeasured as error:
                tell(f"  not measured: {method.name} at {mbit:g} Mbit/s ({error})")
            finally:
                dismiss(workers)


def _live(lab: Lab, workers: Sequence[Actor], method: Method, mbit: float, effort: Effort) -> Cost:
    """Let `hivemind.Optimizer` train. An epoch costs its time without that of its steps, however many it made of them.

    The table charges that for every ``method.steps`` steps, as if no epoch had been longer than it was meant to be.
    """
    entries: list[str] = []
    for host, worker in enumerate(workers):
        worker.tell("join", host=lab.address(host), entries=entries, interface=lab.interface)
        entries = worker.answer() if not host else entries
    for worker in workers[1:]:
        worker.answer()
    order = {
        "run": "loss",
        "model": effort.model,
        "peers": PEERS,
        "batch": BATCH,
        "steps": method.steps,
        "local": method.kind is Kind.HIVEMIND_LOCAL,
        "step_seconds": effort.step_seconds,
    }
    together(workers, "open", [order] * PEERS)
    time.sleep(effort.optimizer_seconds / 4)
    before = together(workers, "progress", [{}] * PEERS)
    time.sleep(effort.optimizer_seconds)
    after = together(workers, "progress", [{}] * PEERS)
    pairs = list(zip(before, after, strict=True))
    seconds = statistics.fmean(new["at"] - old["at"] for old, new in pairs)
    steps = statistics.fmean(new["steps"] - old["steps"] for old, new in pairs)
    epochs = statistics.fmean(new["epoch"] - old["epoch"] for old, new in pairs)
    sent = statistics.fmean(new["sent"] - old["sent"] for old, new in pairs) / _shares(lab)
    groups = [size for old, new in pairs for size in new["groups"][len(old["groups"]) :]]
    if not steps or not epochs:
        raise NotMeasured(
            f"{method.name} has made {steps:g} steps in {epochs:g} epochs within {effort.optimizer_seconds:g} s"
        )
    note = f"{epochs:.0f} epochs of {steps / epochs:.0f} steps, {_whole(groups)} of {len(groups)} averagings with all {PEERS} peers"
    return Cost(
        method=method.name,
        mbit=mbit if lab.shaped else 0.0,
        seconds=max(0.0, seconds - steps * effort.step_seconds) / epochs,
        bytes=sent / epochs,
        samples=round(epochs),
        note=note,
    )


def _whole(groups: Sequence[int]) -> int:
    return sum(size == PEERS for size in groups)


def _exchanges(lab: Lab, workers: Sequence[Actor], method: Method, mbit: float, rounds: int) -> Cost:
    """``rounds`` exchanges after one that opens the connections: the median of the slowest peer's seconds, and the mean bytes."""
    _, fault = _exchange(workers)
    faults = [fault] if fault else []
    uncounted = len(faults)
    before = sum(together(workers, "sent", [{}] * PEERS))
    seconds: list[float] = []
    while len(seconds) < rounds:
        took, fault = _exchange(workers)
        if not fault:
            seconds.append(took)
        elif len(faults) < FAULTS:
            faults.append(fault)
        else:
            raise NotMeasured(f"{method.name}: {'; '.join([*faults, fault])}")
    sent = sum(together(workers, "sent", [{}] * PEERS)) - before
    lost = f", and {len(faults)} that came to nothing: {'; '.join(faults)}" if faults else ""
    return Cost(
        method=method.name,
        mbit=mbit if lab.shaped else 0.0,
        seconds=statistics.median(seconds),
        bytes=sent / PEERS / (rounds + len(faults) - uncounted) / _shares(lab),
        samples=rounds,
        note=f"{min(seconds):.3f} to {max(seconds):.3f} s{lost}",
    )


def _exchange(workers: Sequence[Actor]) -> tuple[float, str]:
    """The slowest peer's seconds, and what was wrong with it; empty where nothing was."""
    done = together(workers, "exchange", [{}] * PEERS)
    return max(one["seconds"] for one in done), next((one["fault"] for one in done if one["fault"]), "")


def _seats(lab: Lab, **more: Any) -> list[dict[str, Any]]:
    hosts = [lab.address(host) for host in range(PEERS)]
    return [{"seat": seat, "hosts": hosts, "interface": lab.interface, **more} for seat in range(PEERS)]


def _shares(lab: Lab) -> int:
    """How many hosts share one counter: without namespaces, all of them."""
    return 1 if lab.shaped else PEERS
