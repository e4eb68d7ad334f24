"""What a round costs on a link, measured: seconds until all peers have the average, and bytes of a peer.

Every figure is that of whole hosts: a round is as long as its slowest peer, bytes are the counter of a host's
interface.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.worker_pool import NotMeasured, Worker, order_all
from peer.models.registry import count, presets

from .lab import Lab, end_all
from .methods import BATCH, METHODS, PEERS, RIVALS, Kind, Method

PORT = 17_000
"""Below the ports that systems give to outgoing connections: where one of those is in use, no server can
listen on it."""
FAULTS = 2
"""Rounds of a measurement that may fail, because a shared machine stands still for seconds now and then. The
note names them."""
Show = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one exchange: a round, or a step where gradients are averaged every step.

    ``mbit`` 0 is a loopback without a limit.
    """

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


def measure(lab: Lab, names: Sequence[str], links: Sequence[float], effort: Effort, show: Show) -> list[Cost]:
    """The costs of all methods that communicate, on all links. A method that fails is shown, and left out."""
    methods = [METHODS[name] for name in names]
    sections = (
        (_synchronous, {Kind.SYNCHRONOUS}),
        (_rounds, {Kind.ROUNDS}),
        (_optimizer, RIVALS),
    )
    costs: list[Cost] = []
    for section, kinds in sections:
        mine = [method for method in methods if method.kind in kinds]
        if not mine:
            continue
        try:
            for cost in section(lab, mine, links, effort, show):
                costs.append(cost)
                show(_line_of(cost))
        except NotMeasured as error:
            show(f"  not measured: {', '.join(method.name for method in mine)} ({error})")
    return costs


def _line_of(cost: Cost) -> str:
    size = f"{cost.bytes / 1e3:9,.1f} kB" if cost.bytes < 1e7 else f"{cost.bytes / 1e6:9,.2f} MB"
    where = f"{cost.mbit:g} Mbit/s" if cost.mbit else "loopback"
    return f"  {where:>11}  {cost.method:28} {cost.seconds:8.3f} s  {size}  {cost.note}"


def share_of_round(lab: Lab, name: str, mbit: float, model: str, round_seconds: float) -> tuple[float, Cost]:
    """The fraction of its time that ``model`` waits for its average, after ``round_seconds`` of training."""
    effort = Effort(model=model, rounds=3)
    cost = next(iter(_rounds(lab, [METHODS[name]], [mbit], effort, lambda text: None)))
    return cost.seconds / (cost.seconds + round_seconds), cost


# --- one kind after the other -----------------------------------------------------------------------------


def _synchronous(
    lab: Lab, methods: Sequence[Method], links: Iterable[float], effort: Effort, show: Show
) -> Iterable[Cost]:
    numbers = count(presets[effort.model])
    workers = lab.start_workers("benchmarks.loss.gloo_peer")
    try:
        order_all(workers, "join", _places(lab, PORT))
        for mbit in links:
            lab.shape(mbit)
            for method in methods:
                order_all(workers, "open", [{"numbers": numbers, "half": method.half}] * PEERS)
                yield _exchanges(lab, workers, method, mbit, 3 * effort.rounds)
    finally:
        end_all(workers)


def _rounds(
    lab: Lab, methods: Sequence[Method], links: Iterable[float], effort: Effort, show: Show
) -> Iterable[Cost]:
    """Methods that send the same bytes at the same moments are measured once."""
    workers = lab.start_workers("benchmarks.loss.swarm_peer")
    port = PORT + 100
    try:
        for mbit in links:
            lab.shape(mbit)
            done: dict[Any, Cost] = {}
            for method in methods:
                alike = (method.round.codec, method.round.exchange, method.round.fragments)
                if alike in done:
                    cost = done[alike]
                    yield replace(cost, method=method.name, note=f"as {cost.method}")
                    continue
                port += 10
                run = {"method": method.name, "model": effort.model}
                order_all(workers, "open", [{**run, **place} for place in _places(lab, port)])
                done[alike] = _exchanges(lab, workers, method, mbit, effort.rounds)
                yield done[alike]
    finally:
        end_all(workers)


def _optimizer(
    lab: Lab, methods: Sequence[Method], links: Iterable[float], effort: Effort, show: Show
) -> Iterable[Cost]:
    """Every measurement has processes of its own: a second run in the same ones sometimes hangs."""
    for mbit in links:
        lab.shape(mbit)
        for method in methods:
            workers = lab.start_workers("benchmarks.loss.optimizer_peer")
            try:
                yield _live(lab, workers, method, mbit, effort)
            except NotMeasured as error:
                show(f"  not measured: {method.name} at {mbit:g} Mbit/s ({error})")
            finally:
                end_all(workers)


