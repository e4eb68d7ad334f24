"""What one liar costs: rounds decided per minute with it, against the same run without it.

    python -m benchmarks.liars [--peers 5] [--liars 1] [--rounds 20] [--seeds 1,2,3] [--json FILE]

Every strategy of `peer.simulation.strategies` is rehearsed with every seed, and so is the run without liars.
All times are virtual: those of the simulated network, in which a busy machine changes nothing. What a liar
costs does not grow with the length of a round, so each strategy is measured twice: with rounds of about a
second, as `swarm rehearse` has them, and with rounds of half a minute, as real runs have them at least.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from peer.config.run import RunSettings
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario, scenario_of, with_liars
from peer.simulation.strategies import STRATEGIES

SHORT = "1 s"
LONG = "30 s"
STEPS = 4
"""Local steps in a round."""
LONG_STEP_SECONDS = 7.5
HONEST = "(no liar)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One strategy in rounds of one length: medians over the seeds."""

    strategy: str
    round_length: str
    rounds_per_minute: float
    share: float
    """Of the rounds per minute of the same seed without a liar: the median of the ratios."""
    worst_share: float
    forks: int
    uncertified_states: int


def scenario(peers: int, rounds: int, seed: int, liars: int, strategy: str, round_length: str) -> Scenario:
    """One rehearsal. Both kinds train the smallest model: they are about the protocol."""
    chosen = with_liars(scenario_of(peers, rounds, seed), liars)
    if strategy == HONEST:
        chosen = replace(chosen, liars={})
    else:
        chosen = replace(chosen, liars=dict.fromkeys(chosen.liars, strategy))
    if round_length == LONG:
        seconds = STEPS * LONG_STEP_SECONDS + 5.0
        settings = RunSettings(model="tiny", max_steps=STEPS, round_seconds=seconds, average_seconds=20.0)
        chosen = replace(chosen, settings=settings, step_seconds=LONG_STEP_SECONDS)
    return chosen


def costs(peers: int, liars: int, rounds: int, seeds: Sequence[int], strategies: Sequence[str]) -> list[Cost]:
    """The cost of every strategy, in rounds of both lengths; each is printed once it is known."""
    found = []
    for round_length in (SHORT, LONG):
        without: dict[int, float] = {}
        for strategy in (HONEST, *strategies):
            rates: dict[int, float] = {}
            forks = 0
            uncertified = 0
            for seed in seeds:
                result = rehearse(scenario(peers, rounds, seed, liars, strategy, round_length))
                rates[seed] = result.rounds_decided_per_minute
                forks += result.forks
                uncertified += len(result.uncertified)
            without = without or rates
            shares = [rates[seed] / without[seed] for seed in seeds]
            cost = Cost(
                strategy=strategy,
                round_length=round_length,
                rounds_per_minute=statistics.median(rates.values()),
                share=statistics.median(shares),
                worst_share=min(shares),
                forks=forks,
                uncertified_states=uncertified,
            )
            print(_line(cost), flush=True)
            found.append(cost)
    return found


def _line(cost: Cost) -> str:
    return (
        f"{cost.round_length:>5}  {cost.strategy:<18} {cost.rounds_per_minute:6.2f} rounds/min"
        f"  {cost.share:6.0%}  worst {cost.worst_share:4.0%}"
        f"  forks {cost.forks}  uncertified {cost.uncertified_states}"
    )


def main() -> None:
    """Measure, print a line for each strategy, and write all of it as JSON if that is asked for."""
    parser = argparse.ArgumentParser(description="What one liar costs, by strategy")
    parser.add_argument("--peers", type=int, default=5)
    parser.add_argument("--liars", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    strategies = options.strategies.split(",")
    found = costs(options.peers, options.liars, options.rounds, seeds, strategies)
    if options.json:
        options.json.write_text(json.dumps([asdict(cost) for cost in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
