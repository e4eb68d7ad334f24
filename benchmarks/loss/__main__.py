"""Bytes-to-loss and time-to-loss of four peers on real text, ours beside synchronous data parallel, hivemind and DiLoCo.

    python -m benchmarks.loss [--quick] [--links 1000,100,20] [--seeds 0,1,2] [--methods NAME,…] [--json FILE]
    python -m benchmarks.loss --only curves --curves FILE [--jobs N]        loss alone: no network, on as many cores as there are
    python -m benchmarks.loss --curves FILE                                  the rest, on the curves of that file

Shaped links need root (network namespaces); without it everything crosses loopback, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.cast import NotMeasured
from peer.config.run import RunSettings, manifest_of
from peer.data import corpus as corpora
from peer.models.registry import presets
from swarm.identity import KeyPair

from . import sweep, table, wire
from .curves import Curve, step_seconds, text_name
from .lab import Lab
from .methods import METHODS, QUICK
from .table import Finding, Row
from .wire import Cost, Effort

STEPS, QUICK_STEPS = 600, 100
LARGE_MODEL, LARGE_LINK = "small", 20.0
"""10.7 million parameters, and the link on which they must not cost more than a tenth of the time."""
UNITS = "s       MB"
LARGE_PRESETS = {"swarm-int4": "safe", "swarm-sparse256": "wan"}
"""By method the preset of `swarm new` that it is."""


def main() -> int:
    """The command."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # also where a shell started us in the background, deaf to it
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    chosen = _arguments()
    try:
        return _run(chosen)
    except KeyboardInterrupt:
        print("stopped: no process and no namespace is left", file=sys.stderr)
        return 130


def _arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loss", description=__doc__, formatter_class=form
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a minute: one seed, one link, few steps, no sweep of learning rates",
    )
    parser.add_argument("--json", type=Path, help="write rows, costs, findings and settings to this file")
    parser.add_argument("--links", type=_numbers, help="Mbit/s, each way (1000,100,20)")
    parser.add_argument("--seeds", type=_numbers, help="of model and data (0,1,2)")
    parser.add_argument("--methods", type=lambda text: text.split(","), help=f"of {', '.join(METHODS)}")
    parser.add_argument(
        "--only", choices=("curves", "wire"), help="only loss by step, or only the cost of a round"
    )
    parser.add_argument(
        "--curves", type=Path, help="curves of earlier runs: read from this file, and kept in it"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="curves drawn at once")
    parser.add_argument("--steps", type=int, help=f"local steps of every peer ({STEPS})")
    parser.add_argument("--model", choices=sorted(presets), default="nano")
    parser.add_argument(
        "--target", type=float, help="bits per byte; by default what every preset comes to, seed by seed"
    )
    parser.add_argument("--step-ms", type=float, default=8.0, help="what a local step takes a peer (8)")
    chosen = parser.parse_args()
    chosen.links = chosen.links or ([20.0] if chosen.quick else [1000.0, 100.0, 20.0])
    chosen.seeds = [int(seed) for seed in chosen.seeds or ([0] if chosen.quick else [0, 1, 2])]
    chosen.methods = chosen.methods or list(QUICK if chosen.quick else METHODS)
    chosen.steps = chosen.steps or (QUICK_STEPS if chosen.quick else STEPS)
    unknown = [name for name in chosen.methods if name not in METHODS]
    if unknown:
        parser.error(f"there is no method called {', '.join(unknown)}; choose of {', '.join(METHODS)}")
    return chosen


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _run(chosen: argparse.Namespace) -> int:
    began = time.monotonic()
    curves = {} if chosen.only == "wire" else _curves(chosen)
    costs: list[Cost] = []
    shares: dict[str, float] = {}
    settings = _settings(chosen)
    print(
        f"A step of {chosen.model} takes {chosen.step_ms:g} ms by assumption, {settings['step_ms_here']:.1f} ms here",
        flush=True,
    )
    if chosen.only != "curves":
        costs, shares = _wire(chosen, settings)
    targets = dict.fromkeys(chosen.seeds, chosen.target) if chosen.target else table.targets_of(curves)
    made = table.rows(curves, costs, targets, chosen.step_ms / 1000)
    found = [*table.findings(curves, costs, made), *_about_shares(shares)]
    settings |= {
        "targets": targets,
        "rates": {name: drawn[0].task.rate for name, drawn in curves.items() if drawn},
    }
    _print_table(curves, made, targets)
    _print_findings(found)
    if chosen.steps < STEPS:
        print(f"The promises are about runs of {STEPS} steps; after {chosen.steps} they are only a sign.")
    if chosen.json:
        told = {"rows": made, "costs": costs, "findings": found}
        lists = {name: [asdict(one) for one in those] for name, those in told.items()}
        chosen.json.write_text(json.dumps({**lists, "settings": settings}, indent=1))
    print(f"{time.monotonic() - began:.0f} s")
    return 0


def _curves(chosen: argparse.Namespace) -> Mapping[str, Sequence[Curve]]:
    print(
        f"Loss by step: {len(chosen.methods)} methods, {len(chosen.seeds)} seeds, {chosen.steps} steps of every peer",
        flush=True,
    )
    known = sweep.load(chosen.curves, _tell) if chosen.curves else {}
    wanted = sweep.Wanted(
        methods=chosen.methods,
        seeds=chosen.seeds,
        steps=chosen.steps,
        model=chosen.model,
        rates={name: METHODS[name].rate for name in chosen.methods} if chosen.quick else {},
    )
    return sweep.sweep(
        wanted, known, chosen.jobs, _tell, lambda: sweep.save(chosen.curves, known) if chosen.curves else None
    )