def _live(lab: Lab, workers: Sequence[Worker], method: Method, mbit: float, effort: Effort) -> Cost:
    """Let `hivemind.Optimizer` train. An epoch costs its time without that of its steps.

    The table charges that for every ``method.steps`` steps, as if no epoch had been longer than intended.
    """
    _join(lab, workers)
    training = {
        "run": "loss",
        "model": effort.model,
        "peers": PEERS,
        "batch": BATCH,
        "steps": method.steps,
        "local": method.kind is Kind.HIVEMIND_LOCAL,
        "step_seconds": effort.step_seconds,
    }
    order_all(workers, "open", [training] * PEERS)
    time.sleep(effort.optimizer_seconds / 4)
    before = order_all(workers, "progress", [{}] * PEERS)
    time.sleep(effort.optimizer_seconds)
    after = order_all(workers, "progress", [{}] * PEERS)

    seconds = _mean_growth(before, after, "at")
    steps = _mean_growth(before, after, "steps")
    epochs = _mean_growth(before, after, "epoch")
    sent = _mean_growth(before, after, "sent") / _hosts_per_counter(lab)
    if not steps or not epochs:
        raise NotMeasured(
            f"{method.name} has made {steps:g} steps in {epochs:g} epochs "
            f"within {effort.optimizer_seconds:g} s"
        )
    return Cost(
        method=method.name,
        mbit=mbit if lab.shaped else 0.0,
        seconds=max(0.0, seconds - steps * effort.step_seconds) / epochs,
        bytes=sent / epochs,
        samples=round(epochs),
        note=f"{epochs:.0f} epochs of {steps / epochs:.0f} steps, {_whole_groups(before, after)}",
    )


def _join(lab: Lab, workers: Sequence[Worker]) -> None:
    """Have all workers join one DHT: the first one starts it, the others enter through the first."""
    entries: list[str] = []
    for host, worker in enumerate(workers):
        worker.order("join", host=lab.address(host), entries=entries, interface=lab.interface)
        if not host:
            entries = worker.answer()
    for worker in workers[1:]:
        worker.answer()


Progress = Sequence[dict[str, Any]]
"""By seat, what the peers answered to "progress"."""


def _mean_growth(before: Progress, after: Progress, name: str) -> float:
    return statistics.fmean(new[name] - old[name] for old, new in zip(before, after, strict=True))


def _whole_groups(before: Progress, after: Progress) -> str:
    """How many averagings between both had all peers, in words."""
    pairs = zip(before, after, strict=True)
    sizes = [size for old, new in pairs for size in new["groups"][len(old["groups"]) :]]
    return f"{sum(size == PEERS for size in sizes)} of {len(sizes)} averagings with all {PEERS} peers"


def _exchanges(lab: Lab, workers: Sequence[Worker], method: Method, mbit: float, rounds: int) -> Cost:
    """Measure ``rounds`` exchanges, after one that opens the connections.

    Returns the median of the slowest peer's seconds, and the mean bytes.
    """
    _, fault = _exchange(workers)
    faults = [fault] if fault else []
    uncounted = len(faults)
    before = sum(order_all(workers, "sent", [{}] * PEERS))
    seconds: list[float] = []
    while len(seconds) < rounds:
        took, fault = _exchange(workers)
        if not fault:
            seconds.append(took)
        elif len(faults) < FAULTS:
            faults.append(fault)
        else:
            raise NotMeasured(f"{method.name}: {'; '.join([*faults, fault])}")
    sent = sum(order_all(workers, "sent", [{}] * PEERS)) - before
    lost = f", and {len(faults)} that failed: {'; '.join(faults)}" if faults else ""
    return Cost(
        method=method.name,
        mbit=mbit if lab.shaped else 0.0,
        seconds=statistics.median(seconds),
        bytes=sent / PEERS / (rounds + len(faults) - uncounted) / _hosts_per_counter(lab),
        samples=rounds,
        note=f"{min(seconds):.3f} to {max(seconds):.3f} s{lost}",
    )


def _exchange(workers: Sequence[Worker]) -> tuple[float, str]:
    """The slowest peer's seconds, and what was wrong with one of the peers; empty where nothing was."""
    done = order_all(workers, "exchange", [{}] * PEERS)
    faults = [one["fault"] for one in done if one["fault"]]
    return max(one["seconds"] for one in done), faults[0] if faults else ""


def _places(lab: Lab, port: int) -> list[dict[str, Any]]:
    """By seat: where each peer is, for its worker."""
    hosts = [lab.address(host) for host in range(PEERS)]
    common = {"hosts": hosts, "interface": lab.interface, "port": port}
    return [{"seat": seat, **common} for seat in range(PEERS)]


def _hosts_per_counter(lab: Lab) -> int:
    """How many hosts share one counter of bytes: without namespaces, all of them."""
    return 1 if lab.shaped else PEERS
