"""What goes wrong in a rehearsal, and when: a plan made beforehand, so that the same accident can be had again.

Faults().crash("p3", at=40).cut("p1", "p2", between=(10, 20)).slow("p5", Link(bandwidth=1e5), between=(0, 60))
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
Deed = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Fault:
    """At ``at`` (virtual seconds) ``deed``, a method of `SimulatedNetwork`, is done to the peers called ``names``."""

    at: float
    deed: Deed
    names: tuple[str, ...]
    lines: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Faults:
    """A plan. Each method returns a longer one; `schedule` carries it out."""

    plan: tuple[Fault, ...] = ()

    def __add__(self, other: Faults) -> Faults:
        return Faults(self.plan + other.plan)

    @property
    def names(self) -> frozenset[str]:
        """Whom something happens to."""
        return frozenset(name for fault in self.plan for name in fault.names)

    def crash(self, who: str, *, at: float) -> Faults:
        """``who`` vanishes without a word."""
        return self._and(Fault(at, SimulatedNetwork.crash, (who,)))

    def freeze(self, who: str, *, between: Interval) -> Faults:
        """``who`` is mute and deaf for a while; what waited for it then moves on, late."""
        begin, end = between
        return self._and(
            Fault(begin, SimulatedNetwork.freeze, (who,)), Fault(end, SimulatedNetwork.thaw, (who,))
        )

    def stop(self, who: str, *, between: Interval) -> Faults:
        """``who`` stands still for a while, as a process does between SIGSTOP and SIGCONT; its timers then ring late."""
        begin, end = between
        return self._and(
            Fault(begin, SimulatedNetwork.stop, (who,)), Fault(end, SimulatedNetwork.go_on, (who,))
        )

    def slow(self, who: str, line: Link, *, between: Interval) -> Faults:
        """``who`` has another line for a while."""
        begin, end = between
        return self._and(
            Fault(begin, SimulatedNetwork.slow, (who,), (line,)), Fault(end, SimulatedNetwork.slow, (who,))
        )

    def cut(self, a: str, b: str, *, between: Interval) -> Faults:
        """Nothing passes between ``a`` and ``b`` for a while."""
        begin, end = between
        return self._and(
            Fault(begin, SimulatedNetwork.cut, (a, b)), Fault(end, SimulatedNetwork.heal, (a, b))
        )

    def split(self, here: Iterable[str], there: Iterable[str], *, between: Interval) -> Faults:
        """The network falls in two: nothing passes between any of ``here`` and any of ``there`` for a while."""
        pairs = [(a, b) for a in here for b in there]
        return sum((Faults().cut(a, b, between=between) for a, b in pairs), self)

    def schedule(self, network: SimulatedNetwork, names: Mapping[str, PeerId]) -> None:
        """Set a timer for every fault on the running loop; ``names`` says which peer the plan means. To be called once.

        Raises `ValueError` where the plan speaks of somebody unknown. What happens to a peer that has crashed before has no effect.
        """
        unknown = sorted(self.names - names.keys())
        if unknown:
            raise ValueError(
                f"something happens to {', '.join(unknown)}, but there are only {', '.join(sorted(names))}"
            )
        loop = running_loop()
        for fault in self.plan:
            peers = [names[name] for name in fault.names]
            loop.call_at(fault.at, partial(fault.deed, network, *peers, *fault.lines))

    def _and(self, *more: Fault) -> Faults:
        return Faults(self.plan + more)


def churn(names: Iterable[str], *, seed: int, share: float, between: Interval) -> Faults:
    """Each of ``names`` crashes with chance ``share``, some time within ``between``; drawn from ``seed`` and the name alone."""
    begin, end = between
    leaving = (name for name in names if _drawn(seed, "leaves", name) < share)
    return sum(
        (Faults().crash(name, at=begin + (end - begin) * _drawn(seed, "when", name)) for name in leaving),
        Faults(),
    )


def _drawn(seed: int, *words: str) -> float:
    """A number between 0 and 1, the same in every process and every version of Python."""
    return derive(b"churn", seed, *words) / (1 << 63)
