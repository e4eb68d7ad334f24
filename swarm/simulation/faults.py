"""What goes wrong in a rehearsal, and when: a plan made beforehand, so that the same faults can be repeated.

plan = Faults().crash("p3", at=40).cut("p1", "p2", between=(10, 20))
plan.schedule(network, names)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from ..identity import PeerId
from ..seeds import derive
from .clock import running_loop
from .network import Link, SimulatedNetwork

Interval = tuple[float, float]
"""(begin, end) in virtual seconds."""
Action = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Fault:
    """Call ``action``, a method of `SimulatedNetwork`, with the peers called ``names`` at ``at`` (virtual
    seconds).

    ``links`` are further arguments of it.
    """

    at: float
    action: Action
    names: tuple[str, ...]
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Faults:
    """A plan. Each method returns a longer plan; `schedule` carries it out."""

    plan: tuple[Fault, ...] = ()

    def __add__(self, other: Faults) -> Faults:
        return Faults(self.plan + other.plan)

    @property
    def names(self) -> frozenset[str]:
        """The names of all peers in the plan."""
        return frozenset(name for fault in self.plan for name in fault.names)

    def crash(self, who: str, *, at: float) -> Faults:
        """``who`` vanishes without a message."""
        return self._and(Fault(at, SimulatedNetwork.crash, (who,)))

    def freeze(self, who: str, *, between: Interval) -> Faults:
        """The network of ``who`` stalls for a while: nothing goes out or in.

        What waited then moves on, late.
        """
        begin, end = between
        return self._and(
            Fault(begin, SimulatedNetwork.freeze, (who,)), Fault(end, SimulatedNetwork.thaw, (who,))
        )

    def stop(self, who: str, *, between: Interval) -> Faults:
        """``who`` is stopped for a while, as between SIGSTOP and SIGCONT; its timers then ring late."""
        begin, end = between
        return self._and(
            Fault(begin, SimulatedNetwork.stop, (who,)), Fault(end, SimulatedNetwork.go_on, (who,))
        )

    def slow(self, who: str, link: Link, *, between: Interval) -> Faults:
        """``who`` has another link for a while."""
        begin, end = between
        return self._and(
            Fault(begin, SimulatedNetwork.slow, (who,), (link,)), Fault(end, SimulatedNetwork.slow, (who,))
        )

    def cut(self, a: str, b: str, *, between: Interval) -> Faults:
        """Nothing passes between ``a`` and ``b`` for a while."""
        begin, end = between
        return self._and(
            Fault(begin, SimulatedNetwork.cut, (a, b)), Fault(end, SimulatedNetwork.heal, (a, b))
        )

    def split(self, here: Iterable[str], there: Iterable[str], *, between: Interval) -> Faults:
        """The network is partitioned for a while: nothing passes between ``here`` and ``there``."""
        pairs = [(a, b) for a in here for b in there]
        return sum((Faults().cut(a, b, between=between) for a, b in pairs), self)

    def schedule(self, network: SimulatedNetwork, names: Mapping[str, PeerId]) -> None:
        """Set a timer for every fault on the running loop; ``names`` gives the peer of each name.

        Call it once.

        Raises `ValueError` for a name that ``names`` does not have. A fault of a peer that has crashed before
        has no effect.
        """
        unknown = sorted(self.names - names.keys())
        if unknown:
            raise ValueError(
                f"something happens to {', '.join(unknown)}, but there are only {', '.join(sorted(names))}"
            )
        loop = running_loop()
        for fault in self.plan:
            peers = [names[name] for name in fault.names]
            loop.call_at(fault.at, partial(fault.action, network, *peers, *fault.links))

    def _and(self, *more: Fault) -> Faults:
        return Faults(self.plan + more)


def churn(names: Iterable[str], *, seed: int, share: float, between: Interval) -> Faults:
    """Each of ``names`` crashes with probability ``share``, at a time within ``between``.

    Both depend on ``seed`` and the name only.
    """
    begin, end = between
    leaving = (name for name in names if _drawn(seed, "leaves", name) < share)
    return sum(
        (Faults().crash(name, at=begin + (end - begin) * _drawn(seed, "when", name)) for name in leaving),
        Faults(),
    )


def _drawn(seed: int, *words: str) -> float:
    """A number between 0 and 1, the same in every process and every version of Python."""
    return derive(b"churn", seed, *words) / (1 << 63)