def _wire(chosen: argparse.Namespace, settings: dict[str, Any]) -> tuple[list[Cost], dict[str, float]]:
    """What a round costs on every link, and the share of its time that a large model waits."""
    effort = Effort(model=chosen.model, step_seconds=chosen.step_ms / 1000)
    if chosen.quick:
        effort = Effort(
            model=chosen.model, step_seconds=chosen.step_ms / 1000, rounds=4, optimizer_seconds=6.0
        )
    shares: dict[str, float] = {}
    with Lab(wire.PEERS) as lab:
        links = chosen.links if lab.shaped else [0.0]
        print(
            f"Seconds and bytes of a round, a peer: {f'links of {links} Mbit/s' if lab.shaped else 'loopback'}",
            flush=True,
        )
        if not lab.shaped:
            print(
                f"  links cannot be shaped here: {lab.why_not}. Seconds are those of this machine's loopback, without a limit."
            )
        settings |= {
            "shaped": lab.shaped,
            "why_not": lab.why_not,
            "congestion": lab.congestion(),
            "effort": asdict(effort),
        }
        costs = wire.measure(lab, chosen.methods, links, effort, _tell)
        if lab.shaped and not chosen.quick:
            shares = _shares(lab, [name for name in LARGE_PRESETS if name in chosen.methods])
    return costs, shares


def _shares(lab: Lab, names: Sequence[str]) -> dict[str, float]:
    print(
        f"A model of 10.7 million parameters at {LARGE_LINK:g} Mbit/s, rounds as long as 'swarm new' makes them",
        flush=True,
    )
    shares = {}
    for name in names:
        seconds = _round_seconds(LARGE_PRESETS[name])
        try:
            shares[name], cost = wire.share_of_round(lab, name, LARGE_LINK, LARGE_MODEL, seconds)
            size = f"{cost.seconds:6.2f} s, {cost.bytes / 1e6:.2f} MB"
            _tell(f"  {name:28} {size}: {shares[name]:.1%} of the time, rounds of {seconds:g} s")
        except NotMeasured as error:
            _tell(f"  {name:28} not measured ({error})")
    return shares


def _round_seconds(preset: str) -> float:
    """How long the rounds of a run of that preset are with the large model."""
    settings = RunSettings(model=LARGE_MODEL, preset=preset, rounds=500)
    return manifest_of(settings, corpora.build(None).spec, KeyPair.generate()).round.seconds


def _about_shares(shares: Mapping[str, float]) -> list[Finding]:
    promise = f"at {LARGE_LINK:g} Mbit/s a model of 10.7 million parameters waits at most 10 % of the time"
    if not shares:
        return [Finding(promise=promise, found="not measured", holds=None)]
    return [
        Finding(promise=f"{promise} ({name})", found=f"{share:.1%}", holds=share <= 0.1)
        for name, share in shares.items()
    ]


def _settings(chosen: argparse.Namespace) -> dict[str, Any]:
    kept = {
        name: getattr(chosen, name)
        for name in ("quick", "links", "seeds", "methods", "steps", "model", "step_ms")
    }
    about = {"peers": wire.PEERS, "batch": wire.BATCH, "text": text_name(), "cores": os.cpu_count()}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    how = "loss by step in one process; seconds and bytes of a round measured on sockets; time = steps * step_ms + rounds * seconds"
    here = {"step_ms_here": step_seconds(chosen.model) * 1000}
    return {**kept, **here, **about, **versions, "time": how}


# --- on the terminal ----------------------------------------------------------------------------------------


def _tell(text: str) -> None:
    print(text, flush=True)


def _print_table(
    curves: Mapping[str, Sequence[Curve]], made: Sequence[Row], targets: Mapping[int, float]
) -> None:
    if not curves:
        return
    links = sorted({row.link_mbit for row in made}, reverse=True)
    heads = "".join(f"{f'{mbit:g} Mbit/s' if mbit else 'loopback':>20}" for mbit in links)
    print(f"\n{'':28} {'bits per byte':>15} {'rate':>8}{heads}")
    aims = ", ".join(dict.fromkeys(f"{target:.2f}" for target in targets.values()))
    aim = f"until {aims} bits per byte{', by seed' if ',' in aims else ''}" if links else ""
    print(f"{'':28} {'at the end':>15} {'':>8}{f'{UNITS:>20}' * len(links)}   {aim}")
    for name, drawn in curves.items():
        ends = [curve.final for curve in drawn]
        spread = f" ±{statistics.stdev(ends):.3f}" if len(ends) > 1 else ""
        cells = "".join(f"{_cell(made, name, mbit):>20}" for mbit in links)
        print(
            f"{name:28} {f'{statistics.fmean(ends):.3f}{spread}':>15} {drawn[0].task.rate:>8g}{cells}   {METHODS[name].says}"
        )


def _cell(made: Sequence[Row], name: str, mbit: float) -> str:
    mine = [row for row in made if row.method == name and row.link_mbit == mbit]
    when, size = (
        table.mean_of(row.seconds_to_target for row in mine),
        table.mean_of(row.bytes_to_target for row in mine),
    )
    return "-" if when is None or size is None else f"{when:.1f} {size / 1e6:8.2f}"


def _print_findings(found: Sequence[Finding]) -> None:
    print()
    for finding in found:
        print(
            f"{ {True: 'yes', False: 'NO ', None: '-  '}[finding.holds] }  {finding.promise}: {finding.found}"
        )


if __name__ == "__main__":
    sys.exit(main())
