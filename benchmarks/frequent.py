"""Frequent averages: which codec is first at a target if four peers average every 1, 2 or 5 steps.

    python -m benchmarks.frequent [--steps 500] [--seeds 0,1] [--mbit 500] [--curves FILE] [--json FILE]

This is the setting of CocktailSGD (Wang et al. 2023): few local steps between two averages, 500 Mbit/s.
Loss by step comes from the code that peers run (`benchmarks.loss.curves`). Seconds are computed, so that a
busy machine does not distort them: steps · seconds of a step + rounds · bytes of a round / rate of the link.
Bytes are those that one peer sends in a round, messages included, as the simulated network counts them. Links
have no delay besides that of the bytes. Every 10 and 20 steps stand beside, as another way to save bytes.

A larger model shifts the balance from the steps to the bytes, and messages no longer count. The second table
asks for every balance: the time to the target, measured in steps, is

    steps + balance · payload bytes sent by a peer / numbers of the model

where the balance is the steps that a peer could make while it sends one byte for every number of the model.
For each balance it names the line that is first, of all codecs and all numbers of steps between averages.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from averaging.codec_choice import copies
from averaging.codecs import bytes_per_parameter, result_codec
from peer.models.registry import presets
from swarm.manifest import Exchange

from .loss import sweep
from .loss.curves import Curve, bytes_of_round
from .loss.methods import FREQUENT, PEERS, Method
from .loss.table import crossing

MOST_STEPS = 5
"""Local steps between two averages, at most, in CocktailSGD's setting."""
BALANCES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One codec at one number of steps between averages; the lists are by seed. None: never at the target."""

    method: str
    steps_between_averages: int
    rate: float
    bytes_of_round: float
    """Sent by one peer, messages included."""
    payload_of_round: float
    """Sent by one peer, encoded updates and averages alone: bytes for each number of the model."""
    bits_per_byte: list[float]
    """At the end."""
    steps_to_target: list[int | None]

    def times(self, per_step: float, per_round: float) -> list[float] | None:
        """By seed, what the way to the target costs; None where one seed never gets there."""
        reached = [steps for steps in self.steps_to_target if steps is not None]
        if len(reached) < len(self.steps_to_target):
            return None
        return [steps * per_step + steps / self.steps_between_averages * per_round for steps in reached]


def payload_of_round(method: Method) -> float:
    """Bytes for each number of the model that one of `PEERS` peers sends in a round, without messages."""
    codec = method.round.codec
    sent = bytes_per_parameter(codec)
    if method.round.exchange is Exchange.BUTTERFLY:
        sent += bytes_per_parameter(result_codec(codec))
    return copies(method.round.exchange, PEERS) * sent


def steps_to(curve: Curve, target: float, steps_between_averages: int) -> int | None:
    """The end of the round in which ``curve`` comes to ``target``; None where it never does."""
    reached = crossing(curve.points, target)
    if reached is None:
        return None
    rounds = -(-(reached - 1e-9) // steps_between_averages)
    return int(rounds) * steps_between_averages


def targets_of(curves: Mapping[str, Sequence[Curve]]) -> dict[int, float]:
    """By seed the lowest loss that every method comes to which averages every `MOST_STEPS` steps or more
    often."""
    ends: dict[int, list[float]] = {}
    for name, drawn in curves.items():
        for curve in drawn if FREQUENT[name].steps <= MOST_STEPS else ():
            ends.setdefault(curve.task.seed, []).append(curve.final)
    return {seed: max(finals) for seed, finals in sorted(ends.items())}


def lines_of(curves: Mapping[str, Sequence[Curve]], targets: Mapping[int, float], model: str) -> list[Line]:
    """One line for each method of ``curves``."""
    lines = []
    for name, drawn in curves.items():
        method = FREQUENT[name]
        line = Line(
            method=name,
            steps_between_averages=method.steps,
            rate=method.rate,
            bytes_of_round=bytes_of_round(name, model),
            payload_of_round=payload_of_round(method),
            bits_per_byte=[curve.final for curve in drawn],
            steps_to_target=[steps_to(curve, targets[curve.task.seed], method.steps) for curve in drawn],
        )
        lines.append(line)
    return lines


def first_by_balance(lines: Sequence[Line]) -> list[tuple[float, str, dict[str, float]]]:
    """For each of `BALANCES` the first line, and by line how many times as long it takes (means)."""
    found = []
    for balance in BALANCES:
        times = {
            line.method: statistics.fmean(each)
            for line in lines
            if (each := line.times(1.0, balance * line.payload_of_round))
        }
        if times:
            first = min(times, key=times.__getitem__)
            found.append((balance, first, {name: time / times[first] for name, time in times.items()}))
    return found


# --- the command --------------------------------------------------------------------------------


def main() -> None:
    """The command."""
    chosen = _arguments()
    known = sweep.load(chosen.curves, _show) if chosen.curves else {}
    wanted = sweep.Wanted(
        methods=chosen.methods,
        seeds=chosen.seeds,
        steps=chosen.steps,
        model=chosen.model,
        rates={name: FREQUENT[name].rate for name in chosen.methods},
    )

    def keep() -> None:
        if chosen.curves:
            sweep.save(chosen.curves, known)

    curves = sweep.sweep(wanted, known, chosen.jobs, sweep.Reporter(_show, keep))
    targets = targets_of(curves)
    lines = lines_of(curves, targets, chosen.model)
    step_seconds = chosen.step_ms / 1000
    _print_lines(lines, step_seconds, chosen.mbit)
    _print_balances(lines)
    if chosen.json:
        settings = {name: getattr(chosen, name) for name in ("steps", "seeds", "model", "mbit", "step_ms")}
        result = {"lines": [asdict(line) for line in lines], "targets": targets, "settings": settings}
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.frequent", description=__doc__, formatter_class=form
    )
    parser.add_argument("--steps", type=int, default=500, help="local steps of every peer (500)")
    parser.add_argument("--seeds", type=_integers, default=[0, 1], help="of model and data (0,1)")
    parser.add_argument("--methods", type=_names, default=list(FREQUENT), help=f"of {', '.join(FREQUENT)}")
    parser.add_argument("--model", choices=sorted(presets), default="nano")
    parser.add_argument("--mbit", type=float, default=500.0, help="rate of the links, each way (500)")
    parser.add_argument("--step-ms", type=float, default=8.0, help="what a local step takes a peer (8)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="curves drawn at once")
    parser.add_argument(
        "--curves", type=Path, help="curves of earlier runs: read from this file, and kept in it"
    )
    parser.add_argument("--json", type=Path, help="write the lines, targets and settings to this file")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.methods if name not in FREQUENT]
    if unknown:
        parser.error(f"there is no method called {', '.join(unknown)}; choose of {', '.join(FREQUENT)}")
    return chosen


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _names(text: str) -> list[str]:
    return text.split(",")


def _show(text: str) -> None:
    print(text, flush=True)


def _print_lines(lines: Sequence[Line], step_seconds: float, mbit: float) -> None:
    seconds: dict[str, float] = {}
    for line in lines:
        if each := line.times(step_seconds, 8 * line.bytes_of_round / (mbit * 1e6)):
            seconds[line.method] = statistics.fmean(each)
    best = min(seconds.values(), default=0.0)
    heads = "kB a round  payload B/number   bits per byte   steps to target  seconds   ratio"
    print(f"\n{'':20} {heads}   at {mbit:g} Mbit/s, {step_seconds * 1000:g} ms a step")
    for line in lines:
        sizes = f"{line.bytes_of_round / 1e3:10.1f} {line.payload_of_round:17.4f}"
        ends = f"{statistics.fmean(line.bits_per_byte):6.3f} ({len(line.bits_per_byte)} seeds)"
        steps = "/".join("-" if reached is None else str(reached) for reached in line.steps_to_target)
        when = seconds.get(line.method)
        time = "-" if when is None else f"{when:8.2f} {when / best:7.2f}"
        print(f"{line.method:20} {sizes} {ends:>15} {steps:>17} {time}")


def _print_balances(lines: Sequence[Line]) -> None:
    print(f"\n{'balance':>8}  first of all             how many times as long the best of each codec takes")
    for balance, first, ratios in first_by_balance(lines):
        best: dict[str, float] = {}
        for name, ratio in ratios.items():
            codec = name.split("-")[0]
            best[codec] = min(ratio, best.get(codec, ratio))
        text = "  ".join(f"{codec} {ratio:.2f}" for codec, ratio in best.items())
        print(f"{balance:8g}  {first:24} {text}")


if __name__ == "__main__":
    main()
